//! Commands that answer by what they print and by their exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::exit;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// It was asked for something that makes no sense, or a file that it needs cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The system refuses something.
    #[error("{0}")]
    Failed(String),
    /// The output cannot be written.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl Unanswered {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Failed(_) | Self::Print(_) => exit::FAILED,
        }
    }
}

/// Runs such a command on the standard output.
#[allow(clippy::print_stderr)] // commands speak to a person
pub(super) fn say(command: impl FnOnce(&mut dyn Write) -> Result<u8, Unanswered>) -> ExitCode {
    let mut out = io::stdout().lock();
    let said = command(&mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match said {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The reader has seen enough, but not how it ends: that is no success.
            if !matches!(&error, Unanswered::Print(error) if error.kind() == io::ErrorKind::BrokenPipe) {
                eprintln!("zombi: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
