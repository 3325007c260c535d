//! Reads: order, cursors, bounds, shapes, long polls.

use std::time::Duration;

use futures_util::future::join;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use testing::{Sent, TestServer};

#[tokio::test]
async fn partitions_are_merged_by_timestamp_and_inside_by_offset() {
    let z = TestServer::start_tiered(&[]).await;
    let record = |partition: u32, timestamp_ms: i64| {
        json!({
            "payload": "x",
            "partition": partition,
            "timestamp_ms": timestamp_ms,
        })
    };
    // Partition 1 steps back in time; 9, 10 and 100 tie.
    let sent = [
        record(0, 10),
        record(1, 30),
        record(1, 5),
        record(9, 20),
        record(10, 20),
        record(100, 20),
        record(0, 40),
    ];
    z.post("/tables/t/bulk", &json!({"records": sent})).await;
    let expected = [(0, 10, 0), (9, 20, 0), (10, 20, 0), (100, 20, 0), (1, 30, 0), (1, 5, 1), (0, 40, 1)];
    for _ in 0..2 {
        for limit in 1..8 {
            let records = z.read_all("t", &format!("limit={limit}")).await;
            let found: Vec<_> = records
                .iter()
                .map(|r| {
                    (
                        r["partition"].as_u64().unwrap(),
                        r["timestamp_ms"].as_i64().unwrap(),
                        r["offset"].as_u64().unwrap(),
                    )
                })
                .collect();
            assert_eq!(found, expected, "limit {limit}");
        }
        z.flush_and_evict().await;
    }
}

#[tokio::test]
async fn a_cursor_gives_every_event_once_while_events_are_written_flushed_and_evicted() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    let mut found: Vec<Value> = Vec::new();
    let mut path = "/tables/t?limit=7".to_owned();
    sent.append(&z, "t", 4, 50).await;
    for round in 0..60 {
        if round < 20 {
            sent.append(&z, "t", 4, 13).await;
        }
        if round % 3 == 0 {
            z.flush_and_evict().await;
        }
        let (status, page) = z.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        found.extend(page["records"].as_array().unwrap().iter().cloned());
        path = format!("/tables/t?limit=7&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    assert_eq!(Sent::from_records(&found), sent);
}

#[tokio::test]
async fn time_bounds_are_half_open_and_carried_by_the_cursor() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 300).await;
    let times = |records: &[Value]| {
        records.iter().map(|r| r["timestamp_ms"].as_i64().unwrap() - 1_700_000_000_000).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let records = z.read_all("t", "since=1700000000100&until=2023-11-14T22:13:20.200Z&limit=9").await;
        assert_eq!(times(&records), (100..200).collect::<Vec<_>>());
        let records = z.read_all("t", "until=1700000000010&limit=3").await;
        assert_eq!(times(&records), (0..10).collect::<Vec<_>>());
        let (_, page) = z.get("/tables/t?since=1700000000300").await;
        assert_eq!((&page["count"], &page["has_more"]), (&json!(0), &json!(false)));
        z.flush_and_evict().await;
    }
}

#[tokio::test]
async fn one_partition_is_read_from_an_offset() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 20).await;
    z.flush_and_evict().await;
    sent.append(&z, "t", 2, 20).await;
    for offset in [0, 5, 9, 10, 15, 20] {
        let records = z.read_all("t", &format!("partition=1&offset={offset}&limit=3")).await;
        let offsets: Vec<_> = records.iter().map(|r| r["offset"].as_u64().unwrap()).collect();
        assert_eq!(offsets, (offset..20).collect::<Vec<_>>());
    }
    let (status, problem) = z.get("/tables/t?partition=1&offset=21").await;
    assert_eq!(
        (status, &problem["code"], &problem["next"]),
        (StatusCode::RANGE_NOT_SATISFIABLE, &json!("offset_beyond_end"), &json!(20))
    );
    let (status, page) = z.get("/tables/t?partition=1000&offset=0").await;
    assert_eq!((status, &page["count"]), (StatusCode::OK, &json!(0)));
}

#[tokio::test]
async fn a_page_ends_at_eight_mebibytes() {
    let z = TestServer::start().await;
    for _ in 0..10 {
        z.post("/tables/t", &json!({"payload": "x".repeat(1 << 20)})).await;
    }
    let (_, page) = z.get("/tables/t").await;
    assert_eq!((&page["count"], &page["has_more"]), (&json!(8), &json!(true)));
    assert_eq!(z.read_all("t", "").await.len(), 10);
}

