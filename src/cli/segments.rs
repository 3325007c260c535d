//! `zombi segments`: which of a table's segments exist in S3, as the server says.

use clap::Args;
use contracts::{
    clock::{Clock, SystemClock, TimestampMs},
    name::TableName,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    answer::Unanswered,
    client::ClientRequest,
    exit,
    flags::{ClientFlags, Endurance, Session},
    output::{Column, ShownItem, StatusLine, text},
    times::{self, TimeBound},
};

#[derive(Debug, Args)]
pub(super) struct SegmentsArgs {
    /// The table
    #[arg(value_parser = TableName::parse)]
    table: TableName,
    /// Of this partition only
    #[arg(long)]
    partition: Option<u32>,
    /// Only those with events from then on: how long ago (1h), RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = TimeBound::parse, allow_negative_numbers = true)]
    since: Option<TimeBound>,
    /// Only those with events before then
    #[arg(long, value_name = "TIME", value_parser = TimeBound::parse, allow_negative_numbers = true)]
    until: Option<TimeBound>,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

#[derive(Debug, Deserialize)]
struct SegmentsPage {
    segments: Vec<Box<RawValue>>,
    has_more: bool,
    next: Option<Box<RawValue>>,
}

/// What is shown of a segment.
#[derive(Debug, Deserialize)]
struct SegmentSeen {
    url: String,
    partition: u32,
    start: u64,
    end: u64,
    events: u64,
    bytes: u64,
    min_timestamp_ms: Option<TimestampMs>,
    max_timestamp_ms: Option<TimestampMs>,
    sha256: Option<String>,
}

const COLUMNS: &[Column] = &[
    Column::number("partition"),
    Column::number("start"),
    Column::number("end"),
    Column::number("events"),
    Column::number("bytes"),
    Column::text("first"),
    Column::text("last"),
    Column::wide("sha256"),
    Column::wide("url"),
];

/// Lists a table's segments.
pub(super) async fn list(args: SegmentsArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let mut session = args.client.over(before).session(Endurance::Asks, StatusLine::none())?;
    session.refuse_payload()?;
    let now_ms = SystemClock.now_ms();
    let first = ClientRequest::get(format!("/tables/{}/segments", args.table))
        .with_some("partition", args.partition)
        .with_some("since", args.since.map(|since| since.parameter(now_ms)))
        .with_some("until", args.until.map(|until| until.parameter(now_ms)));
    let mut after = None;
    let mut count = 0;
    loop {
        let request = first.clone().with_some("after", after);
        let page: SegmentsPage = session.client.ask_json(&request).await?;
        let items =
            page.segments.iter().map(|segment| item(&session, segment)).collect::<Result<Vec<_>, _>>()?;
        count += items.len();
        if !items.is_empty() {
            session.output.items(COLUMNS, &items)?;
        }
        after = page.next.filter(|_| page.has_more).map(|next| as_parameter(&next));
        if after.is_none() {
            break;
        }
    }
    if count == 0 && session.output.is_for_people() {
        session.status.note("no event of this table is in S3 yet, or none that is asked for");
    }
    Ok(exit::DONE)
}

/// The value of a parameter, which is text or a number.
fn as_parameter(next: &RawValue) -> String {
    serde_json::from_str(next.get()).unwrap_or_else(|_| next.get().to_owned())
}

fn item(session: &Session, json: &RawValue) -> Result<ShownItem, Unanswered> {
    let seen: SegmentSeen =
        serde_json::from_str(json.get()).map_err(|error| session.client.strange(&error))?;
    let time = |time: Option<TimestampMs>| time.map(times::shown).unwrap_or_default();
    Ok(ShownItem {
        cells: vec![
            seen.partition.to_string(),
            seen.start.to_string(),
            seen.end.to_string(),
            text::count(seen.events),
            text::bytes(seen.bytes),
            time(seen.min_timestamp_ms),
            time(seen.max_timestamp_ms),
            seen.sha256.unwrap_or_default(),
            seen.url.clone(),
        ],
        name: seen.url,
        json: json.get().to_owned(),
    })
}
