//! Quotas of what clients send: bytes of bodies in a second, and at once.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{append, over, start};
use crate::auth::secured::{ask, token};
use testing::{
    raw,
    server::{answer, eventually},
};

#[tokio::test]
async fn bodies_beyond_the_rate_are_slowed_down_and_keep_out_the_next_ones() {
    let settings = [("limits.record_bytes", "20000"), ("limits.body_bytes", "20000")];
    let s = start(&json!({"write_bytes_per_sec": 1000}), &settings).await;
    // The second one is over the rate, whichever that is.
    let writes = [12_000, 19_000].map(|bytes| {
        let write = s.request("limited", Method::POST, "/tables/orders");
        tokio::spawn(write.json(&json!({"payload": "x".repeat(bytes)})).send())
    });
    eventually("another is refused", || async {
        let response = append(&s, "limited", "orders").send().await.unwrap();
        if response.status() == StatusCode::CREATED {
            return false; // they have not come yet
        }
        assert_eq!(over(response, "write_bytes").await["outcome"], "not_written");
        true
    })
    .await;
    assert_eq!(ask(append(&s, "free", "orders")).await.0, StatusCode::CREATED);
    // What had begun is not refused, however long it takes.
    for write in writes {
        assert_eq!(write.await.unwrap().unwrap().status(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_body_counts_as_it_is_declared_or_arrives_and_a_stream_for_what_it_holds() {
    let s = start(&json!({"inflight_bytes": 100_000}), &[]).await;
    let send = |content_type: &str, body: String| {
        let request = s.request("limited", Method::POST, "/tables/orders");
        request.header("content-type", content_type).body(body).send()
    };
    let large = format!("{{\"payload\":\"{}\"}}", "x".repeat(200_000));
    over(send("application/json", large.clone()).await.unwrap(), "inflight").await;
    let headers = format!("authorization: Bearer {}\r\ntransfer-encoding: chunked\r\n", token("limited"));
    let head = raw::post_head("/tables/orders", "application/json", &headers);
    let mut socket = raw::send(s.z.address(), head).await;
    let chunks = [raw::chunk(large.as_bytes()), raw::chunk(b"")].concat();
    // It may be refused before all of it is sent.
    let _ = socket.write_all(&chunks).await;
    let came = raw::read_until(&mut socket, "}").await;
    assert_eq!((raw::status(&came), &raw::json(&came)["quota"]), (429, &json!("inflight")), "{came}");
    assert!(s.payloads("free", "orders").await.is_empty());
    // A stream may be larger than memory.
    let lines = "{\"payload\":1}\n".repeat(50_000);
    let written = answer(send("application/x-ndjson", lines).await.unwrap()).await;
    assert_eq!((written.0, &written.1["count"]), (StatusCode::CREATED, &json!(50_000)), "{}", written.1);
}

/// The bytes of a body of which two are over the quota of the next test.
const BODY_BYTES: usize = 900_000;

#[tokio::test]
async fn memory_for_bodies_is_given_back_when_the_client_is_gone() {
    // A client may be as slow as it likes here.
    let settings = [
        ("limits.body_bytes", "1048576"),
        ("limits.body_idle_secs", "3600"),
        ("limits.body_secs", "3600"),
        ("limits.body_min_bytes_per_sec", "0"),
    ];
    let s = start(&json!({"inflight_bytes": 1_200_000}), &settings).await;
    let body = format!("{{\"payload\":\"{}\"}}", "x".repeat(BODY_BYTES));
    let headers = format!("authorization: Bearer {}\r\ncontent-length: {}\r\n", token("limited"), body.len());
    let head = raw::post_head("/tables/orders", "application/json", &headers);
    // All but its end.
    let all_but_its_end = head + &body[..body.len() - 10];
    let hold = || raw::send(s.z.address(), &all_but_its_end);
    let mut held = hold().await;
    let send = |who: &str| {
        let request = s.request(who, Method::POST, "/tables/orders");
        request.header("content-type", "application/json").body(body.clone()).send()
    };
    let mut outcome = Value::Null;
    eventually("the quota is reached", async || {
        let response = send("limited").await.unwrap();
        if response.status() == StatusCode::CREATED {
            // It came before what is to be held, which may have been refused meanwhile.
            held = hold().await;
            return false;
        }
        outcome = over(response, "inflight").await["outcome"].clone();
        true
    })
    .await;
    assert_eq!(outcome, "not_written");
    assert_eq!(send("free").await.unwrap().status(), StatusCode::CREATED, "others have their own");
    assert_eq!(
        append(&s, "limited", "orders").send().await.unwrap().status(),
        StatusCode::CREATED,
        "a small one"
    );
    drop(held);
    eventually("what was held is given back", || async {
        send("limited").await.unwrap().status() == StatusCode::CREATED
    })
    .await;
}
