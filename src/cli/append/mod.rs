//! `zombi append`: lines become events, batch by batch, each sent until it is acknowledged. Every event has
//! an idempotency key that follows from its place in the input, so that whatever breaks off (the server, the
//! network, this command) can be run again, and nothing is stored twice.

mod batch;
mod deliver;
mod input;
mod keys;
mod lines;
pub mod records;
mod whole;

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use contracts::name::TableName;
use serde_json::json;
use tokio::time::Instant;

use self::{
    batch::BatchBuilder,
    deliver::{Delivery, DeliveryTotals},
    input::OpenInput,
    keys::KeyRule,
    lines::{Batching, LineQueue},
    records::{Additions, LineFormat},
};
use super::{
    answer::Unanswered,
    exit,
    flags::{ClientFlags, Endurance, Session, code_of_signal},
    output::{Column, ShownItem, StatusLine, text},
};
use crate::shutdown::Signals;

pub(super) const EXAMPLES: &str = "\
A file may be compressed (.zst, .gz). After a break, run the same command again: of a file, and of any \
input with --source, --idempotency-key hash or a field, what is stored already is not stored twice, and \
the summary says how many `duplicates` there were. Any other input that is sent again is stored again.

Examples:
  zombi append orders -f orders.ndjson --format json --idempotency-key id
  tail -F app.log | zombi append logs --header host=web-1
  zombi read orders -o json | zombi append copy --format records";

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// A line is the text of an event
    Lines,
    /// A line is a JSON value, the payload of an event
    Json,
    /// A line is a whole event, as `zombi read -o json` prints it
    Records,
    /// All of the input is the payload of one event
    Raw,
}

impl InputFormat {
    /// What its lines are, if it has any.
    fn of_lines(self) -> Option<LineFormat> {
        match self {
            Self::Lines => Some(LineFormat::Text),
            Self::Json => Some(LineFormat::Json),
            Self::Records => Some(LineFormat::Records),
            Self::Raw => None,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct AppendArgs {
    /// The table; the first event makes it
    #[arg(value_parser = TableName::parse)]
    table: TableName,
    /// The file to read; - is the standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// What a line is
    #[arg(long, value_enum, default_value = "lines")]
    format: InputFormat,
    /// The partition of the events; one that names another itself is refused
    #[arg(long)]
    partition: Option<u32>,
    /// The key of the events that have none: it chooses the partition
    #[arg(long)]
    key: Option<String>,
    /// A header of the events that do not have it themselves; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// What the idempotency keys of events that have none are made from: the source and the line's number
    /// (the default for files), a hash of the line, or a field of it
    #[arg(long, value_name = "line|hash|FIELD")]
    idempotency_key: Option<String>,
    /// How keys by line name the input [default: the file's name; a pipe has none]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Append only if this is the partition's next offset
    #[arg(long, value_name = "OFFSET")]
    expected_offset: Option<u64>,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// Appends an input to a table.
pub(super) async fn append(args: AppendArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let keys = KeyRule::new(args.idempotency_key.as_deref(), args.source.as_deref(), &args.file)
        .map_err(Unanswered::Usage)?;
    let input = OpenInput::open(&args.file, args.format != InputFormat::Raw).map_err(Unanswered::Usage)?;
    let status = match input.bytes() {
        Some(bytes) => StatusLine::of_bytes(bytes),
        None => StatusLine::waiting("no events yet"),
    };
    let mut session = args.client.clone().over(before).session(Endurance::WorksOn, status)?;
    session.refuse_payload()?;
    if args.file == Path::new("-") && io::stdin().is_terminal() {
        session.status.note("reading from the terminal; Ctrl-D ends it");
    }
    let (started, is_repeatable) = (Instant::now(), keys.is_repeatable());
    let mut delivery = Delivery {
        client: &session.client,
        table: &args.table,
        partition: args.partition,
        expected_offset: args.expected_offset,
        totals: DeliveryTotals::default(),
    };
    let mut signals = Signals::listen().map_err(system)?;
    let ended = {
        let work = run(&args, keys, input, &mut delivery, &session.status);
        tokio::select! {
            done = work => Ok(done),
            name = signals.next() => Err(name),
        }
    };
    let totals = delivery.totals;
    session.status.end();
    if !matches!(ended, Ok(Ok(()))) && totals.count > 0 {
        let next = if is_repeatable {
            "run the same command again to go on"
        } else {
            "another run would store them again, as this input had no name (--source)"
        };
        session.status.note(&format!("{} events are stored; {next}", text::count(totals.count)));
    }
    if totals.erased > 0 {
        let count = text::count(totals.erased);
        session.status.note(&format!("lines left out, as their events were erased: {count}"));
    }
    let code = match ended {
        Ok(done) => done.map(|()| exit::DONE)?,
        Err(name) => code_of_signal(name),
    };
    match print_summary(&mut session, &args.table, totals, started.elapsed().as_secs_f64()) {
        // Nobody reads it any more; what has ended the command is said all the same.
        Err(_) if code != exit::DONE => Ok(code),
        printed => printed.map(|()| code),
    }
}

/// An error of the system.
fn system(error: io::Error) -> Unanswered {
    Unanswered::Failed(error.to_string())
}

/// Appends all of it.
async fn run(
    args: &AppendArgs,
    keys: KeyRule,
    input: OpenInput,
    delivery: &mut Delivery<'_>,
    status: &StatusLine,
) -> Result<(), Unanswered> {
    let additions = Additions { key: args.key.clone(), headers: args.headers.clone() };
    let Some(format) = args.format.of_lines() else {
        return whole::append(&args.file, additions, keys, input, delivery).await;
    };
    // The batches of a file are the same each time that it is read.
    let batching = if input.bytes().is_some() { Batching::Full } else { Batching::Prompt };
    let queue = LineQueue::new(input.read_lines().map_err(system)?, batching);
    lines::append(queue, BatchBuilder::new(format, additions, keys), delivery, status).await
}

const COLUMNS: &[Column] = &[
    Column::text("table"),
    Column::number("events"),
    Column::number("duplicates"),
    Column::number("bytes"),
    Column::number("seconds"),
    Column::number("events/s"),
];

fn print_summary(
    session: &mut Session,
    table: &TableName,
    totals: DeliveryTotals,
    seconds: f64,
) -> Result<(), Unanswered> {
    let DeliveryTotals { count, duplicates, bytes, .. } = totals;
    let json = json!({
        "table": table.as_str(),
        "count": count,
        "duplicates": duplicates,
        "bytes": bytes,
        "seconds": (seconds * 1000.0).round() / 1000.0,
    });
    let item = ShownItem {
        name: table.to_string(),
        json: json.to_string(),
        cells: vec![
            table.to_string(),
            text::count(count),
            text::count(duplicates),
            text::bytes(bytes),
            format!("{seconds:.1}"),
            text::count(text::rate(count, seconds)),
        ],
    };
    session.output.items(COLUMNS, &[item])?;
    Ok(())
}
