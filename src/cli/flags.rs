//! The flags that several commands have: settings, for those that read them, and where the server is, for
//! those that ask it. They may stand before the command's name or behind it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use super::{
    answer::{Unanswered, say_usage},
    client::{Access, Patience, ServerClient},
    exit,
    output::{Output, OutputFormat, StatusLine},
    times,
};
use crate::settings::{self, BadSettings, Reads, Settings};

// Without a comment that clap would take for a description of the command.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct SettingFlags {
    /// A YAML file with settings [env: ZOMBI_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where RocksDB lives: the setting data_dir
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The main port: the setting port
    #[arg(long)]
    port: Option<String>,
    /// Any setting, e.g. --set flush.interval_secs=10
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SettingFlags {
    /// These flags over those that stood before the command's name.
    pub(super) fn over(mut self, before: Self) -> Self {
        self.config = self.config.or(before.config);
        self.data_dir = self.data_dir.or(before.data_dir);
        self.port = self.port.or(before.port);
        self.set.splice(0..0, before.set);
        self
    }

    /// Whether there is any.
    pub(super) fn is_any(&self) -> bool {
        self.config.is_some() || self.data_dir.is_some() || self.port.is_some() || !self.set.is_empty()
    }

    /// Runs a command with the settings that it reads.
    pub(super) fn with_settings(self, reads: Reads, command: impl FnOnce(Settings) -> ExitCode) -> ExitCode {
        match self.load(reads) {
            Ok(settings) => command(settings),
            Err(error) => say_usage(&error),
        }
    }

    /// Reads the settings; flags win over everything else.
    fn load(self, reads: Reads) -> Result<Settings, BadSettings> {
        let mut values = Vec::new();
        for (key, value) in [("data_dir", self.data_dir), ("port", self.port)] {
            values.extend(value.map(|value| (key.to_owned(), value)));
        }
        for pair in &self.set {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.push((key.to_owned(), value.to_owned()));
        }
        Settings::load(self.config, settings::environment(), values, reads)
    }
}

/// How long a command waits for an answer if nobody says.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default, Args)]
pub(super) struct ClientFlags {
    /// Where the server is [env: ZOMBI_URL] [default: http://localhost:8080]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The file with the bearer token, read anew for each request [env: ZOMBI_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificates to trust instead of the system's, in PEM form
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Give up after so long without an answer: 500ms, 30s, 5m [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = times::parse_length)]
    timeout: Option<Duration>,
    /// The form of the result [default: table on a terminal, json in a pipe]
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    output: Option<OutputFormat>,
}

/// How patient a command is with a server that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endurance {
    /// It asks, and is refused at once where nobody listens.
    Asks,
    /// The same, with so long for the answer if nobody says.
    AsksFor(Duration),
    /// It works on: once the server has answered, it is waited for as long as it takes.
    WorksOn,
}

/// What a client's command works with.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: ServerClient,
    pub(super) output: Output,
    pub(super) status: StatusLine,
}

impl Session {
    /// For commands whose results are no events.
    ///
    /// # Errors
    /// [`Unanswered::Usage`] if payloads are asked for.
    pub(super) fn refuse_payload(&self) -> Result<(), Unanswered> {
        match self.output.format() {
            OutputFormat::Payload => {
                Err(Unanswered::Usage("-o payload is for events: `zombi read` and `zombi tail`".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl ClientFlags {
    /// These flags over those that stood before the command's name.
    pub(super) fn over(self, before: Self) -> Self {
        Self {
            url: self.url.or(before.url),
            token_file: self.token_file.or(before.token_file),
            ca_file: self.ca_file.or(before.ca_file),
            timeout: self.timeout.or(before.timeout),
            output: self.output.or(before.output),
        }
    }

    /// Whether there is any.
    pub(super) fn is_any(&self) -> bool {
        let Self { url, token_file, ca_file, timeout, output } = self;
        url.is_some() || token_file.is_some() || ca_file.is_some() || timeout.is_some() || output.is_some()
    }

    /// Opens a session with what the flags say, else the environment.
    ///
    /// # Errors
    /// [`Unanswered::Usage`] if one of them cannot be used.
    pub(super) fn session(self, endurance: Endurance, status: StatusLine) -> Result<Session, Unanswered> {
        let mut environment = settings::environment();
        let mut of_environment = |name: &str| environment.remove(name).filter(|value| !value.is_empty());
        let of_flag = self.url.map(|url| (url, "--url"));
        let url = of_flag.or_else(|| of_environment(settings::ENV_URL).map(|url| (url, settings::ENV_URL)));
        let token_file = self.token_file.or_else(|| of_environment(settings::ENV_TOKEN_FILE).map(Into::into));
        let patience = match (endurance, self.timeout) {
            (Endurance::Asks, timeout) => Patience::asking(timeout.unwrap_or(TIMEOUT)),
            (Endurance::AsksFor(usual), timeout) => Patience::asking(timeout.unwrap_or(usual)),
            (Endurance::WorksOn, timeout) => Patience::working(timeout, TIMEOUT),
        };
        let access = Access { url, token_file, ca_file: self.ca_file, patience };
        let client = ServerClient::new(access, status.clone()).map_err(Unanswered::Usage)?;
        Ok(Session { client, output: Output::of_stdout(self.output), status })
    }
}

/// Says that a command does not take flags that stood before its name.
pub(super) fn refuse_flags(flags: &str, whose: &str) -> ExitCode {
    say_usage(&format!("{flags} are for {whose}; `zombi help` shows which those are"))
}

/// The exit code of a command that was stopped by a signal, as shells have it.
pub(super) fn code_of_signal(name: &str) -> u8 {
    if name == "SIGINT" { exit::INTERRUPTED } else { exit::TERMINATED }
}
