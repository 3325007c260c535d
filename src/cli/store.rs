//! Commands that look at the bucket, beside a running server or without one: `verify`, `segment`,
//! `manifest`.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use clap::{Args, Subcommand};

use super::{exit, flags::SettingFlags, output::StatusLine};
use crate::{
    inspect::{self, InspectError},
    settings::{Reads, Settings},
};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Only list the segments that exist: key, events, bytes
    #[arg(long)]
    list: bool,
    /// With --list: of this table only
    #[arg(long, requires = "list")]
    table: Option<String>,
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
    /// Print one as JSON
    Show {
        /// Its number; the last if left out
        number: Option<u64>,
        #[command(flatten)]
        settings: SettingFlags,
    },
}

/// Audits the bucket, or lists its segments.
pub(super) fn verify(args: VerifyArgs, before: SettingFlags) -> ExitCode {
    let VerifyArgs { list, table, settings } = args;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        if list {
            return inspect::list(settings, table.as_deref(), out).await;
        }
        let status = StatusLine::waiting("reading the bucket");
        let verified = inspect::verify(settings, out).await;
        status.end();
        verified
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
    let ManifestCommand::Show { number, settings } = command;
    look(settings.over(before), async |settings: &Settings, out: &mut dyn Write| {
        inspect::show(settings, number, out).await
    })
}

/// Runs a command that looks at the bucket.
fn look(
    flags: SettingFlags,
    command: impl AsyncFnOnce(&Settings, &mut dyn Write) -> Result<(), InspectError>,
) -> ExitCode {
    flags.with_settings(Reads::Store, |settings| {
        let looked = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(async {
                let mut out = BufWriter::new(io::stdout().lock());
                command(&settings, &mut out).await?;
                Ok(out.flush()?)
            }),
            Err(error) => Err(error.into()),
        };
        say_looked(looked)
    })
}

#[allow(clippy::print_stderr)] // commands speak to a person
fn say_looked(looked: Result<(), InspectError>) -> ExitCode {
    match looked {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough: `| head`.
        Err(InspectError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zombi: {error}");
            ExitCode::from(exit::FAILED)
        }
    }
}
