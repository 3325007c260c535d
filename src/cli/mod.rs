//! The commands and their exit codes: those that ask the policy or make tokens (auth), the check of files
//! (check), and how a command answers (answer).

mod answer;
mod auth;
mod check;

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use self::{
    answer::{Unanswered, say},
    auth::{AuthCommand, TokenCommand},
};
use crate::{
    inspect::{self, InspectError},
    server::{self, ServerError},
    settings::{self, BadSettings, Reads, Settings},
    telemetry,
};
use contracts::{crash, error::StorageError};

/// Exit codes.
mod exit {
    /// All went well; or the answer is yes.
    pub(super) const DONE: u8 = 0;
    /// The server could not start, or failed; or the answer is no.
    pub(super) const FAILED: u8 = 1;
    /// The command line or a setting is wrong, or a file that a setting names.
    pub(super) const USAGE: u8 = 2;
    /// A write to the volume failed; the next start reads what is really there.
    pub(super) const WRITE_FAILED: u8 = 3;
    /// Another writer has taken over the bucket.
    pub(super) const FENCED: u8 = 4;
}

/// An event store for Kubernetes: RocksDB hot, S3 cold, one ordered read over both.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Settings: defaults < --config file < ZOMBI_* environment < flags. \
                  `zombi config print` shows them all."
)]
struct Cli {
    #[command(flatten)]
    settings: SettingFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct SettingFlags {
    /// A YAML file with settings [env: ZOMBI_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where RocksDB lives: the setting data_dir
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// The main port: the setting port
    #[arg(long, global = true)]
    port: Option<String>,
    /// Any setting, e.g. --set flush.interval_secs=10
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve,
    /// Look at the segments in the bucket
    Segments {
        #[command(subcommand)]
        command: SegmentsCommand,
    },
    /// Look at the manifests in the bucket
    Manifest {
        #[command(subcommand)]
        command: ManifestCommand,
    },
    /// Look at the settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Ask the policy
    Auth {
        #[command(subcommand)]
        command: AuthCommand,
    },
    /// Make tokens for clients
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
enum SegmentsCommand {
    /// List those that exist
    List {
        /// Of this table only
        #[arg(long)]
        table: Option<String>,
    },
    /// Audit the bucket: every object, checksum and offset; fails if anything is wrong
    Verify,
    /// Print the events of one, a JSON line each
    Cat {
        /// Its key as `list` shows it
        key: String,
    },
}

#[derive(Debug, Subcommand)]
enum ManifestCommand {
    /// Print one as JSON
    Show {
        /// Its number; the last if left out
        number: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the settings in force as YAML
    Print,
    /// Say whether the settings can be used; exits with 2 if not
    #[command(after_help = "Example: ZOMBI_AUTH_POLICY_FILE=policy.yaml zombi config check --files")]
    Check {
        /// Read the files that they name, too: policy, tokens, keys, certificates; says all that is wrong
        #[arg(long)]
        files: bool,
    },
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let Cli { settings: flags, command } = Cli::parse();
    match command.unwrap_or(Command::Serve) {
        Command::Serve => with_settings(&flags, Reads::All, serve),
        Command::Segments { command } => {
            with_settings(&flags, Reads::Store, |settings| segments(&settings, command))
        }
        Command::Manifest { command: ManifestCommand::Show { number } } => {
            with_settings(&flags, Reads::Store, |settings| {
                look(async |out: &mut dyn Write| inspect::show(&settings, number, out).await)
            })
        }
        Command::Config { command } => {
            with_settings(&flags, Reads::All, |settings| say(|out| config(&settings, &command, out)))
        }
        Command::Auth { command: AuthCommand::Can(question) } => {
            with_settings(&flags, Reads::All, |settings| say(|out| auth::can(&settings, &question, out)))
        }
        // Without settings: it works wherever the binary is.
        Command::Token { command: TokenCommand::New { name } } => {
            say(|out| auth::new_token(&name, out, &mut io::stderr()))
        }
    }
}

/// Runs a command with the settings that it reads.
#[allow(clippy::print_stderr)] // commands speak to a person
fn with_settings(flags: &SettingFlags, reads: Reads, command: impl FnOnce(Settings) -> ExitCode) -> ExitCode {
    match load(flags, reads) {
        Ok(settings) => command(settings),
        Err(error) => {
            eprintln!("zombi: {error}");
            ExitCode::from(exit::USAGE)
        }
    }
}

/// Shows segments, or audits them.
fn segments(settings: &Settings, command: SegmentsCommand) -> ExitCode {
    look(async |out: &mut dyn Write| match command {
        SegmentsCommand::List { table } => inspect::list(settings, table.as_deref(), out).await,
        SegmentsCommand::Verify => inspect::verify(settings, out).await,
        SegmentsCommand::Cat { key } => inspect::cat(settings, &key, out).await,
    })
}

/// Shows or checks the settings.
fn config(settings: &Settings, command: &ConfigCommand, out: &mut dyn Write) -> Result<u8, Unanswered> {
    match command {
        ConfigCommand::Check { files: true } => return check::check_files(settings, out),
        ConfigCommand::Check { files: false } => writeln!(out, "the settings can be used")?,
        ConfigCommand::Print => {
            let yaml = settings.to_yaml().map_err(|error| Unanswered::Failed(error.to_string()))?;
            write!(out, "{yaml}")?;
        }
    }
    Ok(exit::DONE)
}

/// Runs a command that looks at the bucket.
#[allow(clippy::print_stderr)] // commands speak to a person
fn look(command: impl AsyncFnOnce(&mut dyn Write) -> Result<(), InspectError>) -> ExitCode {
    let looked = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(async {
            let mut out = BufWriter::new(io::stdout().lock());
            command(&mut out).await?;
            Ok(out.flush()?)
        }),
        Err(error) => Err(error.into()),
    };
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

/// Reads the settings; flags win over everything else.
fn load(flags: &SettingFlags, reads: Reads) -> Result<Settings, BadSettings> {
    let mut values = Vec::new();
    for (key, value) in [("data_dir", &flags.data_dir), ("port", &flags.port)] {
        values.extend(value.clone().map(|value| (key.to_owned(), value)));
    }
    for pair in &flags.set {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        values.push((key.to_owned(), value.to_owned()));
    }
    Settings::load(flags.config.clone(), settings::environment(), values, reads)
}

/// Runs the server.
#[allow(clippy::print_stderr)] // logs are not started yet
fn serve(settings: Settings) -> ExitCode {
    crash::arm();
    let telemetry = match telemetry::start(&settings.log, settings::wants_traces(settings::environment())) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("zombi: {error}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(exit::FAILED);
        }
    };
    let ended = runtime.block_on(async {
        let ended = Box::pin(server::run(settings, &telemetry)).await;
        telemetry.stop().await;
        ended
    });
    // A task that hangs must not keep the process from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "exiting");
            ExitCode::from(match error {
                ServerError::Storage(StorageError::OutcomeUnknown { .. }) => exit::WRITE_FAILED,
                ServerError::Storage(StorageError::Fenced(_)) => exit::FENCED,
                ServerError::Auth(_) | ServerError::Access(_) | ServerError::Tls(_) => exit::USAGE,
                _ => exit::FAILED,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_printed_and_checked() {
        let said = |command: &ConfigCommand| {
            let mut out: Vec<u8> = Vec::new();
            let code = config(&Settings::default(), command, &mut out).unwrap();
            (code, String::from_utf8(out).unwrap())
        };
        let check = said(&ConfigCommand::Check { files: false });
        assert_eq!(check, (exit::DONE, "the settings can be used\n".to_owned()));
        let (code, yaml) = said(&ConfigCommand::Print);
        assert!(code == exit::DONE && yaml.contains("\nauth:\n") && yaml.contains("port: 8080"), "{yaml}");
    }
}
