//! The key server of an issuer: https on loopback, where the test says what it answers and whether it is
//! there. It remembers what it is asked. Its certificate is made by openssl.

mod issuer;

use std::{
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rustls::{ServerConfig, crypto::aws_lc_rs::default_provider};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

pub use self::issuer::{Issuer, KIDS, STRANGER, base64url, sign_hs256};
use super::certificates::CertifiedServer;

/// Where the set is.
const SET: &str = "/openid/v1/jwks";
/// More than a set may have.
const HUGE_BYTES: usize = 1 << 20;

/// What it answers to who asks for the set. Whoever asks for anything else gets every key there is.
#[derive(Debug, Clone)]
pub enum JwksAnswer {
    /// A status and a body; without a length it ends with the connection.
    Body { status: u16, content_type: &'static str, text: String, says_length: bool },
    /// 302 to a URL.
    Redirect(String),
    /// Nothing, ever.
    Hang,
    /// A body without an end, byte by byte.
    Drip,
}

impl JwksAnswer {
    /// The set of these keys of the issuer.
    pub fn keys(kids: &[&str]) -> Self {
        Self::set(kids.iter().map(|kid| Issuer::shared().jwk(kid)).collect())
    }

    /// A set.
    pub fn set(keys: Vec<Value>) -> Self {
        Self::text(200, "application/jwk-set+json", json!({"keys": keys}).to_string())
    }

    /// Anything else.
    pub fn text(status: u16, content_type: &'static str, text: impl Into<String>) -> Self {
        Self::Body { status, content_type, text: text.into(), says_length: true }
    }

    /// All keys, and spaces up to 1 MiB.
    pub fn huge(says_length: bool) -> Self {
        let keys: Vec<Value> = KIDS.iter().map(|kid| Issuer::shared().jwk(kid)).collect();
        let mut text = json!({"keys": keys}).to_string();
        text.extend(std::iter::repeat_n(' ', HUGE_BYTES.saturating_sub(text.len())));
        Self::Body { status: 200, content_type: "application/jwk-set+json", text, says_length }
    }
}

/// What it was asked.
#[derive(Debug, Clone)]
pub struct JwksRequest {
    /// The path, with its query.
    pub path: String,
    /// The header; empty if there was none.
    pub authorization: String,
}

impl JwksRequest {
    fn parse(head: &str) -> Self {
        let mut headers = head.lines().filter_map(|line| line.split_once(':'));
        let authorization = headers.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        Self {
            path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            authorization: authorization.map_or("", |(_, value)| value.trim()).to_owned(),
        }
    }
}

struct JwksState {
    answer: Mutex<JwksAnswer>,
    seen: Mutex<Vec<JwksRequest>>,
    connections: AtomicUsize,
}

/// The server. It ends when dropped.
pub struct JwksServer {
    /// Where it is, now and after each new start.
    pub address: SocketAddr,
    state: Arc<JwksState>,
    acceptor: TlsAcceptor,
    serving: JoinSet<()>,
    /// Keeps the port while nobody serves there: connections are refused.
    kept: Option<TcpSocket>,
}

impl JwksServer {
    /// Starts one.
    pub fn start(answer: JwksAnswer) -> Self {
        let mut server = Self::away(answer);
        server.resume();
        server
    }

    /// One that is not there yet.
    pub fn away(answer: JwksAnswer) -> Self {
        let port = bind(([127, 0, 0, 1], 0).into());
        Self {
            address: port.local_addr().unwrap(),
            state: Arc::new(JwksState {
                answer: Mutex::new(answer),
                seen: Mutex::default(),
                connections: AtomicUsize::new(0),
            }),
            acceptor: acceptor(CertifiedServer::shared()),
            serving: JoinSet::new(),
            kept: Some(port),
        }
    }

    /// Serves from now on.
    pub fn resume(&mut self) {
        let listener = bind(self.address).listen(64).unwrap();
        self.kept = None;
        self.serving.spawn(accept(listener, self.acceptor.clone(), Arc::clone(&self.state)));
    }

    /// Refuses connections from now on, and ends those that are open.
    pub async fn stop(&mut self) {
        self.kept = Some(bind(self.address));
        self.serving.shutdown().await;
    }

    /// Gives another answer from now on.
    pub fn answer(&self, answer: JwksAnswer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    /// The URL of the set.
    pub fn url(&self) -> String {
        format!("https://{}{SET}", self.address)
    }

    /// The URL of something that nobody should ask for.
    pub fn url_elsewhere(&self) -> String {
        format!("https://{}/elsewhere", self.address)
    }

    /// How often somebody connected, TLS or not.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// How often the set was asked for.
    pub fn requests(&self) -> usize {
        self.seen().iter().filter(|request| request.path == SET).count()
    }

    /// What was asked for beside the set.
    pub fn strayed(&self) -> Vec<JwksRequest> {
        self.seen().into_iter().filter(|request| request.path != SET).collect()
    }

    /// All it was asked.
    pub fn seen(&self) -> Vec<JwksRequest> {
        self.state.seen.lock().unwrap().clone()
    }
}

/// A socket on a port that another one of ours may be on.
fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

fn acceptor(CertifiedServer { server, .. }: &CertifiedServer) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.certificate()], server.private_key())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<JwksState>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        state.connections.fetch_add(1, SeqCst);
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        connections.spawn(async move {
            // A client that hangs up, or does not trust the certificate, is no failure of the server.
            let _ = serve(stream, acceptor, &state).await;
        });
    }
}

/// One request a connection.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: &JwksState) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut head = Vec::with_capacity(4096);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let request = JwksRequest::parse(&String::from_utf8_lossy(&head));
    let answer = if request.path == SET {
        state.answer.lock().unwrap().clone()
    } else {
        JwksAnswer::keys(&[&KIDS[..], &[STRANGER]].concat())
    };
    state.seen.lock().unwrap().push(request);
    let text = match answer {
        JwksAnswer::Body { status, content_type, text, says_length } => {
            let length = format!("content-length: {}\r\n", text.len());
            let length = if says_length { length.as_str() } else { "" };
            let head = format!("HTTP/1.1 {status} \r\ncontent-type: {content_type}\r\n{length}");
            format!("{head}connection: close\r\n\r\n{text}")
        }
        JwksAnswer::Redirect(to) => {
            format!("HTTP/1.1 302 \r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        JwksAnswer::Hang => return pending().await,
        JwksAnswer::Drip => return drip(stream).await,
    };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// Sends for ever, and never long nothing.
async fn drip(mut stream: impl AsyncWriteExt + Unpin) -> io::Result<()> {
    let head = "HTTP/1.1 200 \r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n{\"keys\":[";
    stream.write_all(head.as_bytes()).await?;
    loop {
        stream.write_all(b" ").await?;
        stream.flush().await?;
        sleep(Duration::from_millis(200)).await;
    }
}
