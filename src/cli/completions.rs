//! `zombi completions`: what a shell needs to complete commands and flags.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

use super::{answer::Unanswered, exit};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions of a shell.
pub(super) fn print(
    args: &CompletionsArgs,
    mut commands: Command,
    out: &mut dyn Write,
) -> Result<u8, Unanswered> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut commands, "zombi", &mut script);
    out.write_all(&script)?;
    Ok(exit::DONE)
}
