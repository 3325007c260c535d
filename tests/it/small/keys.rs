//! Idempotency keys: what is kept of one is the same however long it is, all together have a bound, and what
//! it does to the window is shown.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use testing::{TestServer, server::eventually};

/// The smallest bound that is tried.
const MAX_BYTES: u64 = 1 << 20;
/// More bulk writes than the bound has room for keys.
const ROUNDS: usize = 60;
const KEYS: usize = 2000;

/// One more bulk write of keyed events.
async fn keyed(z: &TestServer, table: &str, round: usize) -> (StatusCode, Value) {
    let record =
        |number: usize| json!({"payload": number, "idempotency_key": format!("key {round}/{number}")});
    let records: Vec<_> = (0..KEYS).map(record).collect();
    z.post(&format!("/tables/{table}/bulk"), &json!({"records": records})).await
}

async fn kept(z: &TestServer) -> Value {
    z.get("/stats").await.1["idempotency"].clone()
}

#[tokio::test]
async fn a_key_costs_the_same_however_long_it_is() {
    let z = TestServer::start().await;
    let cost = async |table: &str, length: usize| {
        let before = kept(&z).await;
        for number in 0..50 {
            let record = json!({"payload": 1, "idempotency_key": format!("{number:k>length$}")});
            assert_eq!(z.post(&format!("/tables/{table}"), &record).await.0, StatusCode::CREATED);
        }
        let after = kept(&z).await;
        assert_eq!(after["keys"].as_u64().unwrap() - before["keys"].as_u64().unwrap(), 50, "{after}");
        after["bytes"].as_u64().unwrap() - before["bytes"].as_u64().unwrap()
    };
    let (short, long) = (cost("short", 10).await, cost("large", 1000).await);
    assert_eq!(short, long, "50 keys of 10 bytes and of 1,000");
    assert!(long < 50 * 256, "{long} bytes for 50 keys");
}

#[tokio::test]
async fn keys_that_must_be_remembered_turn_keyed_writes_away_and_no_others() {
    let mut z = TestServer::start_with(&[("idempotency.max_bytes", &MAX_BYTES.to_string())]).await;
    let mut written = 0;
    let problem = loop {
        let (status, body) = keyed(&z, "t", written).await;
        if status != StatusCode::CREATED {
            break body;
        }
        written += 1;
        assert!(written < ROUNDS, "{} keys are within {MAX_BYTES} bytes", written * KEYS);
    };
    let expected = (&json!("overloaded"), &json!("keys_full"), &json!("not_written"));
    assert_eq!((&problem["code"], &problem["reason"], &problem["outcome"]), expected, "{problem}");
    assert!(written > 0);
    assert!(kept(&z).await["bytes"].as_u64().unwrap() <= MAX_BYTES, "{}", kept(&z).await);
    for _ in 0..2 {
        // Others go on, and who repeats what was written is told so: nothing is forgotten.
        assert_eq!(z.post("/tables/t", &json!({"payload": "no key"})).await.0, StatusCode::CREATED);
        for round in [0, written - 1] {
            let (status, body) = keyed(&z, "t", round).await;
            assert!(
                status.is_success() && body["duplicates"] == KEYS,
                "round {round}: {status} {:.200}",
                body.to_string()
            );
        }
        let (status, problem) = keyed(&z, "t", ROUNDS).await;
        assert_eq!((status.as_u16(), &problem["reason"]), (503, &json!("keys_full")), "{problem}");
        z.crash().await;
    }
}

#[tokio::test]
async fn beyond_their_bound_the_oldest_keys_are_forgotten_and_the_window_that_holds_is_shown() {
    let max = MAX_BYTES.to_string();
    let z = TestServer::start_with(&[("idempotency.max_bytes", &max), ("idempotency.min_window_secs", "1")])
        .await;
    let whole = kept(&z).await["window_secs"].as_u64().unwrap();
    assert_eq!(whole, 7 * 24 * 3600, "nothing is forgotten yet");
    let rounds = MAX_BYTES as usize / 72 / KEYS + 2; // two more than there is room for
    for round in 0..rounds {
        // None that is younger than a second is forgotten; then there is room again.
        let taken = || async { keyed(&z, "t", round).await.0 == StatusCode::CREATED };
        eventually("the next keys are taken", taken).await;
    }
    let stats = kept(&z).await;
    assert!(stats["bytes"].as_u64().unwrap() <= MAX_BYTES, "{stats}");
    assert!(stats["keys"].as_u64().unwrap() < (rounds * KEYS) as u64, "{stats}");
    assert!(stats["window_secs"].as_u64().unwrap() < whole, "what holds is not what was set: {stats}");
    let metrics = z.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let shown = metrics.lines().find_map(|line| line.strip_prefix("zombi_idempotency_window_seconds "));
    assert!(shown.expect("the metric is there").parse::<f64>().unwrap() < whole as f64, "{shown:?}");
    let (status, body) = keyed(&z, "t", rounds - 1).await;
    assert!(
        status.is_success() && body["duplicates"] == KEYS,
        "the newest are known: {status} {:.200}",
        body.to_string()
    );
    let again = || async {
        let (status, body) = keyed(&z, "t", 0).await;
        status == StatusCode::CREATED && body["duplicates"] == 0
    };
    eventually("the oldest are new again", again).await;
}