#[tokio::test]
async fn wrong_reads_are_refused_hot_and_cold() {
    let z = TestServer::start_tiered(&[]).await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    z.post("/tables/u", &json!({"payload": 1})).await;
    refuse_wrong_reads(&z).await;
    z.flush_and_evict().await;
    assert_eq!(z.partition("t", 0).await["low"], 1);
    refuse_wrong_reads(&z).await;
}

/// Reads that are refused: query; status and code.
const WRONG_READS: &[(&str, u16, &str)] = &[
    ("limit=0", 400, "bad_limit"),
    ("limit=10001", 400, "bad_limit"),
    ("limit=100000000000000000000", 400, "bad_limit"),
    ("last=100000000000000000000", 400, "bad_limit"),
    ("partition=0&offset=100000000000000000000", 416, "offset_beyond_end"),
    ("limit=x", 400, "bad_query"),
    ("offset=0", 400, "bad_query"),
    ("partition=1024", 422, "partition_out_of_range"),
    ("since=yesterday", 400, "bad_query"),
    ("colour=red", 400, "bad_query"),
    ("cursor=AQABAAHabHYk&since=1", 400, "bad_query"),
    ("cursor=AQABAAHabHYk&key=a", 400, "bad_query"),
    ("cursor=AQABAAHabHYk&header.a=b", 400, "bad_query"),
    ("cursor=AQABAAHabHYk&order=newest", 400, "bad_query"),
    ("cursor=AQABAAHabHYk&last=1", 400, "bad_query"),
    ("key=", 400, "bad_query"),
    ("key=%ff", 400, "bad_query"),
    ("header.%E2%82=a", 400, "bad_query"),
    ("header.a=%ED%A0%80", 400, "bad_query"),
    ("key=a&key=b", 400, "bad_query"),
    ("header.=a", 400, "bad_query"),
    ("header.a=1&header.a=2", 400, "bad_query"),
    ("headers.a=1", 400, "bad_query"),
    ("order=backwards", 400, "bad_query"),
    ("order=newest&wait=1s", 400, "bad_query"),
    ("order=newest&last=1", 400, "bad_query"),
    ("order=newest&partition=0&offset=2", 416, "offset_beyond_end"),
    ("last=10001", 400, "bad_limit"),
    ("last=-1", 400, "bad_query"),
    ("last=1&partition=0&offset=0", 400, "bad_query"),
    ("format=csv", 400, "bad_query"),
    ("limit=1&limit=2", 400, "bad_query"),
    ("partition=0&offset=2", 416, "offset_beyond_end"),
    ("partition=0&offset=-1", 400, "bad_query"),
    ("partition=5&offset=1", 416, "offset_beyond_end"),
    ("cursor=AAAA", 400, "bad_cursor"),
];

async fn refuse_wrong_reads(z: &TestServer) {
    let (_, page) = z.get("/tables/u").await;
    let of_another_table = format!("cursor={}", page["next_cursor"].as_str().unwrap());
    let foreign = (of_another_table.as_str(), 400, "bad_cursor");
    for (query, status, code) in WRONG_READS.iter().copied().chain([foreign]) {
        let (found, problem) = z.get(&format!("/tables/t?{query}")).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &json!(code)), "{query}");
    }
    let (status, problem) = z.get("/tables/nope").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("unknown_table")));
    let (status, problem) = answer_of(z, Method::PUT, "/tables/t").await;
    assert_eq!((status, &problem["code"]), (StatusCode::METHOD_NOT_ALLOWED, &json!("method_not_allowed")));
    assert_eq!(z.get("/nope").await.1["code"], "unknown_route");
    let wrong_commits = [
        (json!({"table": "t", "partition": 0, "offset": 2}), 422, "commit_beyond_end"),
        (json!({"table": "a b", "partition": 0, "offset": 0}), 400, "bad_table_name"),
        (json!({"table": "nope", "partition": 0, "offset": 0}), 404, "unknown_table"),
        (json!({"table": "t", "partition": 0, "offset": 0, "x": 1}), 400, "bad_json"),
    ];
    for (body, status, code) in wrong_commits {
        let (found, problem) = z.post("/consumers/g/commit", &body).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &json!(code)), "{body}");
    }
    assert_eq!(z.get("/consumers/a%20b").await.1["code"], "bad_group_name");
}

