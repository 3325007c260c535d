//! The connection to NATS: made when it is needed, given up when it is silent or cut off from the others.
//!
//! A server that is stopped keeps its connections, and the client by itself would notice after minutes. So
//! two requests in a row without an answer end a connection, and the next request makes a new one, to any of
//! the servers. One that is cut off from the others answers at once, and knows of no leader: so does every
//! server while one is elected, and it is left once it has said nothing else for as long as two requests
//! without an answer take. A new connection rather than the client's own reconnecting: that waits for what is
//! still to be written to a server that reads nothing.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_nats::{Client, ConnectOptions, HeaderMap, Message, StatusCode};
use bytes::Bytes;
use contracts::shared_log::LogError;
use futures_util::StreamExt;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use crate::settings::NatsSettings;

/// How long an answer may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one server may take to let a client in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests without an answer, one after the other, that end a connection.
const SILENT_REQUESTS: u32 = 2;
/// How long a server may know of no leader, which ends a connection at the pace of silence.
const CUT_OFF: Duration = ANSWER_TIMEOUT.saturating_mul(SILENT_REQUESTS);
/// How often the client itself asks whether the server is there, and after three times gives up: for a
/// connection that still reads what nobody asked for.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// "JetStream system temporarily unavailable". It is not looked for in longer answers: they refuse nothing.
const NO_LEADER: &[u8] = br#""err_code":10008"#;
const MOST_REFUSAL_BYTES: usize = 1024;
/// What a file of credentials has that NATS's own tools have written.
const CREDS_MARK: &str = "BEGIN NATS USER JWT";

/// Why a request did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Nobody knows what became of it.
    #[error("{0}")]
    NoAnswer(String),
    /// It was refused.
    #[error("{what} ({code})")]
    Refused {
        /// NATS's own number of the error.
        code: u64,
        /// Its words.
        what: String,
    },
    /// The answer is not what NATS answers.
    #[error("NATS answers what nobody understands: {0}")]
    Strange(String),
}

impl From<CallError> for LogError {
    fn from(error: CallError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A message to be sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// The client in use.
struct Connected {
    client: Client,
    /// Tells it from those before and after it.
    number: u64,
    /// Requests in a row that it did not answer.
    silent: u32,
    /// Since when it says nothing but that it knows of no leader.
    cut_off_since: Option<Instant>,
}

/// Why a server is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftFor {
    Silence,
    Leaderless,
    /// An entry that counts there is not there.
    Gap,
}

impl fmt::Display for LeftFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silence => "does not answer",
            Self::Leaderless => "knows of no leader",
            Self::Gap => "lacks an entry that it counts",
        })
    }
}

/// The connection of one log. Logs do not share one: what a log has in flight is not lost when another gives
/// up.
pub(super) struct NatsConnection {
    settings: NatsSettings,
    current: Mutex<Option<Connected>>,
    /// How many were made.
    made: AtomicU64,
    /// How many were given up as the server did not answer, and as it knew of no leader.
    silent: AtomicU64,
    leaderless: AtomicU64,
}

impl NatsConnection {
    /// Connects when it is first needed.
    pub(super) fn new(settings: NatsSettings) -> Self {
        let (made, silent, leaderless) = Default::default();
        Self { settings, current: Mutex::default(), made, silent, leaderless }
    }

    /// Sends messages to a subject, in order, and returns the answer to the last one.
    ///
    /// # Errors
    /// `NoAnswer`: none came within the time, or there is no connection.
    pub(super) async fn ask(
        &self,
        subject: String,
        messages: Vec<Outgoing>,
        within: Duration,
    ) -> Result<Message, CallError> {
        let (client, number) = self.client().await?;
        match timeout(within, exchange(&client, subject, messages)).await {
            Ok(Ok(message)) => {
                if is_leaderless(message.status, &message.payload) {
                    self.unheard(number, LeftFor::Leaderless).await;
                } else {
                    self.heard(number);
                }
                Ok(message)
            }
            Ok(Err(error)) => {
                self.leave(number).await;
                Err(CallError::NoAnswer(format!("the connection has ended: {error}")))
            }
            Err(_) => {
                self.unheard(number, LeftFor::Silence).await;
                Err(CallError::NoAnswer(format!("no answer within {} ms", within.as_millis())))
            }
        }
    }

    /// The most bytes that the server takes as one message.
    ///
    /// # Errors
    /// `NoAnswer`: there is no connection.
    pub(super) async fn max_payload(&self) -> Result<usize, CallError> {
        Ok(self.client().await?.0.max_payload())
    }

    /// Leaves a server that lacks an entry which it counts, for any of them. What is on its way through it is
    /// not taken back.
    pub(super) async fn leave_gap(&self) {
        let number = self.current.lock().await.as_ref().map(|connected| connected.number);
        if let Some(number) = number {
            self.give_up(number, LeftFor::Gap).await;
        }
    }

