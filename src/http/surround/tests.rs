//! Who gets through to a handler, and what those are told who do not.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    handler::Handler,
    http::StatusCode,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    auth::{
        gate::{
            Gate,
            tests::{gate, gate_with_clock},
        },
        tokens::{Tokens, new_token},
    },
    http::{
        body::Incoming,
        limits::Limits,
        memory::Budget,
        origin::HttpSettings,
        route::AnswerFuture,
        route_table::{RouteTable, Routes},
    },
};
use contracts::{
    clock::{Clock, TimestampMs},
    error::Overload,
    settings::Seconds,
};

const OPERATOR: &str =
    "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: operator, tables: [\"*\"]}\n";

/// A clock that breaks whoever looks at it.
struct BrokenClock;

impl Clock for BrokenClock {
    fn now_ms(&self) -> TimestampMs {
        panic!("on purpose")
    }
}

/// A token that the gate knows.
fn token_for(gate: &Gate) -> String {
    let token = new_token("ci").unwrap();
    gate.adopt_tokens(Tokens::parse(&format!("version: 1\ntokens:\n{}\n", token.line)).unwrap());
    token.plain
}

/// Routes of each kind, all of which say that somebody got through.
fn routes(surroundings: Surroundings) -> Routes {
    async fn through() -> &'static str {
        "through"
    }
    let table: RouteTable = RouteTable::new(Arc::new(surroundings));
    let table = table.get(Verb::Open, "/open", through).get(Verb::Operate, "/operate", through);
    table.post(Verb::Append, "/append", through).finish(|| async { StatusCode::NOT_FOUND })
}

/// A request's answer: its status, its headers and its JSON.
async fn answer(routes: &Routes, request: Request, from: IpAddr) -> (StatusCode, HeaderMap, Value) {
    let response = routes.answer(request, Arc::new(Connection::new(from))).await;
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    (parts.status, parts.headers, serde_json::from_slice(&body).unwrap_or_default())
}

/// A request with these headers; with a `Host` too, unless they have one.
fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request {
    let request = Request::builder().method(method).uri(path);
    let has_host = headers.iter().any(|(name, _)| *name == "host");
    let host = [("host", "zombi")];
    let headers = headers.iter().chain(host.iter().filter(|_| !has_host));
    let request = headers.fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_token_is_taken_from_this_machine_only_where_a_port_beside_it_speaks_tls() {
    let gate = gate(OPERATOR);
    let bearer = format!("Bearer {}", token_for(&gate));
    for tokens_from_here_only in [false, true] {
        let gate = Some(Arc::clone(&gate));
        let routes = routes(Surroundings { gate, tokens_from_here_only, ..Surroundings::default() });
        for (from, is_here) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.7", false),
            ("fe80::1", false),
        ] {
            let from: IpAddr = from.parse().unwrap();
            let taken = if is_here || !tokens_from_here_only { 200 } else { 403 };
            for (authorization, due) in
                [(bearer.as_str(), taken), ("Bearer nobodys", if taken == 403 { 403 } else { 401 })]
            {
                let asked = request(Method::GET, "/operate", &[("authorization", authorization)]);
                let (status, _, problem) = answer(&routes, asked, from).await;
                assert_eq!(status.as_u16(), due, "{from}: {problem}");
                assert!(due != 403 || problem["detail"].as_str().unwrap().contains("main port"), "{problem}");
            }
            // Nothing has crossed the network that should not.
            assert_eq!(answer(&routes, request(Method::GET, "/operate", &[]), from).await.0, 401, "{from}");
            let open = request(Method::GET, "/open", &[("authorization", &bearer)]);
            assert_eq!(answer(&routes, open, from).await.0, 200, "{from}");
        }
    }
}

#[tokio::test]
async fn each_version_of_http_has_its_own_way_to_say_the_host() {
    let routes = routes(Surroundings::default());
    for (version, hosts, due) in [
        (Version::HTTP_11, 0, 400),
        (Version::HTTP_11, 1, 200),
        (Version::HTTP_11, 2, 400),
        (Version::HTTP_10, 0, 200),
        (Version::HTTP_10, 2, 400),
        (Version::HTTP_2, 0, 200),
        (Version::HTTP_2, 1, 200),
        (Version::HTTP_2, 2, 400),
    ] {
        let mut asked = request(Method::GET, "/open", &[("host", "zombi"); 2][..hosts]);
        *asked.version_mut() = version;
        if hosts == 0 {
            asked.headers_mut().clear();
        }
        let (status, _, problem) = answer(&routes, asked, [192, 0, 2, 7].into()).await;
        assert_eq!(status.as_u16(), due, "{version:?} with {hosts}: {problem}");
        assert!(due == 200 || problem["code"] == "bad_request", "{problem}");
    }
    let asked = request(Method::GET, "/open", &[("host", "a b")]);
    let (status, _, problem) = answer(&routes, asked, [192, 0, 2, 7].into()).await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_request")), "{problem}");
}

#[tokio::test]
async fn a_gate_that_breaks_lets_nobody_in() {
    let gate = gate_with_clock(OPERATOR, Arc::new(BrokenClock));
    let bearer = format!("Bearer {}", token_for(&gate));
    let routes = routes(Surroundings { gate: Some(gate), ..Surroundings::default() });
    for (method, path) in [(Method::GET, "/operate"), (Method::POST, "/append")] {
        let asked = request(method.clone(), path, &[("authorization", &bearer)]);
        let (status, _, problem) = answer(&routes, asked, [192, 0, 2, 7].into()).await;
        assert_eq!((status.as_u16(), &problem["code"]), (500, &json!("internal")), "{problem}");
        if method == Method::POST {
            assert_eq!(problem["outcome"], "not_written", "{problem}");
        }
    }
}

