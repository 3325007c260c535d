//! A server that answers what a test has written down, in this order, and remembers what it was asked. For
//! routes that are told apart only by what is sent, and for answers that no server gives on request.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use testing::command::CommandLine;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What is answered to one request, before the connection ends.
#[derive(Debug, Clone)]
pub(super) enum Scene {
    /// JSON with a status and headers, each ended by a line's end.
    Json(u16, &'static str, Value),
    /// Server-sent events.
    Events(String),
    /// Nothing.
    Silence,
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Heard {
    /// Method and address.
    pub(super) line: String,
    /// Name and value in lower case, a line each.
    pub(super) headers: String,
    pub(super) body: Vec<u8>,
}

impl Heard {
    /// The body as JSON.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(super) struct Scripted {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An ordinary answer.
pub(super) fn ok(answer: Value) -> Scene {
    Scene::Json(200, "", answer)
}

impl Scripted {
    pub(super) async fn start(scenes: Vec<Scene>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            let mut scenes = VecDeque::from(scenes);
            // One connection after the other: each has one request.
            while let Ok((socket, _)) = listener.accept().await {
                let Some((request, mut socket)) = hear(socket).await else { continue };
                kept.lock().unwrap().push(request);
                let scene = scenes.pop_front().unwrap_or(Scene::Silence);
                drop(socket.write_all(&scene.bytes()).await);
                drop(socket.shutdown().await);
            }
        });
        Self { address, heard, task }
    }

    /// A command for it.
    pub(super) fn command(&self, words: &[&str]) -> CommandLine {
        CommandLine::new(words).env("ZOMBI_URL", &format!("http://{}", self.address))
    }

    /// What it was asked so far.
    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

impl Scene {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Json(status, headers, json) => {
                let body = if json.is_null() { String::new() } else { json.to_string() };
                let length = body.len();
                format!(
                    "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\n{headers}content-length: \
                     {length}\r\nconnection: close\r\n\r\n{body}"
                )
                .into_bytes()
            }
            Self::Events(text) => {
                let head = "HTTP/1.1 200 -\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                format!("{head}{text}").into_bytes()
            }
            Self::Silence => Vec::new(),
        }
    }
}

/// Reads a request to its end.
async fn hear(socket: TcpStream) -> Option<(Heard, TcpStream)> {
    let mut reader = BufReader::new(socket);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let line = head.remove(0).trim_end_matches(" HTTP/1.1").to_owned();
    let headers = head.join("\n").to_lowercase();
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).await.ok()?;
    Some((Heard { line, headers, body }, reader.into_inner()))
}
