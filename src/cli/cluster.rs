//! `zombi cluster`: the store of one Zombi becomes a cluster's and back, a cluster gets other pods, a
//! lost log is begun anew, and copies are compared. Pods that are concerned must be stopped.

use std::{
    fs::File,
    io::{BufReader, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    flags::SettingFlags,
    look::{look, look_with},
};
use crate::{
    alike::{self, Compared, WantedRanges},
    cluster::placement,
    inspect::{self, InspectError},
    server::{
        ServerError,
        leave::LeftLogs,
        reset_log::{LogReset, reset_log},
    },
    settings::{Reads, Settings},
};
use cold_s3::{
    backup,
    cluster::{self, ClusterRecord},
    s3::Objects,
};
use contracts::clock::{Clock, SystemClock};

/// What `zombi help cluster` ends with.
pub(super) const EXAMPLES: &str = "\
Examples:
  zombi cluster adopt --set cluster.pods=3 --set cluster.copies=1   # from one Zombi that was stopped cleanly
  zombi cluster resize --pods 4               # then cluster.pods=4 for all pods
  zombi cluster leave                         # back to one Zombi
  zombi cluster reset-log --shard 7           # with the volume that has applied most of the lost log
  zombi cluster verify > here.jsonl           # with the volume of a stopped pod; then with another's:
  zombi cluster verify --with here.jsonl

No object is copied or renamed. If one of them is killed, run it again with the same arguments.";

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Deal the tables of one Zombi's store out to the shards of a cluster
    Adopt(OfflineArgs),
    /// Put the shards of a cluster together as one Zombi's store
    Leave(OfflineArgs),
    /// Give the cluster another number of pods
    Resize {
        /// How many pods it is to have
        #[arg(long, value_name = "M")]
        pods: u32,
        #[command(flatten)]
        args: OfflineArgs,
    },
    /// Compare what this pod's copies of shards hold with another pod's, by hash; exits with 1 if they differ
    Verify {
        /// What the same command has printed for the other pod; without it, what this pod holds is printed
        #[arg(long, value_name = "FILE")]
        with: Option<PathBuf>,
        /// Only this shard
        #[arg(long, value_name = "N")]
        shard: Option<u32>,
        /// Events of each range that is hashed: the same for both
        #[arg(long, value_name = "COUNT", default_value_t = 256)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        events: u64,
        #[command(flatten)]
        args: OfflineArgs,
    },
    /// Begin a shard's lost log anew; needs all settings of the pod, and its volume
    ResetLog {
        /// Which shard
        #[arg(long, value_name = "N")]
        shard: u32,
        #[command(flatten)]
        args: OfflineArgs,
    },
}

// Without a comment that clap would take for a description of the command.
#[derive(Debug, Args)]
pub(super) struct OfflineArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Runs one of them.
pub(super) fn run(command: ClusterCommand, before: SettingFlags) -> ExitCode {
    match command {
        ClusterCommand::Adopt(args) => adopt(args, before),
        ClusterCommand::Leave(args) => leave(args, before),
        ClusterCommand::Resize { pods, args } => resize(pods, args, before),
        ClusterCommand::Verify { with, shard, events, args } => {
            verify(with, WantedRanges { shard, events }, args, before)
        }
        ClusterCommand::ResetLog { shard, args } => begin_log_anew(shard, args, before),
    }
}

/// The bucket of the settings, which holds neither a backup nor half a restore.
async fn store(settings: &Settings) -> Result<Objects, InspectError> {
    let objects = inspect::objects(settings).await?;
    backup::must_be_a_store(&objects).await?;
    Ok(objects)
}