    /// How often a connection was given up because the server did not answer.
    pub(super) fn silent(&self) -> u64 {
        self.silent.load(Ordering::Relaxed)
    }

    /// How often a connection was given up because the server knew of no leader.
    pub(super) fn leaderless(&self) -> u64 {
        self.leaderless.load(Ordering::Relaxed)
    }

    /// The client in use, or a new one. Others wait meanwhile: at most as long as all servers together may
    /// take.
    async fn client(&self) -> Result<(Client, u64), CallError> {
        let mut current = self.current.lock().await;
        if let Some(connected) = current.as_ref() {
            return Ok((connected.client.clone(), connected.number));
        }
        let client = connect(&self.settings).await.map_err(CallError::NoAnswer)?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        *current = Some(Connected { client: client.clone(), number, silent: 0, cut_off_since: None });
        Ok((client, number))
    }

    /// Waits for nobody who connects meanwhile: then there is another client, or the next answer will do.
    fn heard(&self, number: u64) {
        let Ok(mut current) = self.current.try_lock() else { return };
        if let Some(connected) = current.as_mut().filter(|connected| connected.number == number) {
            (connected.silent, connected.cut_off_since) = (0, None);
        }
    }

    /// Notes that there was no answer, or none of use, and gives the server up if that has lasted.
    async fn unheard(&self, number: u64, why: LeftFor) {
        let has_lasted = match self.current.lock().await.as_mut().filter(|one| one.number == number) {
            Some(connected) if why == LeftFor::Leaderless => {
                connected.cut_off_since.get_or_insert_with(Instant::now).elapsed() >= CUT_OFF
            }
            Some(connected) => {
                connected.silent += 1;
                connected.silent >= SILENT_REQUESTS
            }
            None => false,
        };
        if has_lasted {
            self.give_up(number, why).await;
        }
    }

    async fn give_up(&self, number: u64, why: LeftFor) {
        let Some(client) = self.leave(number).await else { return };
        match why {
            LeftFor::Silence => _ = self.silent.fetch_add(1, Ordering::Relaxed),
            LeftFor::Leaderless => _ = self.leaderless.fetch_add(1, Ordering::Relaxed),
            LeftFor::Gap => {}
        }
        let server = client.server_info().server_name;
        warn!(server, "a NATS server {why}; connecting to any of the servers");
    }

    /// The client, if it was still in use.
    async fn leave(&self, number: u64) -> Option<Client> {
        let left = self.current.lock().await.take_if(|connected| connected.number == number);
        left.map(|connected| connected.client)
    }
}

async fn connect(settings: &NatsSettings) -> Result<Client, String> {
    // After a lost connection each server is tried once; then this client is done, and the next is made here.
    let options = ConnectOptions::new()
        .name("zombi")
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .max_reconnects(settings.urls.len())
        // What matters of these is said where it is noticed; each log has a connection, and each start many.
        .event_callback(|event| async move { debug!(%event, "the connection to a NATS server") })
        .ignore_discovered_servers();
    let options = with_credentials(options, settings).await?;
    let options = match &settings.ca_file {
        Some(path) => options.add_root_certificates(path.clone()).require_tls(true),
        None => options,
    };
    let connecting = Box::pin(options.connect(&settings.urls));
    connecting.await.map_err(|error| format!("no NATS server lets us in: {error}"))
}

async fn with_credentials(
    options: ConnectOptions,
    settings: &NatsSettings,
) -> Result<ConnectOptions, String> {
    let Some(path) = &settings.credentials_file else { return Ok(options) };
    let of_file = |why: String| format!("cluster.nats.credentials_file, {}: {why}", path.display());
    let text = tokio::fs::read_to_string(path).await.map_err(|error| of_file(error.to_string()))?;
    if text.contains(CREDS_MARK) {
        return options.credentials(&text).map_err(|error| of_file(error.to_string()));
    }
    let line = text.lines().next().unwrap_or_default().trim();
    match line.split_once(':') {
        Some((user, password)) if !user.is_empty() => {
            Ok(options.user_and_password(user.to_owned(), password.to_owned()))
        }
        _ => Err(of_file("its first line is not user:password".to_owned())),
    }
}

/// Whether a server answers only that it knows of no leader. As long as it is cut off from the others it will
/// say nothing else, while they may have one.
fn is_leaderless(status: Option<StatusCode>, payload: &[u8]) -> bool {
    let is_short = payload.len() <= MOST_REFUSAL_BYTES;
    let names_none = is_short && payload.windows(NO_LEADER.len()).any(|part| part == NO_LEADER);
    names_none || status == Some(StatusCode::NO_RESPONDERS)
}

