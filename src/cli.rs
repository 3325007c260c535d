//! The commands and their exit codes.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    inspect::{self, InspectError},
    server::{self, ServerError},
    settings::{self, BadSettings, Reads, Settings},
    telemetry,
};
use contracts::{crash, error::StorageError};

/// Exit codes, beside 0.
mod exit {
    /// The server could not start, or failed.
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
    /// Say whether the settings can be used
    Check,
}

/// Runs the command line.
#[allow(clippy::print_stdout, clippy::print_stderr)] // commands speak to a person
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve);
    let reads = match &command {
        Command::Serve | Command::Config { .. } => Reads::All,
        Command::Segments { .. } | Command::Manifest { .. } => Reads::Store,
    };
    let settings = match load(&cli.settings, reads) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("zombi: {error}");
            return ExitCode::from(exit::USAGE);
        }
    };
    match command {
        Command::Serve => serve(settings),
        Command::Segments { command } => look(async |out: &mut dyn Write| match command {
            SegmentsCommand::List { table } => inspect::list(&settings, table.as_deref(), out).await,
            SegmentsCommand::Verify => inspect::verify(&settings, out).await,
            SegmentsCommand::Cat { key } => inspect::cat(&settings, &key, out).await,
        }),
        Command::Manifest { command: ManifestCommand::Show { number } } => {
            look(async |out: &mut dyn Write| inspect::show(&settings, number, out).await)
        }
        Command::Config { command: ConfigCommand::Check } => {
            println!("the settings can be used");
            ExitCode::SUCCESS
        }
        Command::Config { command: ConfigCommand::Print } => match settings.to_yaml() {
            Ok(yaml) => {
                print!("{yaml}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("zombi: {error}");
                ExitCode::from(exit::FAILED)
            }
        },
    }
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
                ServerError::Tls(_) => exit::USAGE,
                _ => exit::FAILED,
            })
        }
    }
}
