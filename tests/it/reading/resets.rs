//! Resets of consumer groups.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{BEGAN_MS, write};
use testing::TestServer;

/// Old and new offsets of each partition, as a reset says.
async fn reset(z: &TestServer, to: Value, dry_run: bool) -> Vec<(Value, Value)> {
    let body = json!({"table": "t", "to": to, "dry_run": dry_run});
    let (status, shown) = z.post("/consumers/g/reset", &body).await;
    assert_eq!(status, StatusCode::OK, "{to}: {shown}");
    assert_eq!(
        (&shown["group"], &shown["table"], &shown["dry_run"]),
        (&json!("g"), &json!("t"), &json!(dry_run))
    );
    let partitions = shown["partitions"].as_array().unwrap();
    let number = |(at, one): (usize, &Value)| {
        assert_eq!(one["partition"], at, "{shown}");
        (one["old"].clone(), one["new"].clone())
    };
    partitions.iter().enumerate().map(number).collect()
}

/// The group's offsets.
async fn offsets(z: &TestServer) -> Vec<Value> {
    let (status, group) = z.get("/consumers/g").await;
    if status == StatusCode::NOT_FOUND {
        return Vec::new();
    }
    group["offsets"].as_array().unwrap().iter().map(|one| one["offset"].clone()).collect()
}

#[tokio::test]
async fn a_group_is_moved_to_either_end_to_a_time_or_to_an_offset() {
    let mut z = TestServer::start_tiered(&[]).await;
    // 100 in each of three partitions, a millisecond apart over all.
    write(&z, 0..150, 3).await;
    z.flush_and_evict().await;
    write(&z, 150..300, 3).await;
    let (none, at) = (Value::Null, |offset: u64| json!(offset));

    assert_eq!(
        reset(&z, json!("latest"), true).await,
        vec![(none.clone(), at(100)); 3],
        "a group that is not there yet"
    );
    assert!(offsets(&z).await.is_empty(), "a dry run makes nothing");
    reset(&z, json!("latest"), false).await;
    assert_eq!(offsets(&z).await, vec![at(100); 3]);
    assert_eq!(reset(&z, json!("earliest"), false).await, vec![(at(100), at(0)); 3]);
    assert_eq!(offsets(&z).await, vec![at(0); 3]);

    // 31 events are before this time: 11 of partition 0, 10 of each other.
    let time = BEGAN_MS + 31;
    let expected = vec![(at(0), at(11)), (at(0), at(10)), (at(0), at(10))];
    assert_eq!(reset(&z, json!({"time": time}), true).await, expected);
    assert_eq!(reset(&z, json!({"time": "2023-11-14T22:13:20.031Z"}), false).await, expected);
    let in_hot = vec![(at(11), at(67)), (at(10), at(67)), (at(10), at(66))];
    assert_eq!(reset(&z, json!({"time": BEGAN_MS + 200}), true).await, in_hot);
    let never = json!({"time": "9999-01-01T00:00:00Z"});
    assert_eq!(reset(&z, never, true).await.iter().map(|one| one.1.clone()).collect::<Vec<_>>(), [100; 3]);
    // All of it is years old.
    let hour = reset(&z, json!({"by": "-1h"}), true).await;
    assert_eq!(hour.iter().map(|one| one.1.clone()).collect::<Vec<_>>(), [100; 3]);
    let ages = reset(&z, json!({"by": "-5000d"}), true).await;
    assert_eq!(ages.iter().map(|one| one.1.clone()).collect::<Vec<_>>(), [0; 3]);

    let one = reset(&z, json!({"offset": 42, "partition": 1}), false).await;
    assert_eq!(one, vec![(at(11), at(11)), (at(10), at(42)), (at(10), at(10))], "the others stay");
    z.crash().await;
    assert_eq!(offsets(&z).await, vec![at(11), at(42), at(10)], "it was durable");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_moves_nothing() {
    let z = TestServer::start().await;
    write(&z, 0..10, 1).await;
    reset(&z, json!("latest"), false).await;
    for (body, status, code) in [
        (json!({"table": "t"}), 400, "bad_json"),
        (json!({"to": "latest"}), 400, "bad_json"),
        (json!({"table": "t", "to": "middle"}), 400, "bad_json"),
        (json!({"table": "t", "to": 5}), 400, "bad_json"),
        (json!({"table": "t", "to": ["earliest"]}), 400, "bad_json"),
        (json!({"table": "t", "to": {"offset": 5}}), 400, "bad_json"),
        (json!({"table": "t", "to": {"by": "1h"}}), 400, "bad_json"),
        (json!({"table": "t", "to": {"time": "yesterday"}}), 400, "bad_json"),
        (json!({"table": "t", "to": "latest", "dry_run": "yes"}), 400, "bad_json"),
        (json!({"table": "t", "to": "latest", "force": true}), 400, "bad_json"),
        (json!(["t", "latest", false]), 400, "bad_json"),
        (json!({"table": "a b", "to": "latest"}), 400, "bad_table_name"),
        (json!({"table": "nope", "to": "latest"}), 404, "unknown_table"),
        (json!({"table": "t", "to": {"offset": 11, "partition": 0}}), 422, "commit_beyond_end"),
        (json!({"table": "t", "to": {"offset": 1, "partition": 9}}), 422, "commit_beyond_end"),
        (json!({"table": "t", "to": {"offset": 0, "partition": 1024}}), 422, "partition_out_of_range"),
    ] {
        let (found, problem) = z.post("/consumers/g/reset", &body).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &json!(code)), "{body}: {problem}");
    }
    assert_eq!(z.post("/consumers/a%20b/reset", &json!({})).await.1["code"], "bad_group_name");
    assert_eq!(z.post("/consumers/g/reset?x=1", &json!({})).await.1["code"], "bad_query");
    assert_eq!(offsets(&z).await, [10]);
}

#[tokio::test]
async fn a_group_is_not_moved_to_what_is_gone() {
    let z = TestServer::start().await;
    write(&z, 0..10, 1).await;
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    write(&z, 10..15, 1).await;
    let moved = reset(&z, json!({"offset": 3, "partition": 0}), false).await;
    assert_eq!(moved, [(Value::Null, json!(10))], "the first that is left");
    assert_eq!(reset(&z, json!("earliest"), true).await, [(json!(10), json!(10))]);
}
