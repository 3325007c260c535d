//! What stands around the events of an answer: how many there are at most, where to go on, what was passed over.

use std::time::Duration;

use reqwest::{Response, StatusCode, header::ACCEPT};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use testing::TestServer;

const NDJSON: &str = "application/x-ndjson";

async fn lines(z: &TestServer, query: &str) -> Response {
    let response = z.client.get(z.url(&format!("/tables/t?{query}"))).header(ACCEPT, NDJSON).send().await;
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{query}");
    response
}

#[tokio::test]
async fn a_page_without_a_limit_keeps_to_the_setting() {
    let z = TestServer::start_with(&[("limits.page_records", "7")]).await;
    super::write(&z, 0..10, 1).await;
    for query in ["", "?order=newest", "?last=9"] {
        let (status, page) = z.get(&format!("/tables/t{query}")).await;
        let refused = query.starts_with("?last");
        let expected = if refused { (400, Value::Null) } else { (200, json!(7)) };
        assert_eq!((status.as_u16(), page["count"].clone()), expected, "{query}: {page}");
        if refused {
            assert_eq!(page["limit"], 7, "{page}");
        }
    }
    let (status, problem) = z.get("/tables/t?limit=8").await;
    let found = (status, &problem["code"], &problem["limit"]);
    assert_eq!(found, (StatusCode::BAD_REQUEST, &json!("bad_limit"), &json!(7)), "{problem}");
}

#[tokio::test]
async fn who_asks_beyond_the_end_is_told_where_to_go_on() {
    let z = TestServer::start().await;
    super::write(&z, 0..3, 1).await;
    for (query, then) in [
        ("partition=0&offset=100", vec![]),
        ("partition=5&offset=1", vec![]),
        ("order=newest&partition=0&offset=100", vec![json!(2), json!(1), json!(0)]),
    ] {
        let (status, problem) = z.get(&format!("/tables/t?{query}")).await;
        assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE, "{query}: {problem}");
        let cursor = problem["next_cursor"].as_str().unwrap_or_else(|| panic!("{query}: {problem}"));
        let (status, page) = z.get(&format!("/tables/t?cursor={cursor}")).await;
        let payloads: Vec<_> =
            page["records"].as_array().unwrap().iter().map(|one| &one["payload"]).collect();
        assert_eq!((status, payloads), (StatusCode::OK, then.iter().collect()), "{query}: {page}");
    }
    // What comes later in the partition that was not there is found from there.
    let (_, problem) = z.get("/tables/t?partition=5&offset=1").await;
    let cursor = problem["next_cursor"].as_str().unwrap();
    z.post("/tables/t", &json!({"payload": "first", "partition": 5})).await;
    let (_, page) = z.get(&format!("/tables/t?cursor={cursor}")).await;
    assert_eq!(page["records"][0]["payload"], "first", "{page}");
}

#[tokio::test]
async fn lines_wait_for_the_first_event_as_pages_do() {
    let z = TestServer::start().await;
    super::write(&z, 0..1, 1).await;
    let began = Instant::now();
    let nothing = lines(&z, "partition=0&offset=1&wait=300ms").await;
    assert_eq!(nothing.text().await.unwrap(), "");
    assert!(began.elapsed() >= Duration::from_millis(300), "it waited {:?}", began.elapsed());
    let (waiting, ()) = tokio::join!(lines(&z, "partition=0&offset=1&wait=60s"), async {
        sleep(Duration::from_millis(300)).await;
        super::write(&z, 1..2, 1).await;
    });
    let line: Value = serde_json::from_str(&waiting.text().await.unwrap()).unwrap();
    assert_eq!(line["payload"], 1, "{line}");
}

#[tokio::test]
async fn lines_and_streams_say_how_many_offsets_were_lost_on_their_way() {
    let mut z = TestServer::start_tiered(&[]).await;
    super::write(&z, 0..3, 1).await;
    z.flush_and_evict().await;
    super::write(&z, 3..5, 1).await;
    assert!(lines(&z, "").await.headers().get("zombi-lost").is_none(), "nothing was lost so far");
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    super::write(&z, 5..6, 1).await;
    let lost = z.partition("t", 0).await["lost"][0].clone();
    let (start, end) = (lost["start"].as_u64().unwrap(), lost["end"].as_u64().unwrap());
    assert_eq!(start, 3);
    let said = |response: &Response| -> Option<u64> {
        response.headers().get("zombi-lost").map(|count| count.to_str().unwrap().parse().unwrap())
    };
    let whole = lines(&z, "").await;
    assert_eq!(said(&whole), Some(end - start));
    assert_eq!(whole.text().await.unwrap().lines().count(), 4);
    let part = lines(&z, &format!("partition=0&offset={}", end - 1)).await;
    assert_eq!(said(&part), Some(1));
    assert_eq!(said(&lines(&z, &format!("partition=0&offset={end}")).await), None);
    let tail = z.client.get(z.url("/tables/t")).header(ACCEPT, "text/event-stream").send().await.unwrap();
    assert_eq!(said(&tail), Some(end - start));
}