fn adopt(args: OfflineArgs, before: SettingFlags) -> ExitCode {
    let OfflineArgs { json, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        if !settings.cluster.is_on() {
            return Err(InspectError::Usage(
                "cluster.pods is 0: say how many pods the cluster is to have, --set cluster.pods=3"
                    .to_owned(),
            ));
        }
        let objects = store(settings).await?;
        let now_ms = SystemClock.now_ms();
        let adopted = Box::pin(cluster::adopt(&objects, settings.cluster.shape(), now_ms)).await?;
        let ClusterRecord { cluster, shards, .. } = &adopted.record;
        let how = if adopted.was_done { "had been dealt out" } else { "were dealt out" };
        let text = format!(
            "{} tables {how} to {shards} shards of cluster {cluster}: start its pods with empty volumes",
            adopted.tables
        );
        print(out, json, &text, &shown(&adopted.record, json!({"tables": adopted.tables})))
    })
}

fn leave(args: OfflineArgs, before: SettingFlags) -> ExitCode {
    let OfflineArgs { json, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let objects = store(settings).await?;
        let logs = LeftLogs::new(settings);
        let left = Box::pin(cluster::leave(&objects, &logs, SystemClock.now_ms())).await?;
        let text = format!(
            "{} partitions of cluster {} are one store again: start one Zombi with an empty volume",
            left.partitions, left.record.cluster
        );
        print(out, json, &text, &shown(&left.record, json!({"partitions": left.partitions})))
    })
}

fn resize(pods: u32, args: OfflineArgs, before: SettingFlags) -> ExitCode {
    let OfflineArgs { json, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let objects = store(settings).await?;
        let moving = match cluster::recorded(&objects).await? {
            Some(ClusterRecord { shards, pods: Some(before), .. }) if (1..=shards).contains(&pods) => {
                placement::moving(shards, before, pods)
            }
            _ => Vec::new(), // nothing to resize, or not to that: it is refused
        };
        let resized = cluster::resize(&objects, pods, &moving, SystemClock.now_ms());
        let record = Box::pin(resized).await?;
        let text = format!(
            "cluster {} has {pods} pods: set cluster.pods to {pods} for all of them, and start them",
            record.cluster
        );
        print(out, json, &text, &shown(&record, json!({})))
    })
}

fn verify(with: Option<PathBuf>, wanted: WantedRanges, args: OfflineArgs, before: SettingFlags) -> ExitCode {
    let OfflineArgs { json, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let Some(path) = &with else { return alike::list(settings, wanted, out) };
        let unread = |error| InspectError::Usage(format!("{}: {error}", path.display()));
        let other = BufReader::new(File::open(path).map_err(unread)?);
        let Compared { alike, different, passed_over } = alike::compare(settings, wanted, other, out)?;
        let text =
            format!("{alike} ranges are alike, {different} differ, {passed_over} could not be compared");
        let shown = json!({"alike": alike, "different": different, "passed_over": passed_over});
        print(out, json, &text, &shown)?;
        match (different, alike) {
            (0, 0) => {
                Err(InspectError::NotFound("range that both have whole: try fewer --events".to_owned()))
            }
            (0, _) => Ok(()),
            _ => Err(InspectError::Findings(usize::try_from(different).unwrap_or(usize::MAX))),
        }
    })
}

fn begin_log_anew(shard: u32, args: OfflineArgs, before: SettingFlags) -> ExitCode {
    let OfflineArgs { json, settings } = args;
    look_with(Reads::All, settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let reset = Box::pin(reset_log(settings, shard)).await;
        let LogReset { applied, generation } = reset.map_err(|error| match error {
            ServerError::Storage(error) => InspectError::Storage(error),
            error => InspectError::Options(error.to_string()),
        })?;
        let text = format!(
            "the log of shard {shard} is begun anew, behind entry {applied} of the lost one: do the same for \
             the other shards, then start all pods"
        );
        let shown = json!({"shard": shard, "applied": applied, "generation": generation});
        print(out, json, &text, &shown)
    })
}

fn shown(record: &ClusterRecord, more: Value) -> Value {
    let mut shown = json!({
        "cluster": record.cluster, "pods": record.pods, "shards": record.shards, "copies": record.copies,
    });
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}

fn print(out: &mut dyn Write, is_json: bool, text: &str, json: &Value) -> Result<(), InspectError> {
    if is_json {
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(())
}
