//! Runs a command that works on the bucket without a server, and says how it ended.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use super::{exit, flags::SettingFlags};
use crate::{
    inspect::InspectError,
    settings::{Reads, Settings},
};
use contracts::crash;

/// Runs a command that works on the bucket.
pub(super) fn look(
    flags: SettingFlags,
    command: impl AsyncFnOnce(&Settings, &mut dyn Write) -> Result<(), InspectError>,
) -> ExitCode {
    crash::arm();
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
            let is_usage = matches!(error, InspectError::Usage(_));
            ExitCode::from(if is_usage { exit::USAGE } else { exit::FAILED })
        }
    }
}
