//! Questions that a test asks a server itself, in the text protocol: who leads a stream next, and how long
//! entries take that a quorum must sync.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{ANSWER_TIMEOUT, NatsTrio, PASSWORD, SERVERS, USER};
use crate::server::{PATIENCE, eventually_some};

/// A stream to append to that is no shard's log, and how it is made.
const STREAM: &str = "measured";
const STREAM_CONFIG: &str = concat!(
    r#"{"name":"measured","subjects":["measured"],"retention":"limits","storage":"file","#,
    r#""discard":"old","num_replicas":3}"#
);

/// A connection on which one question is asked after the other.
pub(super) struct Questions(BufReader<TcpStream>);

impl Questions {
    /// Connects as whoever may do everything.
    pub(super) async fn to(address: SocketAddr) -> io::Result<Self> {
        let mut socket = BufReader::new(TcpStream::connect(address).await?);
        let said = format!(
            "CONNECT {{\"verbose\":false,\"user\":\"{USER}\",\"pass\":\"{PASSWORD}\"}}\r\nSUB answers 1\r\n"
        );
        socket.write_all(said.as_bytes()).await?;
        Ok(Self(socket))
    }

    /// Sends a message, and waits until something is answered.
    pub(super) async fn ask(&mut self, subject: &str, body: &str) -> io::Result<()> {
        let said = format!("PUB {subject} answers {}\r\n{body}\r\n", body.len());
        self.0.write_all(said.as_bytes()).await?;
        let mut line = String::new();
        while !line.starts_with("MSG ") {
            line.clear();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl NatsTrio {
    /// How long so many entries take of which each is appended once a quorum has synced the one before.
    pub async fn time_appends(&self, count: u32) -> Duration {
        eventually_some("a quorum takes entries", async || {
            for number in (0..SERVERS).filter(|number| self.processes[*number].is_some()) {
                match time_appends_at(self.address(number), count).await {
                    Ok(time) => return Some(time),
                    Err(error) => println!("n{number} does not say how long entries take: {error}"),
                }
            }
            None
        })
        .await
    }
}

/// The same at one server, which may stand still.
async fn time_appends_at(address: SocketAddr, count: u32) -> io::Result<Duration> {
    let mut questions = timeout(ANSWER_TIMEOUT, Questions::to(address)).await??;
    // It may be there already, or its answer may be late: whether it takes an entry says more.
    let create = format!("$JS.API.STREAM.CREATE.{STREAM}");
    drop(timeout(ANSWER_TIMEOUT, questions.ask(&create, STREAM_CONFIG)).await);
    timeout(ANSWER_TIMEOUT, questions.ask(STREAM, "first")).await??;
    let began = Instant::now();
    for _ in 0..count {
        timeout(PATIENCE, questions.ask(STREAM, "next")).await??;
    }
    Ok(began.elapsed())
}
