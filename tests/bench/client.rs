//! An HTTP/1.1 client that costs little: requests are bytes made before, answers are read as far as needed.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep_until,
};

/// A request as bytes.
pub(crate) fn request(method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {content_type}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A GET that asks for a media type.
pub(crate) fn get(path: &str, accept: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\naccept: {accept}\r\n\r\n").into_bytes()
}

/// A connection that is kept.
pub(crate) struct KeptConnection {
    stream: TcpStream,
    buffer: BytesMut,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct LoadAnswer {
    pub status: u16,
    /// Empty if only its length was wanted.
    pub body: Vec<u8>,
    pub bytes: usize,
}

impl KeptConnection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::with_capacity(256 << 10) }
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> LoadAnswer {
        self.stream.write_all(request).await.unwrap();
        self.answer(true).await
    }

    /// Sends a request; of the answer only the length is kept.
    pub(crate) async fn drain(&mut self, request: &[u8]) -> LoadAnswer {
        self.stream.write_all(request).await.unwrap();
        self.answer(false).await
    }

    async fn answer(&mut self, keep: bool) -> LoadAnswer {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).to_ascii_lowercase();
        let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|text| text.trim().parse::<usize>().ok());
        drop(self.buffer.split_to(head_end));
        let mut answer = LoadAnswer { status, body: Vec::new(), bytes: 0 };
        match length {
            Some(length) => self.take(length, keep, &mut answer).await,
            None if status == 204 => {}
            None => loop {
                let at = loop {
                    if let Some(at) = find(&self.buffer, b"\r\n") {
                        break at;
                    }
                    self.more().await;
                };
                let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..at]).unwrap().trim(), 16)
                    .unwrap();
                drop(self.buffer.split_to(at + 2));
                self.take(size, keep, &mut answer).await;
                let mut end = LoadAnswer { status: 0, body: Vec::new(), bytes: 0 };
                self.take(2, false, &mut end).await;
                if size == 0 {
                    break;
                }
            },
        }
        answer
    }

    async fn take(&mut self, mut length: usize, keep: bool, answer: &mut LoadAnswer) {
        answer.bytes += length;
        while length > 0 {
            if self.buffer.is_empty() {
                self.more().await;
            }
            let piece = self.buffer.split_to(length.min(self.buffer.len()));
            length -= piece.len();
            if keep {
                answer.body.extend_from_slice(&piece);
            }
        }
    }

    async fn more(&mut self) {
        self.buffer.reserve(64 << 10);
        let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
        assert!(read > 0, "the server closed the connection: {:?}", String::from_utf8_lossy(&self.buffer));
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted[0];
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// What a load has done.
pub(crate) struct ClientLoad {
    pub requests: usize,
    pub took: Duration,
    /// Microseconds from when a request was due to its answer.
    pub latency: Histogram<u64>,
}

impl ClientLoad {
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn p99(&self) -> f64 {
        self.latency.value_at_quantile(0.99) as f64
    }
}

/// Sends requests over many connections for a while, each as soon as the one before was answered; with a
/// `rate`, each when it is due, and its latency counts from then.
pub(crate) async fn load<F>(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    rate: Option<f64>,
    request: F,
) -> ClientLoad
where
    F: Fn(usize) -> Vec<u8> + Send + Sync + 'static,
{
    load_at(&[address], connections, time, rate, request).await
}

/// The same, with the connections dealt out to several servers.
pub(crate) async fn load_at<F>(
    addresses: &[SocketAddr],
    connections: usize,
    time: Duration,
    rate: Option<f64>,
    request: F,
) -> ClientLoad
where
    F: Fn(usize) -> Vec<u8> + Send + Sync + 'static,
{
    let mut open = Vec::new();
    for number in 0..connections {
        open.push(KeptConnection::open(addresses[number % addresses.len()]).await);
    }
    let (request, next) = (Arc::new(request), Arc::new(AtomicUsize::new(0)));
    let started = Instant::now();
    let mut running = JoinSet::new();
    for mut connection in open {
        let (request, next) = (Arc::clone(&request), Arc::clone(&next));
        running.spawn(async move {
            let mut latency = Histogram::<u64>::new(3).unwrap();
            loop {
                let number = next.fetch_add(1, Relaxed);
                let mut due = Instant::now();
                if let Some(rate) = rate {
                    due = started + Duration::from_secs_f64(number as f64 / rate);
                    sleep_until(due.into()).await;
                }
                if due >= started + time {
                    return latency;
                }
                let answer = connection.drain(&request(number)).await;
                assert!(matches!(answer.status, 200..300), "status {}", answer.status);
                latency.record(due.elapsed().as_micros() as u64).unwrap();
            }
        });
    }
    let mut latency = Histogram::<u64>::new(3).unwrap();
    while let Some(one) = running.join_next().await {
        latency.add(one.unwrap()).unwrap();
    }
    ClientLoad { requests: latency.len() as usize, took: started.elapsed(), latency }
}
