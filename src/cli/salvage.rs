//! `zombi salvage`: its arguments, and what it prints.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    flags::SettingFlags,
    look::{look, watched_beside},
    output::StatusLine,
};
use crate::{
    inspect::InspectError,
    salvage::{self, SalvageOptions, Salvaged},
    settings::Settings,
};
use contracts::{
    erasure::{ErasedPart, Erasure},
    name::TableName,
};

/// What `zombi help salvage` ends with.
pub(super) const EXAMPLES: &str = "\
Examples:
  zombi salvage --data-dir /var/lib/zombi --dry-run
  zombi salvage --data-dir /var/lib/zombi --table orders > orders.ndjson
  curl -s -X POST localhost:8080/tables/orders -H 'Content-Type: application/x-ndjson' -T orders.ndjson

Offsets and partitions are those that the volume gave; an offset is ignored where an event is posted.";

#[derive(Debug, Args)]
pub(super) struct SalvageArgs {
    /// Which table; needed if several have events that only the volume, or a pod's volumes, have
    #[arg(long, value_parser = TableName::parse)]
    table: Option<TableName>,
    /// Only count the events of each table that has some; none is printed
    #[arg(long)]
    dry_run: bool,
    /// Print the counts as one JSON object; beside events, on the standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Prints what only a volume has.
pub(super) fn salvage(args: SalvageArgs, before: SettingFlags) -> ExitCode {
    let SalvageArgs { table, dry_run, json, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let options = SalvageOptions { table, dry_run };
        let salvaged = watched_beside(!dry_run, async |status: &StatusLine| {
            Box::pin(salvage::salvage(settings, options, status, out)).await
        })
        .await?;
        match json {
            true => print_json(&salvaged, dry_run, out),
            false => print_text(&salvaged, dry_run, out),
        }
    })
}

fn print_json(salvaged: &Salvaged, is_dry_run: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let shown = salvaged_json(salvaged);
    if is_dry_run {
        return Ok(writeln!(out, "{shown}")?);
    }
    // The events are to be posted as they are. Where nobody listens any more, they are printed all the same.
    let _ = writeln!(io::stderr(), "{shown}");
    Ok(())
}

fn salvaged_json(salvaged: &Salvaged) -> Value {
    let Salvaged { tables, erasures, has_bucket } = salvaged;
    let tables = tables.iter().map(|(table, events)| json!({"table": table.as_str(), "events": events}));
    let tables: Vec<Value> = tables.collect();
    json!({"tables": tables, "erasures": erasures, "has_bucket": has_bucket})
}

fn print_text(salvaged: &Salvaged, is_dry_run: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let Salvaged { tables, erasures, has_bucket } = salvaged;
    let status = StatusLine::none();
    for erasure in erasures {
        status.note(&erasure_text(erasure));
    }
    if !has_bucket {
        status.note("s3.bucket is not set: these are all events that the volume does not know to be in S3");
    }
    for (table, events) in tables {
        let text = format!("{events} events of {table} that only this volume has");
        match is_dry_run {
            true => writeln!(out, "{text}")?,
            false => status.note(&text),
        }
    }
    if tables.is_empty() {
        status.note("this volume has no event that is not in S3");
    }
    if is_dry_run {
        writeln!(out, "--dry-run: no event was printed")?;
    }
    Ok(())
}

/// What an erasure was to erase, so that it can be asked for again.
fn erasure_text(erasure: &Erasure) -> String {
    let part = |part: &ErasedPart| {
        let ranges: Vec<String> = part.ranges().map(|range| range.to_string()).collect();
        format!("partition {} {}", part.partition, ranges.join(" "))
    };
    let parts: Vec<String> = erasure.parts.iter().map(part).collect();
    format!(
        "erasure {} of {} events of {} ({}) was asked for here and the manifests do not list it: ask for it \
         again where the store goes on; {}",
        erasure.id,
        erasure.events,
        erasure.table,
        erasure.reason.as_deref().unwrap_or("no reason given"),
        parts.join(", "),
    )
}
