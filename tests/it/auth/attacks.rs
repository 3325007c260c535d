//! Ways in, and ways to hinder those who are in, that somebody without a right would try.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::secured::{NO_ONE, Secured, ask, binding, expect, policy, token};
use testing::{
    faults::{Fault, Operation},
    raw,
    server::answer,
};

/// `writer` owns `orders`, `boss` everything, and `nobody` has a token.
fn usual() -> String {
    policy(&[binding("writer", "owner", &["orders"], &[]), binding("boss", "operator", &["*"], &["*"])])
}

const NAMES: [&str; 3] = ["writer", "boss", "nobody"];

#[tokio::test]
async fn a_request_inside_a_refused_body_is_no_request() {
    let s = Secured::start(&usual(), &NAMES, &[]).await;
    assert_eq!(s.post("writer", "/tables/orders", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    // As a proxy would pass it on that adds a credential to what it takes for a request.
    let inside = format!(
        "DELETE /tables/orders HTTP/1.1\r\nhost: z\r\nauthorization: Bearer {}\r\ncontent-length: 0\r\n\r\n",
        token("writer")
    );
    let chunked = [raw::chunk(inside.as_bytes()), raw::chunk(b"")].concat();
    let of_length = format!("content-length: {}\r\n", inside.len());
    let waiting = format!("{of_length}expect: 100-continue\r\n");
    let cases = [
        (of_length.as_str(), inside.as_bytes()),
        (waiting.as_str(), inside.as_bytes()),
        ("transfer-encoding: chunked\r\n", chunked.as_slice()),
    ];
    for (headers, body) in cases {
        for credential in [String::new(), format!("authorization: Bearer {}\r\n", token("nobody"))] {
            let headers = format!("{credential}{headers}");
            let head = raw::post_head("/tables/secret", "application/json", &headers);
            let mut socket = raw::send(s.z.address(), head).await;
            // Whoever does not wait to be asked for the body sends it at once.
            let _ = socket.write_all(body).await;
            let _ = socket.shutdown().await;
            let came = raw::read_to_end(&mut socket).await;
            assert_eq!(came.matches("HTTP/1.1 ").count(), 1, "{headers}: {came}");
            assert!([401, 403].contains(&raw::status(&came)), "{headers}: {came}");
        }
    }
    assert_eq!(s.payloads("writer", "orders").await.len(), 1, "the table is there");
}

#[tokio::test]
async fn who_is_not_let_in_holds_nothing_that_others_need() {
    let settings = [
        ("limits.record_bytes", "600000"),
        ("limits.body_bytes", "1000000"),
        ("limits.decoded_body_bytes", "1048576"),
        ("limits.inflight_bytes", "1048576"),
        ("limits.body_idle_secs", "3600"),
    ];
    let s = Secured::start(&usual(), &NAMES, &settings).await;
    let mut held = Vec::new();
    for number in 0..40 {
        let credential = match number % 3 {
            0 => String::new(),
            1 => format!("authorization: Bearer {}\r\n", token("stranger")),
            _ => format!("authorization: Bearer {}\r\n", token("nobody")),
        };
        let headers = format!("{credential}content-length: 900000\r\n");
        let head = raw::post_head("/tables/orders", "application/json", &headers);
        held.push(raw::send(s.z.address(), head + &"x".repeat(100_000)).await);
    }
    for number in 0..10 {
        let event = json!({"payload": "y".repeat(500_000), "partition": number});
        let written = s.post("writer", "/tables/orders", &event).await;
        assert_eq!(written.0, StatusCode::CREATED, "{}", written.1);
    }
    assert_eq!(held.len(), 40);
}

#[tokio::test]
async fn while_it_starts_nobody_gets_in_either() {
    let mut s = Secured::start_tiered(&usual(), &NAMES).await;
    let event = json!({"payload": 1, "idempotency_key": "k"});
    assert_eq!(s.post("writer", "/tables/orders", &event).await.0, StatusCode::CREATED);
    assert_eq!(s.post("boss", "/flush", &json!(null)).await.0, StatusCode::OK);
    // An empty volume has to read the keys from the bucket, which hangs.
    let mut second = s.z.beside();
    s.z.kill().await;
    second.store().faults.add(Operation::SegmentGet, Fault::Hang, 1000);
    second.begin("").await.unwrap();
    second.until("listening on the main port").await.unwrap();
    let client = second.client.clone();
    let ask_as = |who: &str, url: String| {
        let request = client.get(url);
        ask(if who == NO_ONE { request } else { request.bearer_auth(token(who)) })
    };
    for (who, due) in [(NO_ONE, 401), ("stranger", 401), ("nobody", 403), ("boss", 200)] {
        let (status, body) = ask_as(who, second.url("/metrics")).await;
        assert_eq!(status.as_u16(), due, "{who:?}: {body}");
        let (status, body) = ask_as(who, second.admin_url("/log/level")).await;
        assert_eq!(status.as_u16(), due, "{who:?} on the admin port: {body}");
        let (status, body) = ask_as(who, second.admin_url("/metrics")).await;
        assert_eq!(status, StatusCode::OK, "{who:?} on the admin port: {body}");
        expect(who, &ask_as(who, second.url("/tables/orders")).await, 503, "starting");
        if due == 200 {
            let flush = client.post(second.admin_url("/flush")).bearer_auth(token(who));
            expect("a flush on the admin port", &ask(flush).await, 503, "starting");
        }
    }
    second.store().faults.clear();
    second.until_ready().await.unwrap();
    let read = |who: &str| ask_as(who, second.url("/tables/orders"));
    expect("nobody", &read("nobody").await, 403, "forbidden");
    assert_eq!(read("writer").await.1["count"], 1);
}

#[tokio::test]
async fn a_host_that_stands_twice_is_none() {
    let s = Secured::start(&usual(), &NAMES, &[("http.hosts", "zombi")]).await;
    for (hosts, due) in
        [("host: zombi\r\n", 404), ("host: zombi\r\nhost: elsewhere\r\n", 400), ("host: elsewhere\r\n", 421)]
    {
        let head = format!(
            "GET /tables/orders HTTP/1.1\r\n{hosts}authorization: Bearer {}\r\nconnection: close\r\n\r\n",
            token("writer")
        );
        let mut socket = raw::send(s.z.address(), head).await;
        assert_eq!(raw::status(&raw::read_to_end(&mut socket).await), due, "{hosts:?}");
    }
}

#[tokio::test]
async fn no_name_that_is_sent_makes_a_line_of_the_log() {
    let mut s = Secured::start(&usual(), &NAMES, &[("log.level", "debug"), ("audit.log", "all")]).await;
    let forged = "%0A%7B%22target%22%3A%22zombi%3A%3Aaudit%22%2C%22decision%22%3A%22forged%22%7D%0A";
    for path in [
        format!("/tables/{forged}"),
        format!("/tables/{forged}/bulk"),
        format!("/consumers/{forged}"),
        format!("/nowhere/{forged}"),
        format!("/tables/orders?{forged}={forged}"),
        format!("/tables?after={forged}"),
    ] {
        for who in [NO_ONE, "nobody", "writer"] {
            for method in [Method::GET, Method::POST] {
                let request = s.request(who, method.clone(), &path).header("x-forwarded-for", "1.1.1.1\t{}");
                let (status, body) = ask(request.json(&json!({"payload": 1}))).await;
                assert!(status.is_client_error(), "{who:?} {method} {path}: {status} {body}");
            }
        }
    }
    let (code, log) = s.z.terminate_with_log().await;
    assert_eq!(code, Some(0));
    assert!(log.contains("request refused"), "there were lines");
    let is_forged = |line: &&str| line.starts_with('{') && line.contains("forged");
    assert_eq!(log.lines().find(is_forged), None);
}

#[tokio::test]
async fn a_page_of_another_origin_needs_a_credential_like_anybody() {
    let s = Secured::start(&usual(), &NAMES, &[("http.origins", "https://console.example")]).await;
    let from_page = |who: &str, method: Method| {
        let request = s.request(who, method, "/tables/orders").header("origin", "https://console.example");
        request.header("sec-fetch-site", "cross-site").json(&json!({"payload": 1})).send()
    };
    let preflight = s.request(NO_ONE, Method::OPTIONS, "/tables/orders");
    let preflight = preflight.header("origin", "https://console.example");
    let preflight = preflight.header("access-control-request-method", "POST").send().await.unwrap();
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    for (who, due) in [(NO_ONE, 401), ("nobody", 403), ("writer", 201)] {
        let response = from_page(who, Method::POST).await.unwrap();
        let shown_to = response.headers().get("access-control-allow-origin").cloned();
        let (status, body) = answer(response).await;
        assert_eq!(status.as_u16(), due, "{who:?}: {body}");
        assert_eq!(shown_to.unwrap(), "https://console.example", "{who:?}: it learns why");
    }
    // A credential that a browser adds by itself is none.
    let with_cookie = s.request(NO_ONE, Method::GET, "/tables/orders").header("cookie", token("writer"));
    expect("a cookie", &ask(with_cookie).await, 401, "unauthenticated");
}
