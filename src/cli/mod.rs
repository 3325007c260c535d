//! The commands, of three kinds, and their exit codes. *Server* (serve, check) and *store* (store, care,
//! salvage, auth) commands read settings; a *client's* (append, bench, consumers, flush, read, segments,
//! tables, tail) ask a server through `client`, read none, and print through `output`.

mod answer;
pub mod append;
mod auth;
mod bench;
mod care;
mod check;
pub mod client;
mod cluster;
mod completions;
mod consumers;
mod cursor_file;
mod exit;
mod flags;
mod flush;
mod look;
mod output;
mod read;
#[cfg(test)]
mod reference;
mod reset;
mod salvage;
mod segments;
mod serve;
mod store;
mod tables;
mod tail;
mod times;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};

use self::{
    answer::{Unanswered, ask, say, show},
    append::AppendArgs,
    auth::{AuthCommand, TokenCommand},
    bench::BenchArgs,
    care::{BackupArgs, RestoreArgs},
    cluster::ClusterCommand,
    completions::CompletionsArgs,
    consumers::{ConsumerArgs, ConsumersArgs},
    flags::{ClientFlags, SettingFlags, refuse_flags},
    flush::FlushArgs,
    read::ReadArgs,
    salvage::SalvageArgs,
    segments::SegmentsArgs,
    store::{ManifestCommand, SegmentCommand, VerifyArgs},
    tables::{TableArgs, TablesArgs},
    tail::TailArgs,
};
use crate::{
    revision::VERSION,
    server::check_pod,
    settings::{Reads, Settings},
};

/// An event store for Kubernetes: RocksDB hot, S3 cold, one ordered read over both.
#[derive(Debug, Parser)]
#[command(
    version = VERSION,
    after_help = "\
Three kinds of commands:
  server  serve, config: they read all settings
  store   backup, restore, salvage, verify, segment, manifest, auth, token: of the settings they read s3.*, \
auth.*, cluster.* and data_dir, token none, and cluster reset-log all
  client  append, read, tail, tables, table, consumers, consumer, segments, flush, bench, completions: they \
read no settings, only their flags, ZOMBI_URL and ZOMBI_TOKEN_FILE

Settings: defaults < --config file < ZOMBI_* environment < flags. `zombi config print` shows them all.

Exit codes: 0; 1 if the answer is no, or there is none; 2 for a wrong command line, setting or file. Of \
serve, too: 3 if a write to the volume failed, 4 if another writer has taken over the bucket. 130 and 143 \
if SIGINT or SIGTERM has ended an append."
)]
struct Cli {
    #[command(flatten, next_help_heading = "Settings")]
    settings: SettingFlags,
    #[command(flatten, next_help_heading = "Server and output, for a client's commands")]
    client: ClientFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Server(ServerCommand),
    #[command(flatten)]
    Store(StoreCommand),
    #[command(flatten)]
    Client(ClientCommand),
    /// Print the completions of a shell
    #[command(after_help = "Example: zombi completions bash > /etc/bash_completion.d/zombi")]
    Completions(CompletionsArgs),
}

