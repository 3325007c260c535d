//! `zombi read`: a table, or a part of it, page by page.

use std::path::PathBuf;

use clap::Args;
use contracts::{
    clock::{Clock, SystemClock},
    name::TableName,
};

use super::{
    answer::Unanswered,
    client::{ClientError, LostOffsets, PageReader},
    cursor_file::CursorFile,
    exit,
    flags::{ClientFlags, Endurance, Session},
    output::{StatusLine, text},
    times::TimeBound,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  zombi read orders --since 1h
  zombi read orders --partition 0 --offset 1200 -n 10 -o wide
  zombi read orders --key customer-7 -o payload | jq .
  zombi read orders --cursor-file place >> orders.ndjson    # each run goes on where the last one ended";

#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// The table
    #[arg(value_parser = TableName::parse)]
    table: TableName,
    /// Of this partition only
    #[arg(long)]
    partition: Option<u32>,
    /// From this offset of the partition on
    #[arg(long, requires = "partition", conflicts_with = "since")]
    offset: Option<u64>,
    /// From then on: how long ago (1h), RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = TimeBound::parse, allow_negative_numbers = true)]
    since: Option<TimeBound>,
    /// Up to then, and not at it
    #[arg(long, value_name = "TIME", value_parser = TimeBound::parse, allow_negative_numbers = true)]
    until: Option<TimeBound>,
    /// Only events with this key; one that ends in * is a beginning
    #[arg(long)]
    key: Option<String>,
    /// At most so many events
    #[arg(short = 'n', long = "limit", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Keeps the place: the next run with this file goes on where this one ends, with its filters
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

/// Reads a table to its end, as it is now.
pub(super) async fn read(args: ReadArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let now_ms = SystemClock.now_ms();
    let parameters = [
        ("partition", args.partition.map(|partition| partition.to_string())),
        ("offset", args.offset.map(|offset| offset.to_string())),
        ("since", args.since.map(|since| since.parameter(now_ms))),
        ("until", args.until.map(|until| until.parameter(now_ms))),
        ("key", args.key),
    ];
    let first = parameters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let cursor_file = args.cursor_file.as_deref().map(CursorFile::new);
    let cursor = cursor_file.as_ref().map(CursorFile::load).transpose()?.flatten();
    let flags = args.client.over(before);
    let mut session = flags.session(Endurance::Asks, StatusLine::none())?;
    if !session.output.is_terminal() {
        session.status = StatusLine::waiting("no events yet");
    }
    let Session { client, output, status } = &mut session;
    let mut pages = PageReader::new(client, args.table.clone(), first, args.limit).at(cursor);
    let mut count = 0;
    while let Some(page) = pages.next().await.map_err(expired)? {
        note_lost(status, &page.lost);
        count += page.records.len() as u64;
        output.records(args.table.as_str(), &page.records)?;
        output.flush()?;
        // Only what is out is behind the place.
        if let (Some(file), Some(cursor)) = (&cursor_file, pages.cursor()) {
            file.save(cursor)?;
        }
        status.say(&format!("{} events", text::count(count)));
    }
    status.end();
    if count == 0 && output.is_for_people() {
        status.note("there is no such event");
    }
    Ok(exit::DONE)
}

/// Says which events cannot be shown any more.
pub(super) fn note_lost(status: &StatusLine, lost: &[LostOffsets]) {
    for LostOffsets { partition, start, end } in lost {
        status.note(&format!(
            "partition {partition}: the offsets from {start} up to {end} were lost with a volume"
        ));
    }
}

/// Adds to a refusal for a place that no longer exists where the read could go on.
fn expired(error: ClientError) -> Unanswered {
    let next = error.refusal().and_then(|refusal| refusal.text("next_cursor")).map(str::to_owned);
    match next {
        Some(next) => Unanswered::Failed(format!(
            "{error}\nTo go on with what is left, put this into the file of --cursor-file:\n{next}"
        )),
        None => error.into(),
    }
}
