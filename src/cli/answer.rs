//! Commands that answer by what they print and by their exit code.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use super::{client::ClientError, exit, output::tell};
use crate::inspect::InspectError;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// It was asked for something that makes no sense, or a file that it needs cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The system refuses something.
    #[error("{0}")]
    Failed(String),
    /// The server says no, or cannot be reached.
    #[error("{0}")]
    Server(#[from] ClientError),
    /// The output cannot be written.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl From<InspectError> for Unanswered {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Usage(why) => Self::Usage(why),
            InspectError::Print(error) => Self::Print(error),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl Unanswered {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Failed(_) | Self::Server(_) | Self::Print(_) => exit::FAILED,
        }
    }

    /// Whether the reader of the output has gone: `| head`.
    fn is_of_a_closed_pipe(&self) -> bool {
        matches!(self, Self::Print(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Runs a command on the standard output that only shows something: whoever has enough of it is served.
pub(super) fn show(command: impl FnOnce(&mut dyn Write) -> Result<u8, Unanswered>) -> ExitCode {
    on_stdout(exit::DONE, command)
}

/// Runs a command on the standard output whose end says how it went. Whoever does not read that far has not
/// been told that it went well.
pub(super) fn say(command: impl FnOnce(&mut dyn Write) -> Result<u8, Unanswered>) -> ExitCode {
    on_stdout(exit::FAILED, command)
}

fn on_stdout(if_closed: u8, command: impl FnOnce(&mut dyn Write) -> Result<u8, Unanswered>) -> ExitCode {
    let mut out = io::stdout().lock();
    let said = command(&mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match said {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is_of_a_closed_pipe() => ExitCode::from(if_closed),
        Err(error) => say_failed(&error),
    }
}

/// Runs a command that asks a server or a bucket.
pub(super) fn ask(command: impl AsyncFnOnce() -> Result<u8, Unanswered>) -> ExitCode {
    let answered = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command()),
        Err(error) => Err(Unanswered::Failed(format!("cannot start: {error}"))),
    };
    match answered {
        Ok(code) => ExitCode::from(code),
        // What was read is data: whoever has enough of it has been served.
        Err(error) if error.is_of_a_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => say_failed(&error),
    }
}

fn say_failed(error: &Unanswered) -> ExitCode {
    tell(error);
    ExitCode::from(error.exit_code())
}

/// Says what is wrong with the command line or a setting.
pub(super) fn say_usage(error: &dyn Display) -> ExitCode {
    tell(error);
    ExitCode::from(exit::USAGE)
}
