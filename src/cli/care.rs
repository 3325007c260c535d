//! `zombi backup`, `restore` and `manifest rebuild`: their arguments, and what they print.

use std::{io::Write, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    flags::SettingFlags,
    look::{look, watched},
    output::StatusLine,
    times,
};
use crate::{care, inspect::InspectError, settings::Settings};
use cold_s3::backup::{
    BackupReport, RebuildOptions, RebuildReport, RestoreOptions, RestorePoint, RestoreReport, SaveOptions,
};
use contracts::{
    clock::{Clock, SystemClock},
    name::{Partition, TableName},
    sequence::OffsetRange,
};

/// What `zombi help backup` ends with.
pub(super) const BACKUP_EXAMPLES: &str = "\
Examples:
  zombi backup --to s3://backups/zombi        # s3.bucket and s3.prefix; again: only what is new
  zombi backup --to /mnt/disk/zombi --dry-run
  zombi verify s3://backups/zombi

It is consistent at one manifest, of a cluster at one of each shard, and never stops writers. Killed, it is
run again.";

/// What `zombi help restore` ends with.
pub(super) const RESTORE_EXAMPLES: &str = "\
Examples:
  zombi restore --from s3://backups/zombi --to s3://events/zombi-2 --source-is-gone
  zombi restore --to s3://events/yesterday --at 2026-11-25T14:00:00Z
  zombi restore --from s3://backups/zombi --to s3://events/orders --table orders
  zombi restore --from s3://backups/cluster --to s3://events/one --single

A cluster stays one, with as many shards, unless --single is there. Killed, it is run again with the same
words.";

/// What `zombi help manifest rebuild` ends with.
pub(super) const REBUILD_EXAMPLES: &str = "\
Examples:
  zombi manifest rebuild --dry-run
  zombi manifest rebuild s3://events/zombi

It cannot know consumer offsets, settings of tables, which tables were deleted, what had expired, and erasures
that were not done.";

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The store: s3://bucket/prefix or a directory; s3.bucket and s3.prefix if left out
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Where the backup goes: s3://bucket/prefix or a directory
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// A backup or a store: s3://bucket/prefix or a directory; s3.bucket and s3.prefix if left out
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// The new store's place, which must be empty
    #[arg(long, value_name = "URL")]
    to: String,
    /// To which state: a manifest's number, or a time (2026-11-25T14:00:00Z); the last if left out
    #[arg(long, value_name = "NUMBER|TIME", value_parser = parse_point)]
    at: Option<RestorePoint>,
    /// Only these tables
    #[arg(long = "table", value_name = "TABLE", num_args = 1.., value_parser = TableName::parse)]
    tables: Vec<TableName>,
    /// Nobody has seen events of the source that are not restored: offsets go on at the end, without a gap
    #[arg(long)]
    source_is_gone: bool,
    /// Make one Zombi's store of a cluster
    #[arg(long)]
    single: bool,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Args)]
pub(super) struct RebuildArgs {
    /// The bucket and prefix (s3://bucket/prefix), or a directory; s3.bucket and s3.prefix if left out
    url: Option<String>,
    /// The store that a volume holds which is still there: its log names it
    #[arg(long, value_name = "ID")]
    store_id: Option<Uuid>,
    /// Leave damaged segments out; their offsets are declared lost
    #[arg(long)]
    skip_damaged: bool,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    settings: SettingFlags,
}

// Without a comment that clap would take for a description of the command.
#[derive(Debug, Clone, Copy, Args)]
struct RunArgs {
    /// Only say what would be done; nothing is written
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl RunArgs {
    /// Prints a result.
    fn print(self, out: &mut dyn Write, text: &str, json: &Value) -> Result<(), InspectError> {
        if self.json {
            return Ok(writeln!(out, "{json}")?);
        }
        let note = if self.dry_run { "--dry-run: nothing was written\n" } else { "" };
        Ok(write!(out, "{text}{note}")?)
    }
}

fn parse_point(text: &str) -> Result<RestorePoint, String> {
    if let Ok(number) = text.parse() {
        return Ok(RestorePoint::Manifest(number));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(RestorePoint::Time(time.as_millisecond())),
        Err(_) => Err("write the number of a manifest, or a time: 2026-11-25T14:00:00Z".to_owned()),
    }
}

/// Makes or renews a backup.
pub(super) fn backup(args: BackupArgs, before: SettingFlags) -> ExitCode {
    let BackupArgs { from, to, run, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let options = SaveOptions { dry_run: run.dry_run, now_ms: SystemClock.now_ms() };
        let report = watched(async |status: &StatusLine| {
            care::save(settings, (from.as_deref(), to.as_str()), options, status).await
        })
        .await?;
        run.print(out, &backup_text(&report), &backup_json(&report))
    })
}

fn backup_text(report: &BackupReport) -> String {
    let BackupReport { manifest, manifest_ms, shards, segments, events, .. } = report;
    let time = times::shown(*manifest_ms);
    let at = match shards.len() {
        0 => format!("consistent at manifest {manifest} of {time}"),
        count => format!("{count} shards, each consistent at a manifest of its own, the earliest of {time}"),
    };
    format!(
        "{at}: {segments} segments with {events} events\n\
         copied {} objects of {} bytes and {} manifests; {} objects were there already\n",
        report.copied_objects, report.copied_bytes, report.copied_manifests, report.held_objects,
    )
}

fn backup_json(report: &BackupReport) -> Value {
    // A cluster has no manifest that is all of its shards'.
    let manifest = report.shards.is_empty().then_some(report.manifest);
    json!({
        "store_id": report.store_id, "manifest": manifest, "manifest_ms": report.manifest_ms,
        "shards": report.shards, "segments": report.segments, "events": report.events,
        "copied_objects": report.copied_objects, "copied_bytes": report.copied_bytes,
        "held_objects": report.held_objects,
        "copied_manifests": report.copied_manifests,
    })
}

