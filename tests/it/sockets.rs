//! Bytes on sockets that no client library would send.

use futures_util::{StreamExt, stream};
use reqwest::StatusCode;
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use testing::{TestServer, raw, server::PATIENCE};

/// Sends bytes, and reads until the server ends the connection.
async fn exchange(z: &TestServer, bytes: &[u8]) -> String {
    let mut socket = z.connect().await;
    // It may be refused, and the connection closed, before all is sent.
    let _ = socket.write_all(&raw::known(bytes)).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /tables/t HTTP/1.1\r\nhost: z\r\ncontent-type: application/json\r\n{headers}\r\n{body}")
}

/// The status lines of what came.
fn statuses(answer: &str) -> Vec<&str> {
    answer.split("HTTP/1.1 ").skip(1).map(|one| &one[..3]).collect()
}

#[tokio::test]
async fn requests_may_come_in_any_pieces() {
    let z = TestServer::start().await;
    let body = "{\"payload\": 1}";
    let request = raw::known(post(&format!("content-length: {}\r\n", body.len()), body).as_bytes());
    let mut socket = z.connect().await;
    socket.set_nodelay(true).unwrap();
    for byte in &request {
        socket.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let chunked = post("transfer-encoding: chunked\r\n", "7\r\n{\"paylo\r\n7\r\nad\": 2}\r\n0\r\n\r\n");
    // Two in one piece behind the first, on the same connection.
    socket.write_all(&[request, raw::known(chunked.as_bytes())].concat()).await.unwrap();
    let mut answers = String::new();
    while !answers.contains("\"offset\":2") {
        let mut piece = [0; 1000];
        let length = timeout(PATIENCE, socket.read(&mut piece)).await.expect("all are answered").unwrap();
        assert_ne!(length, 0, "{answers}");
        answers.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    assert_eq!(statuses(&answers), ["201", "201", "201"]);
    let payloads: Vec<_> = z.read_all("t", "").await.iter().map(|record| record["payload"].clone()).collect();
    assert_eq!(payloads, [1, 1, 2]);
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_nothing_of_it_is_written() {
    let z = TestServer::start().await;
    let body = "{\"payload\": 1}";
    let smuggled = "POST /tables/smuggled HTTP/1.1\r\nhost: z\r\ncontent-length: 14\r\n\r\n{\"payload\": 1}";
    let refused = [
        ("two lengths", post("content-length: 14\r\ncontent-length: 15\r\n", body)),
        ("a length that is none", post("content-length: 1x\r\n", body)),
        ("a negative length", post("content-length: -1\r\n", body)),
        ("a length of more than any", post("content-length: 99999999999999999999999\r\n", body)),
        ("no encoding at all", post("transfer-encoding: nonsense\r\n", body)),
        ("a chunk's length that is none", post("transfer-encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n")),
        (
            "a chunk of more than any",
            post("transfer-encoding: chunked\r\n", "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ),
        ("a header without a name", post(": x\r\ncontent-length: 14\r\n", body)),
        ("a header with a space in its name", post("content length: 14\r\n", body)),
        ("a zero byte", post("x: \0\r\ncontent-length: 14\r\n", body)),
        ("no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".to_owned()),
        ("a method that is none", format!("P@ST\x01 /tables/t HTTP/1.1\r\nhost: z\r\n\r\n{body}")),
        (
            "a version that is none",
            format!("POST /tables/t HTTP/9.9\r\nhost: z\r\ncontent-length: 14\r\n\r\n{body}"),
        ),
        (
            "both length and chunks",
            post("content-length: 5\r\ntransfer-encoding: chunked\r\n", &format!("0\r\n\r\n{smuggled}")),
        ),
    ];
    for (what, request) in refused {
        let answer = exchange(&z, request.as_bytes()).await;
        assert!(
            !answer.is_empty() && statuses(&answer).iter().all(|status| status.starts_with('4')),
            "{what}: {answer}"
        );
    }
    // A body that ends before its length does.
    let mut socket = raw::send(z.address(), post("content-length: 1000\r\n", body)).await;
    socket.shutdown().await.unwrap();
    timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await.expect("the connection ends").unwrap();
    assert_eq!(
        z.get("/tables").await.1,
        json!({"tables": [], "has_more": false, "next": null}),
        "nothing was written"
    );
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn what_cannot_be_a_request_gets_a_bare_status_as_the_page_of_errors_says() {
    let z = TestServer::start().await;
    let get = |address: &str, headers: &str| format!("GET {address} HTTP/1.1\r\nhost: z\r\n{headers}\r\n");
    let headers = |count: usize| (0..count).map(|number| format!("x-{number}: 1\r\n")).collect::<String>();
    let cases = [
        ("no version", "GET /livez\r\n\r\n".to_owned(), "400"),
        ("a header without a name", get("/livez", ": x\r\n"), "400"),
        ("an address that is too long", get(&format!("/{}", "a".repeat(65_534)), ""), "414"),
        ("too many headers", get("/livez", &headers(600)), "431"),
    ];
    for (what, request, status) in cases {
        let answer = exchange(&z, request.as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{what}: {answer}");
        let is_bare = answer.ends_with("\r\n\r\n") && answer.contains("content-length: 0\r\n");
        assert!(is_bare, "{what}: {answer}");
    }
}

#[tokio::test]
async fn a_request_says_once_for_which_host_it_is() {
    let z = TestServer::start().await;
    let status = |answer: &str| answer.split(' ').nth(1).map(str::to_owned).unwrap_or_default();
    let end = "connection: close\r\ncontent-length: 14\r\n\r\n{\"payload\": 1}";
    for (version, hosts, due) in [
        ("1.1", "host: z\r\n", "201"),
        ("1.1", "host:\r\n", "201"),
        ("1.0", "", "201"),
        ("1.1", "", "400"),
        ("1.1", "host: z\r\nhost: z\r\n", "400"),
        ("1.0", "host: z\r\nhost: elsewhere\r\n", "400"),
    ] {
        let answer = exchange(&z, format!("POST /tables/t HTTP/{version}\r\n{hosts}{end}").as_bytes()).await;
        assert_eq!(status(&answer), due, "HTTP/{version} {hosts:?}: {answer}");
        if due == "400" {
            assert!(answer.contains("\"code\":\"bad_request\""), "{answer}");
            assert!(answer.contains("\"outcome\":\"not_written\""), "{answer}");
        }
    }
    assert_eq!(z.read_all("t", "").await.len(), 3);
    // Probes and the admin port ask for it as well, and an old balancer's HTTP/1.0 is let through.
    for address in [z.address(), z.admin_address()] {
        for (version, due) in [("1.1", "400"), ("1.0", "200")] {
            let head = format!("GET /livez HTTP/{version}\r\nconnection: close\r\n\r\n");
            let answer = raw::read_to_end(&mut raw::send(address, head).await).await;
            assert_eq!(status(&answer), due, "HTTP/{version}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_body_of_http_1_0_says_how_long_it_is() {
    let z = TestServer::start().await;
    for (path, length, due) in [
        ("/tables/t/raw", "", "400"),
        ("/tables/t", "", "400"),
        ("/tables/t/raw", "content-length: 5\r\n", "201"),
    ] {
        let head = format!("POST {path} HTTP/1.0\r\ncontent-type: text/plain\r\n{length}\r\nhello");
        let answer = exchange(&z, head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.0 {due}")), "{path} {length:?}: {answer}");
    }
    assert_eq!(z.read_all("t", "").await.len(), 1);
}

/// A frame of HTTP/2: its type, its flags, what is in it. Of the connection, or of the first request.
fn frame(kind: u8, flags: u8, of_request: bool, inside: &[u8]) -> Vec<u8> {
    let length = u32::try_from(inside.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, u8::from(of_request)], inside].concat()
}

/// Sends a part of a body by HTTP/2, and then resets the request with that code.
async fn reset(z: &TestServer, path: &str, content_type: &str, body: &[u8], code: u32) {
    let mut head = Vec::new();
    let known = raw::known(b"POST / HTTP/1.1\r\n");
    let known = String::from_utf8(known).unwrap();
    let token = known.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or("-");
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "z"),
        ("content-type", content_type),
        ("authorization", token),
    ] {
        // HPACK, a literal without an index.
        head.push(0);
        for text in [name, value] {
            head.push(u8::try_from(text.len()).unwrap());
            head.extend_from_slice(text.as_bytes());
        }
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let frames = [
        preface,
        frame(4, 0, false, &[]),
        frame(1, 4, true, &head),
        frame(0, 0, true, body),
        frame(3, 0, true, &code.to_be_bytes()),
        frame(7, 0, false, &[0; 8]),
    ];
    let mut socket = z.connect().await;
    socket.write_all(&frames.concat()).await.unwrap();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await.expect("the connection ends");
}

#[tokio::test]
async fn what_came_before_a_reset_of_http_2_is_not_taken_for_the_whole() {
    let z = TestServer::start().await;
    const NO_ERROR: u32 = 0;
    const CANCEL: u32 = 8;
    for code in [NO_ERROR, CANCEL] {
        reset(&z, "/tables/t/raw", "application/x-ndjson", b"1\n12", code).await;
        reset(&z, "/tables/t/raw", "text/plain", b"hello wor", code).await;
        reset(&z, "/tables/t", "application/json", b"{\"payload\":12}", code).await;
    }
    // Whole lines of a stream may be there, its last line is not.
    let tables = z.get("/tables").await.1;
    let there = !tables["tables"].as_array().unwrap().is_empty();
    let found = if there { z.read_all("t", "").await } else { Vec::new() };
    assert!(found.iter().all(|record| record["payload"] == 1), "{found:?}");
}

#[tokio::test]
async fn a_body_that_is_coded_for_its_transfer_is_refused_and_never_stored_as_it_is() {
    let z = TestServer::start().await;
    let chunks = "e\r\n{\"payload\": 1}\r\n0\r\n\r\n";
    for (coding, status) in [
        ("chunked", "201"),
        ("Chunked", "201"),
        ("gzip, chunked", "415"),
        ("chunked, chunked", "415"),
        ("deflate,chunked", "415"),
        ("gzip\r\ntransfer-encoding: chunked", "415"),
    ] {
        for path in ["/tables/t", "/tables/t/raw"] {
            let head = format!("POST {path} HTTP/1.1\r\nhost: z\r\nconnection: close");
            let request = format!("{head}\r\ntransfer-encoding: {coding}\r\n\r\n{chunks}");
            let answer = exchange(&z, request.as_bytes()).await;
            assert_eq!(statuses(&answer), [status], "{path} {coding}: {answer}");
            assert!(status == "201" || answer.contains("\"code\":\"unsupported_media_type\""), "{answer}");
        }
    }
    assert_eq!(z.read_all("t", "").await.len(), 4);
}

#[tokio::test]
async fn ten_thousand_connections_are_served() {
    // Both ends are on this machine, and it may allow fewer.
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(1000);
    let count = usize::try_from(allowed).unwrap_or(usize::MAX).min(10_000);
    let z = TestServer::start_with(&[("limits.connections", "10100"), ("limits.header_timeout_secs", "600")])
        .await;
    let held: Vec<TcpStream> = stream::iter(0..count).map(|_| z.connect()).buffered(64).collect().await;
    let ask = async |mut socket: TcpStream| {
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: z\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        socket.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        socket
    };
    let held: Vec<TcpStream> = stream::iter(held).map(ask).buffered(64).collect().await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    assert_eq!(z.read_all("t", "").await.len(), 1);
    assert_eq!(held.len(), count);
}