/// With an inbox of its own: a request may be many messages, of which only the last is answered.
async fn exchange(
    client: &Client,
    subject: String,
    mut messages: Vec<Outgoing>,
) -> Result<Message, async_nats::Error> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    let last = messages.pop().unwrap_or_default();
    for Outgoing { headers, payload } in messages {
        client.publish_with_headers(subject.clone(), headers, payload).await?;
    }
    client.publish_with_reply_and_headers(subject, inbox, last.headers, last.payload).await?;
    answers.next().await.ok_or_else(|| "its client has stopped".into())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::Arc,
    };

    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::{TcpListener, TcpStream},
        time::sleep,
    };

    use super::*;

    /// Generous: nothing here is about how fast the machine is.
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn read(text: &str) -> Result<(), String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let settings =
            NatsSettings { credentials_file: Some(file.path().to_owned()), ..NatsSettings::default() };
        with_credentials(ConnectOptions::new(), &settings).await.map(drop)
    }

    #[tokio::test]
    async fn credentials_are_a_line_or_what_nats_has_written() {
        assert_eq!(read("zombi:secret\n").await, Ok(()));
        assert_eq!(read("zombi:with:colons").await, Ok(()));
        for wrong in ["", "zombi", ":secret", "-----BEGIN NATS USER JWT-----\nx\n"] {
            let said = read(wrong).await.unwrap_err();
            assert!(said.contains("cluster.nats.credentials_file") && !said.contains("secret"), "{said}");
        }
    }

    fn refused(code: u64) -> String {
        format!(r#"{{"error":{{"code":503,"err_code":{code},"description":"x"}}}}"#)
    }

    /// A server that is cut off from the others, as one client has it.
    async fn refuse(socket: TcpStream) -> io::Result<()> {
        let (from_client, mut to_client) = socket.into_split();
        to_client.write_all(b"INFO {\"max_payload\":1048576,\"headers\":true}\r\n").await?;
        let (mut lines, mut sid) = (BufReader::new(from_client).lines(), String::new());
        while let Some(line) = lines.next_line().await? {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["PING"] => to_client.write_all(b"PONG\r\n").await?,
                ["SUB", _, number] => number.clone_into(&mut sid),
                ["PUB", _, inbox, length] => {
                    let mut payload = vec![0; length.parse::<usize>().map_err(io::Error::other)? + 2];
                    lines.get_mut().read_exact(&mut payload).await?;
                    let answer = refused(10_008);
                    let message = format!("MSG {inbox} {sid} {}\r\n{answer}\r\n", answer.len());
                    to_client.write_all(message.as_bytes()).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_server_that_knows_of_no_leader_is_left_at_the_pace_of_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let urls = vec![format!("nats://{}", listener.local_addr().unwrap())];
        let arrived = Arc::new(AtomicU64::new(0));
        let counted = arrived.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(refuse(socket));
            }
        });
        let connection = NatsConnection::new(NatsSettings { urls, ..NatsSettings::default() });
        let began = Instant::now();
        // To connect has a limit of its own, which a slow machine may need.
        let ask = async || {
            let answer = connection.ask("a".to_owned(), Vec::new(), PATIENCE).await;
            answer.is_ok_and(|answer| is_leaderless(answer.status, &answer.payload))
        };
        let until_left = async {
            while connection.leaderless() == 0 {
                ask().await;
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, until_left).await.expect("it is left");
        assert!(began.elapsed() >= CUT_OFF, "one may be elected meanwhile");
        let before = arrived.load(Ordering::Relaxed);
        timeout(PATIENCE, async { while !ask().await {} }).await.expect("another connection is made");
        assert!(arrived.load(Ordering::Relaxed) > before);
        assert_eq!((connection.silent(), connection.leaderless()), (0, 1));
    }

    #[test]
    fn only_two_answers_know_of_no_leader() {
        assert!(is_leaderless(None, refused(10_008).as_bytes()));
        assert!(is_leaderless(Some(StatusCode::NO_RESPONDERS), b""));
        assert!(!is_leaderless(None, refused(10_071).as_bytes()));
        assert!(!is_leaderless(None, b"{}"));
    }

    #[tokio::test]
    async fn who_cannot_connect_says_so() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let urls = vec![format!("nats://127.0.0.1:{port}")];
        let connection = NatsConnection::new(NatsSettings { urls, ..NatsSettings::default() });
        let asked = connection.ask("a".to_owned(), Vec::new(), Duration::from_secs(60)).await;
        assert!(matches!(asked, Err(CallError::NoAnswer(_))), "{asked:?}");
        assert_eq!(connection.silent(), 0, "there was none to be given up");
    }
}
