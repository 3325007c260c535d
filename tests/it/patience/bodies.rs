//! Bodies that trickle, stand still or never come: they hold what has come and no more, and those that are no
//! streams end in time.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::SmallClient;
use testing::{
    TestServer,
    raw::{self, chunk, post_head},
    server::PATIENCE,
};

/// A body that declares all that it may have.
const DECLARED: &str = "content-length: 8388608\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n";

/// Every way to begin a body and not to go on.
fn beginnings() -> Vec<Vec<u8>> {
    let json = "application/json";
    let (lines, protobuf) = ("application/x-ndjson", "application/x-protobuf");
    let packed = format!("{CHUNKED}content-encoding: gzip\r\n");
    // The head of a gzip member, and nothing in it.
    let gzip = chunk(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    let with = |head: String, body: &[u8]| [head.into_bytes(), body.to_vec()].concat();
    vec![
        with(post_head("/tables/t", json, DECLARED), b"{"),
        with(post_head("/tables/t", json, DECLARED), b""),
        with(post_head("/tables/t/bulk", json, CHUNKED), &chunk(b"{\"records\": [")),
        with(post_head("/tables/t/bulk", protobuf, DECLARED), b"\n"),
        with(post_head("/tables/t", protobuf, CHUNKED), &chunk(b"\n")),
        with(post_head("/tables/t", lines, DECLARED), b"{\"payload\""),
        with(post_head("/tables/t", lines, CHUNKED), &chunk(b"{\"payload\": 1}\n{\"pay")),
        with(post_head("/tables/t", lines, &packed), &gzip),
        with(post_head("/tables/t/bulk", json, &packed), &gzip),
        with(post_head("/consumers/g/commit", json, DECLARED), b"{"),
    ]
}

#[tokio::test]
async fn bodies_that_do_not_come_hold_nothing_that_others_need() {
    // As little memory for bodies as may be: two of those that are declared would take all of it.
    let z =
        TestServer::start_with(&[("limits.inflight_bytes", "16777216"), ("limits.body_idle_secs", "600")])
            .await;
    let mut victim = SmallClient::of(&z);
    victim.is_served(&z, "nothing").await;
    let mut attackers = Vec::new();
    for beginning in beginnings().iter().cycle().take(100) {
        attackers.push(raw::send(z.address(), beginning).await);
    }
    victim.is_served(&z, "100 bodies that stand still").await;
    let large: Vec<Value> =
        (0..8).map(|number| json!({"payload": format!("{}{number}", "0".repeat(500_000))})).collect();
    let (status, body) = z.post("/tables/large/bulk", &json!({"records": large})).await;
    assert_eq!(status, StatusCode::CREATED, "a body of 4 MB: {body}");
    let lines = "{\"payload\": 1}\n".repeat(10_000);
    let (status, body) = z.post_bytes("/tables/lines", "application/x-ndjson", lines).await;
    assert_eq!((status, &body["count"]), (StatusCode::CREATED, &json!(10_000)), "{body}");
    assert_eq!(attackers.len(), 100);
    victim.has_lost_nothing(&z).await;
}

/// Sends a piece every half second until it has sent `count`, or is answered; the answer.
async fn trickle(z: &TestServer, head: String, pieces: impl Fn(usize) -> Vec<u8>, count: usize) -> String {
    let mut socket = raw::send(z.address(), head).await;
    for number in 0..count {
        if socket.write_all(&pieces(number)).await.is_err() || is_answered(&mut socket).await {
            break;
        }
    }
    raw::read_to_end(&mut socket).await
}

/// Whether an answer comes within half a second; nothing of it is taken.
async fn is_answered(socket: &mut TcpStream) -> bool {
    let came = timeout(Duration::from_millis(500), socket.peek(&mut [0])).await;
    came.is_ok()
}

/// The pieces of a stream of so many lines: each ends in the middle of the next line, as those of buffers do.
fn cut_line(number: usize, count: usize) -> Vec<u8> {
    let begin = if number == 0 { "{\"pay" } else { "" };
    match count - number {
        0 => b"0\r\n\r\n".to_vec(),
        1 => chunk(format!("{begin}load\": {number}}}\n").as_bytes()),
        _ => chunk(format!("{begin}load\": {number}}}\n{{\"pay").as_bytes()),
    }
}

const CLOSING: &str = "connection: close\r\n";
/// More pieces than can be sent before the body is given up.
const ENDLESS: usize = 2 * PATIENCE.as_secs() as usize;

fn is_timeout(what: &str, answer: &str) {
    assert_eq!(raw::status(answer), 408, "{what}: {answer}");
    assert_eq!(raw::json(answer)["code"], "timeout", "{what}: {answer}");
    // A commit is no write of events.
    assert!(what == "a commit" || raw::json(answer)["outcome"] == "not_written", "{what}: {answer}");
}

#[tokio::test]
async fn a_body_below_the_least_rate_is_given_up_and_a_stream_of_lines_is_not() {
    let z = TestServer::start().await;
    let byte = |_| b" ".to_vec();
    let slow = [
        ("a JSON record", "/tables/t", "application/json", format!("{DECLARED}{CLOSING}"), false),
        ("a JSON record in chunks", "/tables/t", "application/json", format!("{CHUNKED}{CLOSING}"), true),
        ("a bulk write", "/tables/t/bulk", "application/json", format!("{DECLARED}{CLOSING}"), false),
        (
            "a protobuf bulk write",
            "/tables/t/bulk",
            "application/x-protobuf",
            format!("{DECLARED}{CLOSING}"),
            false,
        ),
        ("a commit", "/consumers/g/commit", "application/json", format!("{DECLARED}{CLOSING}"), false),
    ];
    let slow = slow.map(|(what, path, content_type, headers, is_chunked)| {
        let piece = move |number| if is_chunked { chunk(&byte(number)) } else { byte(number) };
        let answer = trickle(&z, post_head(path, content_type, &headers), piece, ENDLESS);
        async move { is_timeout(what, &answer.await) }
    });
    // Sixteen times as fast as it must be, for longer than the slow may take.
    let text = format!("{{\"payload\": \"{}\"}}", "x".repeat(30 * 8192));
    let length = text.len();
    let pieces =
        move |number: usize| text.as_bytes()[number * 8192..length.min((number + 1) * 8192)].to_vec();
    let head =
        post_head("/tables/fast", "application/json", &format!("content-length: {length}\r\n{CLOSING}"));
    let fast = trickle(&z, head, pieces, 31);
    let line = |number| cut_line(number, 29);
    let lines = trickle(
        &z,
        post_head("/tables/lines", "application/x-ndjson", &format!("{CHUNKED}{CLOSING}")),
        line,
        30,
    );
    let (_, (fast, lines)) = join(join_all(slow), join(fast, lines)).await;
    assert_eq!(raw::status(&fast), 201, "a body above the least rate: {fast}");
    assert_eq!(raw::status(&lines), 201, "two lines a second: {lines}");
    assert_eq!((z.read_all("fast", "").await.len(), z.read_all("lines", "").await.len()), (1, 29));
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "nothing of the slow was written");
}

