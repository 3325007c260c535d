//! S3 at a distance: whatever is sent there comes later, and all that is said back at once. A request takes
//! so much longer, whatever it is.

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Bytes that go together.
const PIECE: usize = 64 << 10;
/// Pieces of one connection that are on their way at once.
const PIECES: usize = 1024;

/// Another address of a server; gone when dropped, but for connections that are open.
pub(crate) struct Distance {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Distance {
    /// The server at `there`, so much further away.
    pub(crate) async fn to(there: SocketAddr, later: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                tokio::spawn(async move {
                    if let Ok(far) = TcpStream::connect(there).await {
                        carry(near, far, later).await;
                    }
                });
            }
        });
        Self { address, accepting }
    }

    /// What clients are configured with.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries what is said on one connection, until both sides have ended.
async fn carry(near: TcpStream, far: TcpStream, later: Duration) {
    // Or small pieces would wait for one another, much longer than they are to.
    drop(near.set_nodelay(true).and(far.set_nodelay(true)));
    let (mut asked, mut back) = near.into_split();
    let (mut answered, mut there) = far.into_split();
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let sets_off = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            let is_open = asked.read_buf(&mut piece).await.is_ok_and(|read| read > 0);
            if !is_open || sender.send((Instant::now() + later, piece.freeze())).await.is_err() {
                return;
            }
        }
    };
    let arrives = async move {
        while let Some((when, piece)) = on_the_way.recv().await {
            sleep_until(when).await;
            if there.write_all(&piece).await.is_err() {
                return;
            }
        }
        drop(there.shutdown().await);
    };
    let comes_back = async move { drop(copy(&mut answered, &mut back).await) };
    tokio::join!(sets_off, arrives, comes_back);
}