#[tokio::test]
async fn a_page_of_a_listed_origin_sees_every_answer_and_asks_beforehand_without_a_credential() {
    let http =
        HttpSettings { origins: vec!["https://console.example".to_owned()], ..HttpSettings::default() };
    let routes =
        routes(Surroundings { gate: Some(gate(OPERATOR)), http: Some(http), ..Surroundings::default() });
    let from: IpAddr = [192, 0, 2, 7].into();
    let host = ("host", "zombi");
    for (origin, is_listed) in [("https://console.example", true), ("https://elsewhere.example", false)] {
        let asks = [host, ("origin", origin), ("access-control-request-method", "POST")];
        let (status, headers, _) = answer(&routes, request(Method::OPTIONS, "/append", &asks), from).await;
        assert_eq!(status.as_u16(), if is_listed { 204 } else { 405 }, "{origin}");
        let methods = headers.get("access-control-allow-methods").map(|value| value.to_str().unwrap());
        assert_eq!(methods, is_listed.then_some("POST"), "{origin}");
        for (method, path, due) in
            [(Method::POST, "/append", 401), (Method::GET, "/open", 200), (Method::GET, "/nowhere", 404)]
        {
            let asked = request(method.clone(), path, &[host, ("origin", origin)]);
            let (status, headers, _) = answer(&routes, asked, from).await;
            let due = if is_listed || method == Method::GET { due } else { 403 };
            assert_eq!(status.as_u16(), due, "{origin} {method} {path}");
            let shown_to = headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap());
            assert_eq!(shown_to, is_listed.then_some(origin), "{origin} {method} {path}");
            assert!(!headers.contains_key("access-control-allow-credentials"));
        }
    }
}

/// Receives the whole of a body, however slowly it comes.
async fn receive_all(incoming: Incoming) -> Result<&'static str, Problem> {
    let limits = Limits { body_secs: Seconds::new(3600), body_min_bytes_per_sec: 0, ..Limits::default() };
    incoming.receive(&limits, &Budget::new(1 << 20, 100, Overload::Memory)).await?;
    Ok("all of it")
}

/// Takes a body as streams of lines do, and works on each piece for a second.
async fn receive_pieces(incoming: Incoming) -> Result<&'static str, Problem> {
    let mut pieces = incoming.pieces(&Limits::default(), &Budget::new(1 << 20, 100, Overload::Memory));
    while pieces.next().await?.is_some() {
        sleep(Duration::from_secs(1)).await;
    }
    Ok("all of it")
}

/// What an append is told whose token is taken back after a minute, and after how many seconds.
async fn told<H, T>(receive: H, body: Body) -> (StatusCode, Value, u64)
where
    H: Handler<T, (), Future = AnswerFuture>,
    T: 'static,
{
    let gate = gate(OPERATOR);
    let bearer = format!("Bearer {}", token_for(&gate));
    let surroundings = Surroundings { gate: Some(Arc::clone(&gate)), ..Surroundings::default() };
    let table: RouteTable = RouteTable::new(Arc::new(surroundings));
    let routes = table.post(Verb::Append, "/append", receive).finish(|| async { StatusCode::NOT_FOUND });
    let mut asked = request(Method::POST, "/append", &[("authorization", &bearer)]);
    *asked.body_mut() = body;
    let began = Instant::now();
    let taking_back = async {
        sleep(Duration::from_secs(60)).await;
        gate.adopt_tokens(Tokens::default());
    };
    let answered = timeout(Duration::from_secs(3600), answer(&routes, asked, [192, 0, 2, 7].into()));
    let (answered, ()) = tokio::join!(answered, taking_back);
    let (status, _, problem) = answered.expect("it ends");
    (status, problem, began.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_body_goes_on_ends_five_minutes_after_its_right() {
    // A byte every five seconds, for ever.
    let slow = || {
        Body::from_stream(stream::unfold((), |()| async {
            sleep(Duration::from_secs(5)).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
        }))
    };
    // For this one nobody ever waits.
    let piece = Bytes::from(vec![b' '; 64 << 10]);
    let steady = Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(piece.clone())));
    for (what, (status, problem, after_secs)) in [
        ("a whole body", told(receive_all, slow()).await),
        ("a stream", told(receive_pieces, slow()).await),
        ("a stream that is always there", told(receive_pieces, steady).await),
    ] {
        let said = ["reason", "outcome"].map(|name| problem[name].as_str().unwrap_or_default());
        assert_eq!((status.as_u16(), said), (401, ["unknown_token", "not_written"]), "{what}: {problem}");
        // What follows is heard out, for some seconds.
        assert!((360..370).contains(&after_secs), "{what}: after {after_secs} s");
    }
}

#[test]
fn whoever_is_not_known_to_a_handler_may_do_nothing() {
    let (parts, _) = request(Method::GET, "/operate", &[]).into_parts();
    assert_eq!(RequestScope::allow(&parts, Resource::Server).unwrap_err().code(), Code::Unauthenticated);
}