/// Restores a store.
pub(super) fn restore(args: RestoreArgs, before: SettingFlags) -> ExitCode {
    let RestoreArgs { from, to, at, tables, source_is_gone, single, run, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let now_ms = SystemClock.now_ms();
        let (point, dry_run) = (at.unwrap_or_default(), run.dry_run);
        let options = RestoreOptions { point, tables, source_is_gone, single, dry_run, now_ms };
        let report = watched(async |status: &StatusLine| {
            care::restore(settings, (from.as_deref(), to.as_str()), options, status).await
        })
        .await?;
        run.print(out, &restore_text(&report, single), &restore_json(&report))
    })
}

fn restore_text(report: &RestoreReport, single: bool) -> String {
    let RestoreReport { manifest, manifest_ms, shards, tables, partitions, segments, events, .. } = report;
    let time = times::shown(*manifest_ms);
    let state = match shards {
        0 => format!("the state after manifest {manifest} of {time}"),
        count => format!("the states of {count} shards, the earliest of {time}"),
    };
    let mut text = format!(
        "{state}: {tables} tables, {partitions} partitions, {segments} segments ({} cut) with {events} \
         events\n",
        report.cut_segments,
    );
    match report.store_id {
        Some(id) if *shards > 0 && !single => {
            text.push_str(&format!("it is the new cluster {id}: start its pods with empty volumes\n"));
        }
        Some(id) => text.push_str(&format!("it is the new store {id}: start it with an empty volume\n")),
        None => {}
    }
    if report.partitions_with_a_gap > 0 {
        text.push_str(&format!(
            "{} partitions will go on behind a gap, since the source may have given the offsets in it; where \
             nobody has seen such events, --source-is-gone leaves none\n",
            report.partitions_with_a_gap
        ));
    }
    text
}

fn restore_json(report: &RestoreReport) -> Value {
    let manifest = (report.shards == 0).then_some(report.manifest);
    json!({
        "store_id": report.store_id, "manifest": manifest, "manifest_ms": report.manifest_ms,
        "shards": report.shards, "tables": report.tables, "partitions": report.partitions,
        "segments": report.segments,
        "cut_segments": report.cut_segments, "events": report.events,
        "partitions_with_a_gap": report.partitions_with_a_gap,
    })
}

/// Makes manifests anew.
pub(super) fn rebuild(args: RebuildArgs, before: SettingFlags) -> ExitCode {
    let RebuildArgs { url, store_id, skip_damaged, run, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let now_ms = SystemClock.now_ms();
        let options = RebuildOptions { dry_run: run.dry_run, store_id, skip_damaged, now_ms };
        let report = watched(async |status: &StatusLine| {
            care::rebuild(settings, url.as_deref(), options, status).await
        })
        .await?;
        run.print(out, &rebuild_text(&report), &rebuild_json(&report))
    })
}

fn rebuild_text(report: &RebuildReport) -> String {
    let RebuildReport { partitions, segments, cut_segments, superseded, events, .. } = report;
    let mut text = format!(
        "{partitions} partitions, {segments} segments ({cut_segments} cut) with {events} events; \
         {superseded} segments hold nothing that others do not\n"
    );
    for (partition, hole) in &report.holes {
        text.push_str(&format!("declared lost, as no segment holds them: {partition} {hole}\n"));
    }
    for (partition, range) in &report.conflicts {
        text.push_str(&format!(
            "cannot know: segments have different events at {partition} {range}; those of the last writer \
             are named, and another may have been acknowledged\n"
        ));
    }
    for finding in &report.damaged {
        text.push_str(&format!("WRONG and left out: {finding}\n"));
    }
    for key in &report.foreign {
        text.push_str(&format!("no segment, and left alone: {key}\n"));
    }
    match report.store_id {
        Some(_) if report.shards > 0 => {
            text.push_str(&format!("the manifests of {} shards are there\n", report.shards));
        }
        Some(store_id) => text.push_str(&format!("the manifests are there, of store {store_id}\n")),
        None => {}
    }
    text + "not known, and begun anew: consumer offsets, settings of tables, deleted tables, what had \
            expired, erasures that were not done, offsets given behind the last segment (each partition goes \
            on behind a gap)\n"
}

fn rebuild_json(report: &RebuildReport) -> Value {
    let ranges = |ranges: &[(Partition, OffsetRange)]| {
        let shown = ranges.iter().map(|(partition, range)| {
            json!({
                "table": partition.table.as_str(), "partition": partition.number, "start": range.start,
                "end": range.end,
            })
        });
        shown.collect::<Vec<_>>()
    };
    json!({
        "store_id": report.store_id, "shards": report.shards, "partitions": report.partitions,
        "segments": report.segments,
        "cut_segments": report.cut_segments, "superseded": report.superseded, "events": report.events,
        "holes": ranges(&report.holes), "conflicts": ranges(&report.conflicts), "damaged": report.damaged,
        "foreign": report.foreign,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_a_number_or_a_time() {
        assert_eq!(parse_point("512"), Ok(RestorePoint::Manifest(512)));
        assert_eq!(parse_point("1970-01-01T00:00:01.5Z"), Ok(RestorePoint::Time(1500)));
        assert_eq!(parse_point("1970-01-01T01:00:00+01:00"), Ok(RestorePoint::Time(0)));
        for text in ["", "yesterday", "-1", "2026-11-25", "2026-11-25T14:00:00"] {
            assert!(parse_point(text).is_err(), "{text}");
        }
    }
}
