//! `zombi bench`: appends to a table as fast as asked, says how long that took, then reads everything back
//! and compares it with what was acknowledged.

mod load;
mod payload;
mod read_back;

use std::time::Duration;

use clap::Args;
use contracts::name::TableName;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use self::{
    load::{LoadPlan, LoadResult},
    payload::BenchRun,
    read_back::{ReadBack, ReadRange, end_of, read_back},
};
use super::{
    answer::Unanswered,
    exit,
    flags::{ClientFlags, Endurance, Session},
    output::{Column, ShownItem, StatusLine, text},
    times,
};

pub(super) const EXAMPLES: &str = "\
Latencies are those of requests, counted from when they were due. Exits with 1 if what is read back is not \
what was acknowledged. The events stay in the table: `zombi table delete TABLE --yes`.

Example: zombi bench scratch --connections 32 --size 512 --rate 5000 --duration 30s";

/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
/// Percentiles that are shown.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The table; one of its own, since the events stay there
    #[arg(value_parser = TableName::parse)]
    table: TableName,
    /// Requests at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    connections: u32,
    /// Bytes of a payload; fewer than 55 become 55, which say whose it is
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    size: u32,
    /// Events a second in all; as many as there can be if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = times::parse_length)]
    duration: Duration,
    /// Events of a request
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    batch: u32,
    /// The partition
    #[arg(long, default_value_t = 0)]
    partition: u32,
    #[command(flatten, next_help_heading = "Server and output")]
    client: ClientFlags,
}

const COLUMNS: &[Column] = &[
    Column::text("table"),
    Column::number("events"),
    Column::number("events/s"),
    Column::number("bytes/s"),
    Column::number("errors"),
    Column::number("p50 ms"),
    Column::number("p90 ms"),
    Column::number("p99 ms"),
    Column::number("p99.9 ms"),
    Column::number("max ms"),
    Column::text("read back"),
];

/// Measures, and prints what was found.
pub(super) async fn bench(args: BenchArgs, before: ClientFlags) -> Result<u8, Unanswered> {
    let status = StatusLine::waiting("appending");
    let mut session = args.client.clone().over(before).session(Endurance::Asks, status)?;
    session.refuse_payload()?;
    let run = BenchRun::new(args.size as usize);
    let begin = end_of(&session.client, &args.table, args.partition).await?;
    let plan = LoadPlan {
        table: args.table.clone(),
        partition: args.partition,
        connections: args.connections,
        batch: args.batch,
        rate: args.rate,
        duration: args.duration.min(LONGEST),
    };
    let loaded = load::run(&session.client, &plan, run, &session.status).await?;
    session.status.say("reading back");
    let end = end_of(&session.client, &args.table, args.partition).await?;
    let range = ReadRange { table: &args.table, partition: args.partition, begin, end };
    let compared = read_back(&session.client, range, run, args.batch, &loaded).await?;
    session.status.end();
    print(&mut session, &args.table, &loaded, compared)?;
    if let Some(error) = &loaded.first_error {
        session.status.note(&format!("{} requests failed, the first with: {error}", loaded.errors));
    }
    if !compared.is_right {
        session.status.note(&format!(
            "WRONG: {} events were acknowledged and {} of this run were read back, or their bytes differ",
            loaded.events, compared.events
        ));
    }
    Ok(if compared.is_right && loaded.events > 0 { exit::DONE } else { exit::FAILED })
}

fn print(
    session: &mut Session,
    table: &TableName,
    loaded: &LoadResult,
    compared: ReadBack,
) -> Result<(), Unanswered> {
    let seconds = loaded.took.as_secs_f64();
    let (events_rate, bytes_rate) = (text::rate(loaded.events, seconds), text::rate(loaded.bytes, seconds));
    let latencies = latencies(&loaded.micros);
    let latency_ms: Map<String, Value> =
        latencies.iter().map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect();
    let json = json!({
        "table": table.as_str(),
        "events": loaded.events,
        "bytes": loaded.bytes,
        "requests": loaded.micros.len(),
        "errors": loaded.errors,
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "events_per_sec": events_rate,
        "bytes_per_sec": bytes_rate,
        "latency_ms": latency_ms,
        "read_back": {"events": compared.events, "right": compared.is_right},
    });
    let mut cells = vec![
        table.to_string(),
        text::count(loaded.events),
        text::count(events_rate),
        text::bytes(bytes_rate),
        text::count(loaded.errors),
    ];
    cells.extend(latencies.iter().map(|(_, ms)| format!("{ms:.2}")));
    cells.push(if compared.is_right { "right" } else { "WRONG" }.to_owned());
    session.output.items(COLUMNS, &[ShownItem { name: table.to_string(), json: json.to_string(), cells }])?;
    Ok(())
}

/// The percentiles and the maximum, in milliseconds.
fn latencies(micros: &Histogram<u64>) -> Vec<(&'static str, f64)> {
    let ms = |micros: u64| micros as f64 / 1000.0;
    let percentiles =
        PERCENTILES.into_iter().map(|(name, percent)| (name, ms(micros.value_at_percentile(percent))));
    percentiles.chain([("max", ms(micros.max()))]).collect()
}
