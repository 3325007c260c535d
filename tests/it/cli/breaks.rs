//! `zombi append` while everything around it breaks: the server is killed and started again, or the command
//! is.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use testing::{TestServer, command::CommandLine, server::eventually};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};

use super::{one, payloads, zombi};

/// How many events there are by now.
async fn count(z: &TestServer) -> u64 {
    // Before the first of them there is no table.
    z.get("/tables/t/partitions").await.1["partitions"][0]["next"].as_u64().unwrap_or(0)
}

/// An address that stays the same while the server behind it has another one after each start.
struct Door {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Door {
    async fn before(z: &TestServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, server) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(z.address())));
        let behind = Arc::clone(&server);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let behind = *behind.lock().unwrap();
                tokio::spawn(async move {
                    // Without a server the connection just ends.
                    let Ok(mut server) = TcpStream::connect(behind).await else { return };
                    drop(copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
        Self { address, server, task }
    }

    /// Kills the server and starts it again.
    async fn crash(&self, z: &mut TestServer, pause: Duration) {
        z.kill().await;
        sleep(pause).await;
        z.run().await;
        *self.server.lock().unwrap() = z.address();
    }

    fn command(&self, z: &TestServer, words: &[&str]) -> CommandLine {
        CommandLine::new(words).at(z).env("ZOMBI_URL", &format!("http://{}", self.address))
    }
}

#[tokio::test]
async fn a_server_that_is_killed_and_started_again_is_waited_for() {
    let mut z = TestServer::start().await;
    let door = Door::before(&z).await;
    let mut running = door.command(&z, &["append", "t"]).begin();
    let mut stdin = running.stdin.take().unwrap();
    for round in 0..4_u64 {
        let lines: String = (0..500).map(|line| format!("{}\n", round * 500 + line)).collect();
        stdin.write_all(lines.as_bytes()).await.unwrap();
        if round == 3 {
            break;
        }
        eventually("some of it is stored", async || count(&z).await > round * 500).await;
        door.crash(&mut z, Duration::from_millis(300)).await;
    }
    drop(stdin);
    let (code, out) = running.ended().await;
    assert_eq!(code, Some(0), "{out}");
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(summary["count"], 2000);
    let expected: Vec<_> = (0..2000).map(|number| json!(number.to_string())).collect();
    assert_eq!(payloads(&z, "t").await, expected, "each once, in order");
}

#[tokio::test]
async fn a_file_is_appended_over_kills_of_both_sides() {
    let mut z = TestServer::start().await;
    let door = Door::before(&z).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("numbers");
    let lines: String = (0..60_000).map(|number| format!("{number:0100}\n")).collect();
    std::fs::write(&file, lines).unwrap();
    let name = file.display().to_string();
    let command = door.command(&z, &["append", "t", "-f", &name]);
    for round in 1..=3 {
        let before = count(&z).await;
        let mut running = command.begin();
        running.stdin.take();
        eventually("some more is stored", async || count(&z).await > before || before == 60_000).await;
        match round {
            1 => running.signal("KILL").await,
            2 => running.signal("INT").await,
            _ => door.crash(&mut z, Duration::ZERO).await,
        }
        let (code, out) = running.ended().await;
        match round {
            1 => assert!(code.is_none() || code == Some(0), "{code:?} {out}"),
            // It may have been done already, or not yet have listened.
            2 => assert!([Some(130), Some(0), None].contains(&code), "{code:?} {out}"),
            _ => assert_eq!(code, Some(0), "{out}"),
        }
    }
    let summary = one(&zombi(&z, &["append", "t", "-f", &name]).await);
    assert_eq!((&summary["count"], &summary["duplicates"]), (&json!(60_000), &json!(60_000)));
    let found = payloads(&z, "t").await;
    assert_eq!(found.len(), 60_000, "nothing is lost, nothing is doubled");
    assert!(found.iter().enumerate().all(|(place, payload)| *payload == format!("{place:0100}")));
}

#[tokio::test]
async fn an_interrupted_append_says_what_is_stored() {
    let z = TestServer::start().await;
    let mut running = CommandLine::new(&["append", "t"]).at(&z).begin();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    eventually("both are stored", async || count(&z).await == 2).await;
    running.signal("TERM").await;
    let (code, out) = running.ended().await;
    assert_eq!(code, Some(143));
    let summary: Value = serde_json::from_str(&out).unwrap();
    // The answer may still have been on its way to the command.
    assert!(summary["count"].as_u64().unwrap() <= 2, "{out}");
    drop(stdin);
}

#[tokio::test]
async fn an_interrupted_append_has_its_code_where_nobody_reads_the_summary() {
    let z = TestServer::start().await;
    for (signal, expected) in [("INT", 130), ("TERM", 143)] {
        let before = count(&z).await;
        let mut running = CommandLine::new(&["append", "t"]).at(&z).begin();
        // Its standard input stays open.
        let mut stdin = running.stdin.take().unwrap();
        stdin.write_all(b"one\n").await.unwrap();
        eventually("it is stored", async || count(&z).await > before).await;
        assert_eq!(running.stopped_unread(signal).await, Some(expected), "{signal}");
        drop(stdin);
    }
}

#[tokio::test]
async fn what_an_interrupted_append_advises_stores_nothing_twice() {
    let z = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    // The second batch has a line that is refused.
    let lines: String = (0..5001).map(|number| format!("{number}\n")).collect();
    std::fs::write(&file, format!("{lines}{{\n")).unwrap();
    let (text, name) = (std::fs::read(&file).unwrap(), file.display().to_string());
    let words = ["append", "t", "--format", "json"];
    for (more, input, is_repeatable) in [
        (&["-f", &*name][..], &b""[..], true),
        (&["--source", "s"], &text[..], true),
        (&["--idempotency-key", "hash"], &text[..], true),
        (&[], &text[..], false),
    ] {
        let ran = CommandLine::new(&[&words[..], more].concat()).at(&z).input(input).run().await;
        assert_eq!(ran.code, Some(1), "{more:?}: {}", ran.err);
        // A pipe's first batch may end anywhere, and nothing may have been stored of it.
        let said = ran.err.contains("run the same command again");
        assert!(said == is_repeatable || !ran.err.contains("are stored"), "{more:?}: {}", ran.err);
        assert!(is_repeatable || !said, "{more:?}: {}", ran.err);
    }
}
