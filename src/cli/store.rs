//! Commands that look at the bucket, beside a running server or without one: `verify`, `segment`,
//! `manifest`.

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    care::{self, RebuildArgs},
    flags::SettingFlags,
    look::{UntilClosed, look, watched},
    output::StatusLine,
};
use crate::{
    inspect::{self, ShownManifest, VerifyOptions},
    settings::Settings,
};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// s3://bucket/prefix or a directory, also of a backup; s3.bucket and s3.prefix if left out
    url: Option<String>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "list")]
    json: bool,
    /// Only list the segments that exist: key, events, bytes
    #[arg(long)]
    list: bool,
    /// With --list: of this table only
    #[arg(long, requires = "list")]
    table: Option<String>,
    /// If nothing is wrong: delete what no manifest names; refused unless every writer has stopped
    #[arg(long, conflicts_with = "list")]
    delete_unnamed: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Debug, Subcommand)]
pub(super) enum SegmentCommand {
    /// Print its events, a JSON line each
    Cat {
        /// Its key, as `zombi verify --list` shows it
        key: String,
        #[command(flatten)]
        settings: SettingFlags,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ManifestCommand {
    /// Make manifests anew from the segments, for a bucket whose manifests are gone
    #[command(after_help = care::REBUILD_EXAMPLES)]
    Rebuild(RebuildArgs),
    /// Print one as JSON
    Show {
        /// Its number; the last if left out
        number: Option<u64>,
        /// Of a cluster: which shard's, from 0
        #[arg(long, value_name = "N")]
        shard: Option<u32>,
        #[command(flatten)]
        settings: SettingFlags,
    },
}

/// Audits the bucket, or lists its segments.
pub(super) fn verify(args: VerifyArgs, before: SettingFlags) -> ExitCode {
    let VerifyArgs { url, json, list, table, delete_unnamed, settings } = args;
    let asked = VerifyOptions { json, delete_unnamed };
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        let place = crate::care::place(settings, url.as_deref()).await?;
        if list {
            return inspect::list(&*place, table.as_deref(), out).await;
        }
        watched(async |status: &StatusLine| {
            inspect::verify(&*place, asked, status, &mut UntilClosed::new(out)).await
        })
        .await
    })
}

/// Prints a segment.
pub(super) fn segment(command: SegmentCommand, before: SettingFlags) -> ExitCode {
    let SegmentCommand::Cat { key, settings } = command;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        inspect::cat(settings, &key, out).await
    })
}

/// Prints a manifest.
pub(super) fn manifest(command: ManifestCommand, before: SettingFlags) -> ExitCode {
    let (shown, settings) = match command {
        ManifestCommand::Rebuild(args) => return care::rebuild(args, before),
        ManifestCommand::Show { number, shard, settings } => (ShownManifest { number, shard }, settings),
    };
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        inspect::show(settings, shown, out).await
    })
}
