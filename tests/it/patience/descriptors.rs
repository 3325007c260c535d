//! Few file descriptors: connections leave enough of them to the store, and the limit is raised as far as it
//! may be.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::SmallClient;
use testing::{
    TestServer,
    process::{has, may_open},
    raw,
    server::eventually,
};

/// What one process may open, hard and soft, by the system's own words.
fn limits(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

/// Not started yet, with so many descriptors; none where that cannot be.
async fn server(soft: u64, hard: u64) -> Option<TestServer> {
    if !has("prlimit").await || !may_open(hard.max(4000)) {
        return None;
    }
    let mut z =
        TestServer::tiered(&[("limits.header_timeout_secs", "600"), ("limits.idle_secs", "600")]).await;
    z.wrapper = ["prlimit", &format!("--nofile={soft}:{hard}")].map(str::to_owned).to_vec();
    Some(z)
}

#[tokio::test]
async fn more_idle_connections_than_descriptors_neither_end_it_nor_shut_others_out() {
    let Some(mut z) = server(1024, 1024).await else { return };
    // So that the store needs a new file every few writes.
    z.set("hot.write_buffer_bytes", "1048576");
    z.run().await;
    let mut victim = SmallClient::of(&z);
    victim.is_served(&z, "nothing").await;
    let mut attackers = Vec::new();
    for number in 0..1100 {
        let mut socket = raw::connect(z.address()).await;
        // Silent ones, ones that begin a head, ones that were served and stay.
        let said: &[u8] = [&b""[..], b"GET /tables", b"GET /livez HTTP/1.1\r\nhost: z\r\n\r\n"][number % 3];
        drop(socket.write_all(said).await);
        attackers.push(socket);
    }
    victim.is_served(&z, "1,100 idle connections").await;
    for number in 0..40 {
        // Text that does not compress, so that what was written is what must be stored.
        let mut rng = SmallRng::seed_from_u64(number);
        let text: String = (0..900_000).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
        let (status, body) = z.post("/tables/large", &json!({"payload": text})).await;
        assert_eq!(status, 201, "write {number}: {body}");
    }
    z.flush_and_evict().await;
    // One that makes room for another is still there until it has ended.
    eventually("at most 512 connections of 1,024 descriptors", async || {
        (1.0..=512.0).contains(&z.metric("zombi_http_connections").await)
    })
    .await;
    victim.is_served(&z, "1,100 idle connections, and a store that has grown").await;
    assert!(!z.has_ended());
    drop(attackers);
    victim.is_served(&z, "nothing any more").await;
    z.crash().await;
    victim.has_lost_nothing(&z).await;
    assert_eq!(z.read_all("large", "limit=5").await.len(), 40);
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one_and_what_holds_is_said_at_the_start() {
    let Some(mut z) = server(1024, 3000).await else { return };
    let log = z.try_run_log().await;
    assert_eq!(limits(z.pid()), (3000, 3000));
    let said: Vec<_> =
        log.lines().filter(|line| line.contains("descriptors") || line.contains("open files")).collect();
    assert!(matches!(said[..], [line] if line.contains("3000")), "one line says what it may open: {said:?}");
    // More connections than the soft limit would have let in; nobody is shut out to make room that there is.
    let mut open = Vec::new();
    for _ in 0..1500 {
        let mut socket = raw::connect(z.address()).await;
        is_served(&mut socket).await;
        open.push(socket);
    }
    SmallClient::of(&z).is_served(&z, "1,500 connections").await;
    for socket in &mut open {
        is_served(socket).await;
    }
}

/// One request over a connection that stays.
async fn is_served(socket: &mut TcpStream) {
    socket.write_all(b"HEAD /livez HTTP/1.1\r\nhost: z\r\n\r\n").await.unwrap();
    let head = raw::read_until(socket, "\r\n\r\n").await;
    assert_eq!(raw::status(&head), 200, "{head}");
}