#[derive(Debug, Subcommand)]
enum ServerCommand {
    /// Run the server (the default)
    Serve {
        #[command(flatten)]
        settings: SettingFlags,
    },
    /// Look at the settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Copy the store to another bucket, prefix or directory, beside a running server or without one
    #[command(after_help = care::BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Begin a new store in an empty prefix with a backup, or with what another store had at some time
    #[command(after_help = care::RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
    /// Print the events that only a volume has, as JSON lines that can be posted
    #[command(after_help = salvage::EXAMPLES)]
    Salvage(SalvageArgs),
    /// Audit a bucket or a backup: every object, checksum and offset; exits with 1 if anything is wrong
    Verify(VerifyArgs),
    /// Look at a segment in the bucket
    Segment {
        #[command(subcommand)]
        command: SegmentCommand,
    },
    /// Look at the manifests in the bucket
    Manifest {
        #[command(subcommand)]
        command: ManifestCommand,
    },
    /// Turn one Zombi's store into a cluster's and back, compare copies, begin a lost log anew; pods stopped
    #[command(after_help = cluster::EXAMPLES)]
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
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
enum ClientCommand {
    /// Append the lines of a file or of the standard input to a table
    #[command(after_help = append::EXAMPLES)]
    Append(Box<AppendArgs>),
    /// Read a table
    #[command(after_help = read::EXAMPLES)]
    Read(Box<ReadArgs>),
    /// Show the last events of a table, and go on with new ones
    #[command(after_help = tail::EXAMPLES)]
    Tail(Box<TailArgs>),
    /// List the tables
    Tables(TablesArgs),
    /// Look at a table, change or delete it
    Table(Box<TableArgs>),
    /// List the consumer groups
    Consumers(ConsumersArgs),
    /// Look at a consumer group, move or delete it
    Consumer(Box<ConsumerArgs>),
    /// List a table's segments in S3
    Segments(Box<SegmentsArgs>),
    /// Move a table, or everything, to S3 now
    Flush(FlushArgs),
    /// Measure appends to a table, and check what was written
    #[command(after_help = bench::EXAMPLES)]
    Bench(Box<BenchArgs>),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the settings in force as YAML
    Print {
        #[command(flatten)]
        settings: SettingFlags,
    },
    /// Say whether the settings can be used; exits with 2 if not
    #[command(after_help = "Example: ZOMBI_AUTH_POLICY_FILE=policy.yaml zombi config check --files")]
    Check {
        /// Read the files that they name, too: policy, tokens, keys, certificates; says all that is wrong.
        /// Nothing is fetched: with auth.oidc.jwks_url only the files for the fetch are looked at
        #[arg(long)]
        files: bool,
        #[command(flatten)]
        settings: SettingFlags,
    },
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let Cli { settings, client, command } = Cli::parse();
    let serve = ServerCommand::Serve { settings: SettingFlags::default() };
    match command.unwrap_or(Command::Server(serve)) {
        Command::Server(_) | Command::Store(_) if client.is_any() => {
            refuse_flags("--url, --token-file, --ca-file, --timeout and -o", "a client's commands")
        }
        Command::Client(_) | Command::Completions(_) if settings.is_any() => {
            refuse_flags("--config, --data-dir, --port and --set", "commands that read settings")
        }
        Command::Server(command) => run_server_command(command, settings),
        Command::Store(command) => run_store_command(command, settings),
        Command::Client(command) => ask(async || Box::pin(run_client_command(command, client)).await),
        Command::Completions(args) => show(|out| completions::print(&args, Cli::command(), out)),
    }
}

fn run_server_command(command: ServerCommand, before: SettingFlags) -> ExitCode {
    match command {
        ServerCommand::Serve { settings } => settings.over(before).with_settings(Reads::All, serve::serve),
        ServerCommand::Config { command: ConfigCommand::Print { settings } } => {
            let settings = settings.over(before);
            settings.with_settings(Reads::All, |settings| show(|out| print_settings(&settings, out)))
        }
        ServerCommand::Config { command: ConfigCommand::Check { files, settings } } => settings
            .over(before)
            .with_settings(Reads::All, |settings| say(|out| check_settings(&settings, files, out))),
    }
}

fn run_store_command(command: StoreCommand, before: SettingFlags) -> ExitCode {
    match command {
        StoreCommand::Backup(args) => care::backup(args, before),
        StoreCommand::Restore(args) => care::restore(args, before),
        StoreCommand::Salvage(args) => salvage::salvage(args, before),
        StoreCommand::Verify(args) => store::verify(args, before),
        StoreCommand::Segment { command } => store::segment(command, before),
        StoreCommand::Manifest { command } => store::manifest(command, before),
        StoreCommand::Cluster { command } => cluster::run(command, before),
        StoreCommand::Auth { command: AuthCommand::Can { question, settings } } => settings
            .over(before)
            .with_settings(Reads::Store, |settings| say(|out| auth::can(&settings, &question, out))),
        // Without settings: it works wherever the binary is.
        StoreCommand::Token { .. } if before.is_any() => {
            refuse_flags("--config, --data-dir, --port and --set", "commands that read settings")
        }
        StoreCommand::Token { command: TokenCommand::New { name } } => {
            say(|out| auth::new_token(&name, out, &mut io::stderr()))
        }
    }
}

async fn run_client_command(command: ClientCommand, before: ClientFlags) -> Result<u8, Unanswered> {
    match command {
        ClientCommand::Append(args) => append::append(*args, before).await,
        ClientCommand::Read(args) => read::read(*args, before).await,
        ClientCommand::Tail(args) => tail::tail(*args, before).await,
        ClientCommand::Tables(args) => tables::list(args, before).await,
        ClientCommand::Table(args) => tables::table(*args, before).await,
        ClientCommand::Consumers(args) => consumers::list(args, before).await,
        ClientCommand::Consumer(args) => consumers::consumer(*args, before).await,
        ClientCommand::Segments(args) => segments::list(*args, before).await,
        ClientCommand::Flush(args) => flush::flush(args, before).await,
        ClientCommand::Bench(args) => bench::bench(*args, before).await,
    }
}

fn print_settings(settings: &Settings, out: &mut dyn Write) -> Result<u8, Unanswered> {
    let yaml = settings.to_yaml().map_err(|error| Unanswered::Failed(error.to_string()))?;
    write!(out, "{yaml}")?;
    Ok(exit::DONE)
}

fn check_settings(settings: &Settings, files: bool, out: &mut dyn Write) -> Result<u8, Unanswered> {
    // What only whoever serves minds: other commands are for any pod of a set.
    check_pod(settings).map_err(|error| Unanswered::Usage(error.to_string()))?;
    if files {
        return check::check_files(settings, out);
    }
    writeln!(out, "the settings can be used")?;
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The commands in a page that are to be typed: by themselves, behind variables, or in a pod
    /// (`kubectl exec .. -- zombi`).
    fn typed(page: &str) -> Vec<Vec<&str>> {
        let mut commands = Vec::new();
        let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        for line in blocks.flat_map(str::lines) {
            let line = line.split(" #").next().unwrap_or_default();
            for part in line.split('|') {
                let words: Vec<&str> = part.split_whitespace().collect();
                let Some(at) = words.iter().rposition(|word| *word == "zombi") else { continue };
                let is_typed = words[..at].iter().all(|word| word.contains('=')) || words[at - 1] == "--";
                if is_typed {
                    let words = words[at..].iter().copied();
                    commands.push(words.take_while(|word| !word.starts_with(['>', '<'])).collect());
                }
            }
        }
        commands
    }

    #[test]
    fn what_pages_for_operators_say_can_be_typed() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let mut count = 0;
        for folder in ["operations", "runbooks"] {
            for page in std::fs::read_dir(docs.join(folder)).unwrap() {
                let path = page.unwrap().path();
                let text = std::fs::read_to_string(&path).unwrap();
                for words in typed(&text) {
                    count += 1;
                    // `--version` ends the parsing too, and is no error.
                    let parsed = Cli::try_parse_from(words.iter().copied());
                    if let Some(error) = parsed.err().filter(clap::Error::use_stderr) {
                        panic!("{}: {words:?}: {error}", path.display());
                    }
                }
            }
        }
        assert!(count >= 10, "only {count} commands were found");
    }

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_printed_and_checked() {
        let mut out: Vec<u8> = Vec::new();
        assert_eq!(check_settings(&Settings::default(), false, &mut out).unwrap(), exit::DONE);
        assert_eq!(String::from_utf8(out).unwrap(), "the settings can be used\n");
        let mut out: Vec<u8> = Vec::new();
        assert_eq!(print_settings(&Settings::default(), &mut out).unwrap(), exit::DONE);
        let yaml = String::from_utf8(out).unwrap();
        assert!(yaml.contains("\nauth:\n") && yaml.contains("port: 8080"), "{yaml}");
    }

    #[test]
    fn flags_stand_before_a_command_or_behind_it() {
        for words in
            ["--url http://z tables", "tables --url http://z", "--set a.b=1 verify", "verify --set a.b=1"]
        {
            Cli::try_parse_from(["zombi"].into_iter().chain(words.split(' '))).unwrap();
        }
        for words in
            ["tables --set a.b=1", "verify --url http://z", "read", "tables -o csv", "segments list x"]
        {
            assert!(Cli::try_parse_from(["zombi"].into_iter().chain(words.split(' '))).is_err(), "{words}");
        }
    }
}
