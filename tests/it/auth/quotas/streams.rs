//! Quotas of streams: followers, reads of the whole rest, and polls that wait, for as long as they are open.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{net::TcpStream, time::sleep};

use super::{append, over, start};
use crate::auth::secured::{comes, ends, token};
use testing::{
    raw,
    server::{eventually, eventually_some},
};

#[tokio::test]
async fn streams_are_counted_while_they_are_open() {
    let s = start(&json!({"streams": 2}), &[]).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let another = || {
        let request = s.request("limited", Method::GET, "/tables/orders");
        request.header("accept", "text/event-stream").send()
    };
    let (mut first, second) = (s.tail("limited", "orders").await, s.tail("limited", "orders").await);
    over(another().await.unwrap(), "streams").await;
    // Others have their own, and a page is no stream.
    let others =
        [s.tail("free", "orders").await, s.tail("free", "orders").await, s.tail("free", "orders").await];
    assert_eq!(s.get("limited", "/tables/orders").await.0, StatusCode::OK);
    drop(second);
    let mut third = eventually_some("a stream that its client has left makes room", async || {
        let response = another().await.unwrap();
        (response.status() == StatusCode::OK).then_some(response)
    })
    .await;
    over(another().await.unwrap(), "streams").await;
    // Those that are open were not touched by it.
    let written = s.post("free", "/tables/orders", &json!({"payload": "the last one"})).await;
    assert_eq!(written.0, StatusCode::CREATED, "{}", written.1);
    comes(&mut first, "the last one").await;
    comes(&mut third, "the last one").await;
    drop(others);
}

#[tokio::test]
async fn a_read_of_the_whole_rest_is_a_stream_too() {
    let s = start(&json!({"streams": 1}), &[]).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let rest = |who: &str| {
        s.request(who, Method::GET, "/tables/orders").header("accept", "application/x-ndjson").send()
    };
    assert_eq!(rest("limited").await.unwrap().text().await.unwrap().lines().count(), 1);
    let open = || {
        let tail = s.request("limited", Method::GET, "/tables/orders").header("accept", "text/event-stream");
        tail.send()
    };
    let tail = eventually_some("its place is given back", async || {
        let response = open().await.unwrap();
        (response.status() == StatusCode::OK).then_some(response)
    })
    .await;
    over(rest("limited").await.unwrap(), "streams").await;
    assert_eq!(rest("free").await.unwrap().status(), StatusCode::OK);
    drop(tail);
    eventually("its place is given back", || async {
        rest("limited").await.unwrap().status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_long_poll_is_a_stream_too_while_it_waits() {
    let s = start(&json!({"streams": 1}), &[("limits.wait_secs", "3600")]).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let tail = s.tail("limited", "orders").await;
    let poll = |wait: &str| s.request("limited", Method::GET, &format!("/tables/orders?wait={wait}")).send();
    over(poll("1h").await.unwrap(), "streams").await;
    assert_eq!(s.get("limited", "/tables/orders").await.0, StatusCode::OK, "it waits for nothing");
    drop(tail);
    eventually("its place is given back", async || poll("1h").await.unwrap().status() == StatusCode::OK)
        .await;
    // What has waited holds nothing any more.
    let tail = s.tail("limited", "orders").await;
    over(poll("1h").await.unwrap(), "streams").await;
    drop(tail);
}

#[tokio::test]
async fn whoever_waited_for_an_event_and_has_gone_holds_no_place() {
    // So long that nothing else ends it while the test waits.
    let s =
        start(&json!({"streams": 1}), &[("limits.wait_secs", "3600"), ("limits.ping_secs", "3600")]).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let poll = |wait: &str| {
        let path = format!("/tables/orders?partition=0&offset=1&wait={wait}");
        s.request("limited", Method::GET, &path).send()
    };
    let bearer = token("limited");
    for (accept, query, is_reset) in [
        ("application/json", "&wait=1h", true),
        ("text/event-stream", "", true),
        // It may still want its answer: pings find out.
        ("text/event-stream", "", false),
    ] {
        let head = format!(
            "GET /tables/orders?partition=0&offset=1{query} HTTP/1.1\r\nhost: z\r\naccept: {accept}\r\n\
             authorization: Bearer {bearer}\r\n\r\n"
        );
        let mut waiting: Option<TcpStream> = None;
        eventually("it waits", async || {
            // Whoever asks whether it does takes the place meanwhile, and may have turned it away.
            if let Some(before) = waiting.take() {
                before.set_zero_linger().unwrap();
            }
            waiting = Some(raw::send(s.z.address(), &head).await);
            sleep(Duration::from_millis(50)).await;
            poll("1ms").await.unwrap().status() == StatusCode::TOO_MANY_REQUESTS
        })
        .await;
        let mut socket = waiting.unwrap();
        if is_reset {
            socket.set_zero_linger().unwrap();
        } else {
            // With something unread its end would be a reset, too.
            raw::read_until(&mut socket, "{}\n\n").await;
        }
        drop(socket);
        let given_back = format!("the place is given back by one who waits for {accept}, reset: {is_reset}");
        eventually(&given_back, async || poll("1ms").await.unwrap().status() == StatusCode::OK).await;
    }
}

#[tokio::test]
async fn at_one_address_each_principal_has_its_own_share_of_what_all_have() {
    let settings = [("limits.tails", "4"), ("limits.peer_percent", "50")];
    let s = start(&json!({"streams": 100}), &settings).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let mut greedy = Vec::new();
    for _ in 0..4 {
        greedy.push(s.tail("limited", "orders").await);
    }
    // Whoever has no more than its share gets a place of whoever has more, wherever both are.
    let mut others = [s.tail("free", "orders").await, s.tail("free", "orders").await];
    let mut left = greedy.split_off(2);
    for first in greedy {
        ends(first).await;
    }
    assert_eq!(
        s.post("free", "/tables/orders", &json!({"payload": "the next"})).await.0,
        StatusCode::CREATED
    );
    for tail in others.iter_mut().chain(&mut left) {
        comes(tail, "the next").await;
    }
}