async fn answer_of(z: &TestServer, method: Method, path: &str) -> (StatusCode, Value) {
    testing::server::answer(z.request(method, path).send().await.unwrap()).await
}

#[tokio::test]
async fn a_stream_gives_the_whole_rest() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 5000).await;
    z.flush_and_evict().await;
    sent.append(&z, "t", 3, 5000).await;
    let request = z.request(Method::GET, "/tables/t").header("accept", "application/x-ndjson");
    let text = request.send().await.unwrap().text().await.unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Sent::from_records(&records), sent);
    let request = z.request(Method::GET, "/tables/t?limit=10").header("accept", "application/x-ndjson");
    assert_eq!(request.send().await.unwrap().text().await.unwrap().lines().count(), 10);
}

#[tokio::test]
async fn a_long_poll_wakes_on_the_first_new_event() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    let (_, page) = z.get("/tables/t").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, empty) = z.get(&format!("/tables/t?wait=50ms&cursor={cursor}")).await;
    assert_eq!(empty["count"], 0);
    let path = format!("/tables/t?wait=60s&cursor={cursor}");
    let write = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        z.post("/tables/t", &json!({"payload": 2})).await
    };
    let ((_, page), _) = join(z.get(&path), write).await;
    assert_eq!((&page["count"], &page["records"][0]["offset"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn server_sent_events_go_on_after_a_break_and_end_at_shutdown() {
    let mut z = TestServer::start().await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 10).await;
    let request = |z: &TestServer| z.request(Method::GET, "/tables/t").header("accept", "text/event-stream");
    let first = request(&z).send().await.unwrap();
    assert_eq!(first.headers()["content-type"], "text/event-stream");
    let (mut found, last) = take_events(first, 7).await;

    let resumed = request(&z).header("last-event-id", last).send().await.unwrap();
    let reading = tokio::spawn(take_events(resumed, 8));
    sent.append(&z, "t", 2, 5).await;
    found.extend(reading.await.unwrap().0);
    assert_eq!(Sent::from_records(&found), sent);

    let open = request(&z).send().await.unwrap();
    let reading = tokio::spawn(open.text());
    assert_eq!(z.terminate().await, Some(0));
    assert_eq!(reading.await.unwrap().unwrap().matches("data: {\"payload\"").count(), 15);
}

/// The next `count` events, and the id of the last.
async fn take_events(mut response: reqwest::Response, count: usize) -> (Vec<Value>, String) {
    let (mut text, mut records, mut id) = (String::new(), Vec::new(), String::new());
    while records.len() < count {
        text += std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap();
        while let Some((event, rest)) = text.split_once("\n\n") {
            let line = |name: &str| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim_start().to_owned())
            };
            if let (Some(data), None, true) = (line("data:"), line("event:"), records.len() < count) {
                records.push(serde_json::from_str(&data).unwrap());
                id = line("id:").unwrap();
            }
            text = rest.to_owned();
        }
    }
    (records, id)
}

#[tokio::test]
async fn has_more_is_exact() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 10).await;
    for _ in 0..2 {
        for (query, has_more) in [
            ("limit=10", false),
            ("limit=9", true),
            ("limit=5&until=1700000000005", false),
            ("limit=4&until=1700000000005", true),
        ] {
            let (_, page) = z.get(&format!("/tables/t?{query}")).await;
            assert_eq!(page["has_more"], has_more, "{query}");
        }
        z.flush_and_evict().await;
    }
}

#[tokio::test]
async fn every_type_of_problem_points_to_its_explanation() {
    let z = TestServer::start().await;
    let (_, problem) = z.get("/tables/nope").await;
    let (page, fragment) = problem["type"].as_str().unwrap().split_once('#').unwrap();
    let html = z.request(Method::GET, page).send().await.unwrap().text().await.unwrap();
    assert!(html.contains(&format!("id=\"{fragment}\"")), "{html}");
    assert!(!html.contains("http://") && !html.contains("https://"), "the page loads nothing from elsewhere");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let z = TestServer::start().await;
    let (status, description) = z.get("/openapi.json").await;
    assert_eq!((status, &description["openapi"]), (StatusCode::OK, &json!("3.1.0")));
    assert!(description["paths"]["/tables/{table}"]["post"].is_object());
    let page = z.request(Method::GET, "/docs/").send().await.unwrap().text().await.unwrap();
    assert!(page.contains("swagger") && !page.contains("https://"), "{page}");
}
