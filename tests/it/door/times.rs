//! `since` and `until` are compared exactly, to the last nanosecond that RFC 3339 can say and to the last
//! year that events have.

use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use zombi::proto::v1;

use super::{NDJSON, PROTOBUF, expect_problem};
use testing::TestServer;

/// When the events are, in milliseconds since 1970: the first and last that there may be, and some around a
/// second.
const EVENTS: [i64; 8] =
    [-62_135_596_800_000, -1500, 999, 1000, 1001, 2000, 253_402_300_799_998, 253_402_300_799_999];

/// A point in time as it stands in a URL, and how many events are before it.
const BOUNDS: &[(&str, usize)] = &[
    ("1000", 3),
    ("1001", 4),
    ("-1500", 1),
    ("-1499", 2),
    ("253402300799999", 7),
    ("1970-01-01T00:00:01Z", 3),
    ("1970-01-01T00:00:01.0Z", 3),
    ("1970-01-01T00:00:01.000000000Z", 3),
    ("1970-01-01T00:00:01.000500Z", 4),
    ("1970-01-01T00:00:01.0001Z", 4),
    ("1970-01-01T00:00:01.000000001Z", 4),
    ("1970-01-01T00:00:01.0000000001Z", 4),
    ("1970-01-01T00:00:01.00000000000000000000Z", 3),
    ("1970-01-01T00:00:01.000999999Z", 4),
    ("1970-01-01T00:00:01.001Z", 4),
    ("1970-01-01T00:00:01.001000001Z", 5),
    ("1970-01-01T00:00:00.999Z", 2),
    ("1970-01-01T00:00:00.999000001Z", 3),
    ("1970-01-01T00:00:00.999999999Z", 3),
    ("1969-12-31T23:59:58.499999999Z", 1),
    ("1969-12-31T23:59:58.5Z", 1),
    ("1969-12-31T23:59:58.500000001Z", 2),
    ("1969-12-31T23:59:58.500500Z", 2),
    ("1970-01-01T02:00:01.000500%2B02:00", 4),
    ("1970-01-01T05:30:01%2B05:30", 3),
    ("1969-12-31T19:00:01-05:00", 3),
    ("1969-12-31T19:00:01.000001-05:00", 4),
    ("1970-01-01T00:00:01-00:00", 3),
    ("1970-01-01t00:00:01z", 3),
    ("1970-01-01t00:00:01.0005z", 4),
    ("1970-01-01T00:00:01.0005z", 4),
    ("1970-01-01t02:00:01%2b02:00", 3),
    ("0001-01-01T00:00:00Z", 0),
    ("0001-01-01T00:00:00.000000001Z", 1),
    ("9999-12-30T22:00:01Z", 6),
    ("9999-12-31T23:59:59Z", 6),
    ("9999-12-31T23:59:59.998Z", 6),
    ("9999-12-31T23:59:59.998000001Z", 7),
    ("9999-12-31T23:59:59.999Z", 7),
    ("9999-12-31T23:59:59.999%2B00:00", 7),
    ("9999-12-31T22:59:59.999-01:00", 7),
    ("9999-12-31T23:59:59.999000001Z", 8),
    ("9999-12-31t23:59:59.999999999z", 8),
];

fn times(records: &[Value]) -> Vec<i64> {
    records.iter().map(|record| record["timestamp_ms"].as_i64().unwrap()).collect()
}

/// What each shape of an answer gives for a query.
async fn each_shape(z: &TestServer, query: &str) -> [Vec<i64>; 3] {
    let paged = times(&z.read_all("t", &format!("{query}&limit=2")).await);
    let read = |accept: &'static str| {
        z.request(Method::GET, &format!("/tables/t?{query}")).header("accept", accept).send()
    };
    let lines = read(NDJSON).await.unwrap().text().await.unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let page = v1::ReadResponse::decode(read(PROTOBUF).await.unwrap().bytes().await.unwrap()).unwrap();
    [paged, times(&lines), page.records.iter().map(|record| record.timestamp_ms).collect()]
}

#[tokio::test]
async fn bounds_are_exact_hot_and_cold() {
    let z = TestServer::start_tiered(&[]).await;
    for (number, timestamp_ms) in EVENTS.into_iter().enumerate() {
        let (status, body) = z
            .post("/tables/t", &json!({"payload": 1, "timestamp_ms": timestamp_ms, "partition": number % 3}))
            .await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    for tier in ["hot", "cold"] {
        for (bound, before) in BOUNDS {
            let (until, since) = EVENTS.split_at(*before);
            assert_eq!(
                each_shape(&z, &format!("since={bound}")).await,
                [since, since, since],
                "{tier} since={bound}"
            );
            assert_eq!(
                each_shape(&z, &format!("until={bound}")).await,
                [until, until, until],
                "{tier} until={bound}"
            );
        }
        let between = "since=1970-01-01T00:00:00.999000001Z&until=1970-01-01T02:00:01.001000001%2B02:00";
        assert_eq!(each_shape(&z, between).await, [[1000, 1001], [1000, 1001], [1000, 1001]], "{tier}");
        let nothing = "since=1970-01-01T00:00:01.000000001Z&until=1970-01-01T00:00:01.000999999Z";
        assert!(each_shape(&z, nothing).await.concat().is_empty(), "{tier}");
        z.flush_and_evict().await;
    }
}

#[tokio::test]
async fn what_is_no_point_in_time_is_refused_and_a_raw_plus_is_named() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    for name in ["since", "until"] {
        for text in [
            "",
            "yesterday",
            "1.5",
            "1e3",
            "99999999999999999999",
            "1970-01-01",
            "1970-01-01T00:00:01",
            "00:00:01Z",
            "1970-13-01T00:00:00Z",
            "1970-02-30T00:00:00Z",
            "1970-01-01T25:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:01%2B2",
            "1970-01-01T00:00Z",
            "1970-01-01T00:00:01,5Z",
            "1970-01-01T00:00:01Z[UTC]",
            "19700101T000001Z",
            "10000-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z%20and%20more",
        ] {
            expect_problem(text, &z.get(&format!("/tables/t?{name}={text}")).await, 400, "bad_query")
                .saying(name);
        }
        for text in
            ["2024-01-01T00:00:00+02:00", "1970-01-01T00:00:01.000500+00:00", "9999-12-31T23:59:59+01:00"]
        {
            expect_problem(text, &z.get(&format!("/tables/t?{name}={text}")).await, 400, "bad_query")
                .saying(name)
                .saying("%2B");
        }
    }
}
