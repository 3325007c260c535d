//! Runs a command that works on the bucket without a server, and says how it ended.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    process::ExitCode,
};

use super::{answer::ask, exit, flags::SettingFlags, output::StatusLine};
use crate::{
    inspect::InspectError,
    settings::{Reads, Settings},
};
use contracts::crash;

/// An output whose reader may go, `| head`, while the command goes on: how it ends is still to be told.
pub(super) struct UntilClosed<'a> {
    out: &'a mut dyn Write,
    is_closed: bool,
}

impl<'a> UntilClosed<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, is_closed: false }
    }
}

impl Write for UntilClosed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Ok(bytes.len());
        }
        match self.out.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(bytes.len())
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_closed { Ok(()) } else { self.out.flush() }
    }
}

/// Runs a command that works on the bucket.
pub(super) fn look(
    flags: SettingFlags,
    command: impl AsyncFnOnce(&Settings, &mut dyn Write) -> Result<(), InspectError>,
) -> ExitCode {
    look_with(Reads::Store, flags, command)
}

/// The same for one that reads these settings.
pub(super) fn look_with(
    reads: Reads,
    flags: SettingFlags,
    command: impl AsyncFnOnce(&Settings, &mut dyn Write) -> Result<(), InspectError>,
) -> ExitCode {
    crash::arm();
    flags.with_settings(reads, |settings| {
        ask(async move || {
            let mut out = BufWriter::new(io::stdout().lock());
            command(&settings, &mut out).await?;
            out.flush()?;
            Ok(exit::DONE)
        })
    })
}

/// Does long work with a line at the foot of the terminal, which is gone before the result is printed.
///
/// # Errors
/// Those of the work.
pub(super) async fn watched<T>(
    work: impl AsyncFnOnce(&StatusLine) -> Result<T, InspectError>,
) -> Result<T, InspectError> {
    watched_beside(false, work).await
}

/// The same for work that may print its result as it goes on: on a terminal there is no line between that.
///
/// # Errors
/// Those of the work.
pub(super) async fn watched_beside<T>(
    prints: bool,
    work: impl AsyncFnOnce(&StatusLine) -> Result<T, InspectError>,
) -> Result<T, InspectError> {
    let status = match prints && io::stdout().is_terminal() {
        true => StatusLine::none(),
        false => StatusLine::waiting("opening the store"),
    };
    let done = work(&status).await;
    status.end();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose reader has gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_command_goes_on_where_nobody_reads_it_any_more() {
        let mut closed = Closed;
        let mut out = UntilClosed::new(&mut closed);
        for _ in 0..3 {
            writeln!(out, "WRONG").unwrap();
        }
        out.flush().unwrap();
    }
}
