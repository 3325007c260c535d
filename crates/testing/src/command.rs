//! A client's commands as a script or a person runs them: with both streams apart, or on a terminal.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::{
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task,
    time::timeout,
};

use super::{
    server::{PATIENCE, TestServer, binary},
    signal::send_signal,
};

/// A command and what it is given.
#[derive(Debug, Clone, Default)]
pub struct CommandLine {
    words: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    input: Vec<u8>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    /// What it has printed on its standard output; on a terminal both streams.
    pub out: String,
    /// What it has printed on its standard error.
    pub err: String,
}

/// A command that runs; killed when dropped.
#[derive(Debug)]
pub struct RunningCommand {
    child: Child,
    pub stdin: Option<ChildStdin>,
    pub lines: Lines<BufReader<ChildStdout>>,
}

impl CommandLine {
    pub fn new(words: &[&str]) -> Self {
        Self { words: words.iter().map(|word| (*word).to_owned()).collect(), ..Self::default() }
    }

    /// For a server, and by the token that it knows the tests by, if it asks.
    pub fn at(self, server: &TestServer) -> Self {
        let line = self.env("ZOMBI_URL", &server.url(""));
        match server.token_file() {
            Some(file) => line.env("ZOMBI_TOKEN_FILE", &file),
            None => line,
        }
    }

    /// With a variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With something on its standard input.
    pub fn input(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.input = bytes.as_ref().to_vec();
        self
    }

    /// Where it runs.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    fn build(&self) -> Command {
        let mut command = Command::new(binary());
        // Neither this machine's settings nor its proxies, and a terminal that is none of the dumb ones.
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", "/nonexistent")
            .env("TERM", "xterm-256color");
        command.envs(std::env::vars_os().filter(|(name, _)| name == "MUTANT_ON"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(&self.words).kill_on_drop(true);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Runs it until it ends.
    pub async fn run(&self) -> Ran {
        let mut command = self.build();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = self.input.clone();
        // Who reads nothing closes it.
        let feeding = tokio::spawn(async move { drop(stdin.write_all(&input).await) });
        let output = timeout(PATIENCE, child.wait_with_output());
        let output = output.await.unwrap_or_else(|_| panic!("{self:?} does not end by itself")).unwrap();
        drop(feeding.await);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran = Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
        eprintln!("  client| {:?}: {:?}\n{:.2000}{:.2000}", self.words, ran.code, ran.out, ran.err);
        assert!(!ran.err.contains("panicked"), "{self:?}\n{}", ran.err);
        ran
    }

    /// Starts it, with pipes; what it says on its standard error is this process's.
    pub fn begin(&self) -> RunningCommand {
        let mut command = self.build();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        RunningCommand { stdin: child.stdin.take(), lines, child }
    }

    /// Runs it with its standard error on a terminal of so many columns, which is in `err`, and its standard
    /// output in a pipe.
    pub async fn watched(&self, columns: u16) -> Ran {
        let (master, slave) = terminal(columns).unwrap();
        let mut command = self.build();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(slave);
        let child = command.spawn().unwrap();
        drop(command); // and with it this process's end
        let reading = task::spawn_blocking(move || read_all(File::from(master)));
        let output = timeout(PATIENCE, child.wait_with_output());
        let output = output.await.unwrap_or_else(|_| panic!("{self:?} does not end by itself")).unwrap();
        let err = timeout(PATIENCE, reading).await.expect("the terminal is closed").unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!("  client| {:?} watched: {:?}\n{out:.2000}{err:.2000}", self.words, output.status.code());
        Ran { code: output.status.code(), out, err: err.replace("\r\n", "\n") }
    }

    /// Runs it on a terminal of so many columns, with nothing on its standard input.
    pub async fn on_terminal(&self, columns: u16) -> Ran {
        let (master, slave) = terminal(columns).unwrap();
        let mut command = self.build();
        command.stdin(Stdio::null()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let mut child = command.spawn().unwrap();
        drop(command); // and with it this process's ends
        let reading = task::spawn_blocking(move || read_all(File::from(master)));
        let status = timeout(PATIENCE, child.wait());
        let status = status.await.unwrap_or_else(|_| panic!("{self:?} does not end by itself")).unwrap();
        let text = timeout(PATIENCE, reading).await.expect("the terminal is closed").unwrap();
        eprintln!("  client| {:?} on a terminal: {:?}\n{text:.4000}", self.words, status.code());
        Ran { code: status.code(), out: text.replace("\r\n", "\n"), err: String::new() }
    }
}

impl RunningCommand {
    /// The next line of its standard output.
    pub async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line comes in time").unwrap();
        line.expect("it goes on")
    }

    /// Sends it a signal.
    pub async fn signal(&self, name: &str) {
        send_signal(self.child.id().expect("it runs"), name).await;
    }

    /// Closes its standard output, as `head` does, and waits until it ends: its code.
    pub async fn closed(mut self) -> Option<i32> {
        drop((self.stdin.take(), self.lines));
        timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap().code()
    }

    /// Closes its standard output, then sends it a signal, and waits until it ends: its code.
    pub async fn stopped_unread(self, name: &str) -> Option<i32> {
        let Self { mut child, stdin, lines } = self;
        drop(lines);
        send_signal(child.id().expect("it runs"), name).await;
        let status = timeout(PATIENCE, child.wait()).await.expect("it ends in time").unwrap();
        drop(stdin);
        status.code()
    }

    /// Waits until it ends: its code, and what it still printed.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        drop(self.stdin.take());
        let mut rest = String::new();
        let mut reader = self.lines.into_inner();
        timeout(PATIENCE, reader.read_to_string(&mut rest)).await.expect("it ends in time").unwrap();
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap();
        (status.code(), rest)
    }
}

/// A terminal of so many columns: what it shows, and what a program has for it.
fn terminal(columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    tcsetwinsize(&master, Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

/// All that a terminal shows, until nobody has it open any more.
fn read_all(mut master: File) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    // The end of a terminal is an error.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        all.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&all).into_owned()
}
