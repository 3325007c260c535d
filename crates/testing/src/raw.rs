//! Requests by hand: clients that are slow, silent or greedy, as no library would be.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::server::PATIENCE;
pub use super::server::known::known;

/// Connects, with little room for what comes: a client that does not read takes next to nothing of an answer.
pub async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

/// Connects and sends.
pub async fn send(address: SocketAddr, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut socket = connect(address).await;
    socket.write_all(&known(bytes.as_ref())).await.unwrap();
    socket
}

/// A GET whose answer nobody has read yet.
pub async fn get(address: SocketAddr, path: &str, accept: &str) -> TcpStream {
    send(address, format!("GET {path} HTTP/1.1\r\nhost: z\r\naccept: {accept}\r\n\r\n")).await
}

/// The head of a POST; `headers` end with a line's end.
pub fn post_head(path: &str, content_type: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: z\r\ncontent-type: {content_type}\r\n{headers}\r\n")
}

/// A chunk of a body.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// What comes, up to a text that ends it; all that came if the connection ends before.
pub async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut read = String::new();
    let mut buffer = vec![0; 4096];
    while !read.contains(end) {
        match timeout(PATIENCE, socket.read(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("{end:?} does not come after {read:?}"))
        {
            Ok(length @ 1..) => read.push_str(&String::from_utf8_lossy(&buffer[..length])),
            _ => break,
        }
    }
    read
}

/// All that comes until the server ends the connection.
pub async fn read_to_end(socket: &mut TcpStream) -> String {
    let mut read = Vec::new();
    // A reset after the answer is an end too.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut read)).await.expect("the connection ends");
    String::from_utf8_lossy(&read).into_owned()
}

/// The status of an answer; 0 if there is none.
pub fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
}

/// The JSON of an answer that is whole and not chunked.
pub fn json(answer: &str) -> Value {
    answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default()
}