#[tokio::test]
async fn a_body_has_a_total_time_and_a_stream_of_lines_is_only_ended_by_silence() {
    let z = TestServer::start_with(&[("limits.body_secs", "3"), ("limits.body_idle_secs", "10")]).await;
    let piece = |_| vec![b' '; 16_384];
    let long = trickle(
        &z,
        post_head("/tables/t", "application/json", &format!("{DECLARED}{CLOSING}")),
        piece,
        ENDLESS,
    );
    let began = Instant::now();
    let line = |number| cut_line(number, 13);
    let head = || post_head("/tables/lines", "application/x-ndjson", &format!("{CHUNKED}{CLOSING}"));
    let lines = trickle(&z, head(), line, 14);
    let silent = async {
        let mut socket =
            raw::send(z.address(), [head().into_bytes(), chunk(b"{\"payload\": \"kept\"}\n{\"pay")].concat())
                .await;
        raw::read_to_end(&mut socket).await
    };
    let (long, (lines, silent)) = join(long, join(lines, silent)).await;
    is_timeout("a body that is fast enough, for too long", &long);
    assert_eq!(raw::status(&lines), 201, "lines for twice as long, {:?}: {lines}", began.elapsed());
    assert_eq!(raw::status(&silent), 408, "a stream that has fallen silent: {silent}");
    let problem = raw::json(&silent);
    assert_eq!((&problem["line"], &problem["committed"]), (&json!(2), &json!(1)), "{silent}");
    let mut payloads: Vec<_> =
        z.read_all("lines", "").await.iter().map(|record| record["payload"].to_string()).collect();
    payloads.sort();
    let mut sent: Vec<_> = (0..13).map(|number| number.to_string()).chain(["\"kept\"".to_owned()]).collect();
    sent.sort();
    assert_eq!(payloads, sent);
}

#[tokio::test]
async fn half_a_line_each_of_many_streams_does_not_turn_others_away() {
    let z =
        TestServer::start_with(&[("limits.inflight_bytes", "16777216"), ("limits.body_idle_secs", "600")])
            .await;
    let half = format!("{{\"payload\": \"{}", "x".repeat(600_000));
    let begun = raw::known(
        &[post_head("/tables/t", "application/x-ndjson", CHUNKED).into_bytes(), chunk(half.as_bytes())]
            .concat(),
    );
    // Together they want more than there is: somebody must be given up, or wait, and it is not who is quick.
    let attackers = join_all((0..60).map(|_| async {
        let mut socket = raw::connect(z.address()).await;
        drop(timeout(Duration::from_secs(5), socket.write_all(&begun)).await);
        socket
    }))
    .await;
    let mut victim = SmallClient::of(&z);
    victim.is_served(&z, "60 half lines of 600 kB").await;
    // Those that were given up were told so.
    for mut socket in attackers {
        if timeout(Duration::from_millis(100), socket.peek(&mut [0])).await.is_err() {
            continue;
        }
        let answer = raw::read_until(&mut socket, "}").await;
        let reason = raw::json(&answer)["reason"].as_str().unwrap_or_default().to_owned();
        let is_said = raw::status(&answer) == 503 && ["memory", "slow"].contains(&reason.as_str());
        assert!(answer.is_empty() || is_said, "{answer}");
    }
    victim.is_served(&z, "nothing any more").await;
    victim.has_lost_nothing(&z).await;
}
