//! A way to a server on which answers to appends get lost: message by message, so that all else comes
//! through.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// What every answer to an entry that was stored begins with.
const STORED: &[u8] = b"{\"stream\":";

/// Which answers get lost, on all ways.
#[derive(Debug, Default)]
pub(crate) struct LostAnswers {
    is_next_lost: AtomicBool,
    lost: AtomicU64,
}

impl LostAnswers {
    /// The next answer to an entry that was stored is lost.
    pub(crate) fn lose_next(&self) {
        self.is_next_lost.store(true, Ordering::Relaxed);
    }

    /// How many were.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn is_lost(&self, payload: &[u8]) -> bool {
        let is_lost = payload.starts_with(STORED) && self.is_next_lost.swap(false, Ordering::Relaxed);
        if is_lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        is_lost
    }
}

/// Listens for clients of the server at an address; returns the port at which it does.
pub(crate) async fn listen(server: SocketAddr, answers: Arc<LostAnswers>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Whoever asks for a server that is not there is hung up on.
            let Ok(server) = TcpStream::connect(server).await else { continue };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(there(from_client, to_server));
            tokio::spawn(back(from_server, to_client, answers.clone()));
        }
    });
    port
}

async fn there(mut client: OwnedReadHalf, mut server: OwnedWriteHalf) {
    // However it ends, both ends are closed.
    let _ = copy(&mut client, &mut server).await;
}

async fn back(server: OwnedReadHalf, mut client: OwnedWriteHalf, answers: Arc<LostAnswers>) {
    let mut server = BufReader::new(server);
    while let Ok(Some((said, payload))) = next(&mut server).await {
        let is_lost = answers.is_lost(&said[payload..]);
        if !is_lost && client.write_all(&said).await.is_err() {
            return;
        }
    }
}

/// The next thing that the server says, and where in it the payload of a message begins; none at its end.
async fn next(server: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<(Vec<u8>, usize)>> {
    let mut said = Vec::new();
    if server.read_until(b'\n', &mut said).await? == 0 {
        return Ok(None);
    }
    let payload = said.len();
    if said.starts_with(b"MSG ") || said.starts_with(b"HMSG ") {
        let line = String::from_utf8_lossy(&said);
        let length = line.split_whitespace().last().and_then(|length| length.parse::<usize>().ok());
        let length = length.ok_or(io::ErrorKind::InvalidData)?;
        said.resize(payload + length + 2, 0); // its line ends, too
        server.read_exact(&mut said[payload..]).await?;
    }
    Ok(Some((said, payload)))
}
