//! What is sent to routes of the contract, told by what a server hears.

use serde_json::{Value, json};
use testing::command::CommandLine;

use super::{
    USAGE, one, says,
    scripted::{Scene, Scripted, ok},
};

/// What a group's reset answers.
fn moved(offsets: &[(u32, Option<u64>, u64)]) -> Scene {
    let offset = |place: &(u32, Option<u64>, u64)| {
        let (partition, old, new) = place;
        json!({"partition": partition, "old": old, "new": new})
    };
    ok(json!({"group": "g", "table": "t", "offsets": offsets.iter().map(offset).collect::<Vec<_>>()}))
}

#[tokio::test]
async fn a_group_is_reset_to_a_place() {
    for (to, expected) in [
        ("earliest", json!("earliest")),
        ("latest", json!("latest")),
        ("-1h", json!({"by": "-1h"})),
        ("2026-11-26T12:00:00Z", json!({"time": "2026-11-26T12:00:00Z"})),
    ] {
        let server = Scripted::start(vec![moved(&[(0, Some(7), 3), (1, None, 2)])]).await;
        let words = ["consumer", "reset", "g", "t", "--to", to, "--dry-run", "-o", "table"];
        let ran = server.command(&words).run().await;
        let table = "TABLE  PARTITION  OLD  NEW\nt              0    7    3\nt              1    -    2\n";
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), table), "{}", ran.err);
        assert!(ran.err.contains("--dry-run"), "{}", ran.err);
        let heard = server.heard();
        assert_eq!(heard[0].line, "POST /consumers/g/reset");
        assert_eq!(heard[0].json(), json!({"table": "t", "to": expected, "dry_run": true}));
    }
}

#[tokio::test]
async fn one_partition_is_moved_to_where_all_would_be() {
    let server = Scripted::start(vec![moved(&[(0, Some(7), 3), (1, None, 2)]), moved(&[(1, None, 2)])]).await;
    let words = ["consumer", "reset", "g", "t", "--to", "earliest", "--partition", "1"];
    let ran = server.command(&words).run().await;
    assert_eq!(one(&ran)["offsets"], json!([{"partition": 1, "old": null, "new": 2}]), "{}", ran.err);
    let bodies: Vec<Value> = server.heard().iter().map(|heard| heard.json()).collect();
    let exact = json!({"table": "t", "to": {"offset": 2, "partition": 1}, "dry_run": false});
    assert_eq!(bodies, [json!({"table": "t", "to": "earliest", "dry_run": true}), exact]);
}

#[tokio::test]
async fn an_offset_is_of_a_partition() {
    let server = Scripted::start(vec![moved(&[(3, Some(1), 12)])]).await;
    let words = ["consumer", "reset", "g", "t", "--to", "12", "--partition", "3"];
    assert_eq!(server.command(&words).run().await.code, Some(0));
    let expected = json!({"table": "t", "to": {"offset": 12, "partition": 3}, "dry_run": false});
    assert_eq!(server.heard()[0].json(), expected);
    // Which one, if it is not said?
    let partitions = |count: u32| {
        ok(json!({"partitions": (0..count).map(|number| json!({"partition": number})).collect::<Vec<_>>()}))
    };
    let server = Scripted::start(vec![partitions(1), moved(&[(0, None, 12)])]).await;
    assert_eq!(server.command(&words[..6]).run().await.code, Some(0));
    assert_eq!(server.heard()[1].json()["to"], json!({"offset": 12, "partition": 0}));
    let server = Scripted::start(vec![partitions(2)]).await;
    says("of two", &server.command(&words[..6]).run().await, USAGE, &["--partition"]);
    says(
        "no place",
        &CommandLine::new(&["consumer", "reset", "g", "t", "--to", "1h"]).run().await,
        USAGE,
        &["-1h"],
    );
}

#[tokio::test]
async fn a_reset_by_a_length_is_not_done_twice() {
    let server = Scripted::start(vec![Scene::Silence, moved(&[(0, Some(7), 3)])]).await;
    let ran = server.command(&["consumer", "reset", "g", "t", "--to", "-1h"]).run().await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(server.heard().len(), 1);
}

#[tokio::test]
async fn segments_are_listed_page_by_page() {
    let segment = |start: u64| {
        json!({"url": format!("s3://events/segments/t/{start}"), "partition": 0, "start": start,
            "end": start + 1000, "events": 1000, "bytes": 2048, "min_timestamp_ms": 0,
            "max_timestamp_ms": 1_000, "sha256": "ab"})
    };
    let first = json!({"segments": [segment(0)], "has_more": true, "next": "n1"});
    let second = json!({"segments": [segment(1000)], "has_more": false, "next": null});
    let server = Scripted::start(vec![ok(first.clone()), ok(second.clone())]).await;
    let ran =
        server.command(&["segments", "t", "--partition", "0", "--since", "5", "-o", "table"]).run().await;
    let expected = "\
PARTITION  START   END  EVENTS     BYTES  FIRST                     LAST
        0      0  1000   1,000  2.00 KiB  1970-01-01T00:00:00.000Z  1970-01-01T00:00:01.000Z
        0   1000  2000   1,000  2.00 KiB  1970-01-01T00:00:00.000Z  1970-01-01T00:00:01.000Z
";
    assert_eq!(ran.out, expected, "{}", ran.err);
    let asked: Vec<String> = server.heard().into_iter().map(|heard| heard.line).collect();
    let route = "GET /tables/t/segments?partition=0&since=5";
    assert_eq!(asked, [route.to_owned(), format!("{route}&after=n1")]);
    let server = Scripted::start(vec![ok(first), ok(second)]).await;
    let names = server.command(&["segments", "t", "-o", "name"]).run().await.out;
    assert_eq!(names, "s3://events/segments/t/0\ns3://events/segments/t/1000\n");
}

#[tokio::test]
async fn a_raw_body_is_sent_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("order.json");
    std::fs::write(&file, "{\n  \"id\": 7\n}\n").unwrap();
    let name = file.display().to_string();
    let answer = json!({"offset": 4, "partition": 2, "table": "t", "duplicate": true});
    for (more, query) in [
        (&[][..], "idempotency_key=order.json%3A1"),
        (&["--idempotency-key", "id", "--key", "k"], "idempotency_key=7&key=k"),
        (&["--source", "s", "--expected-offset", "4"], "idempotency_key=s%3A1&expected_offset=4"),
    ] {
        let server = Scripted::start(vec![ok(answer.clone())]).await;
        let words = ["append", "t", "--format", "raw", "-f", &name, "--partition", "2", "--header", "a=b"];
        let ran = server.command(&[&words[..], more].concat()).run().await;
        let summary = one(&ran);
        assert_eq!((&summary["count"], &summary["duplicates"]), (&json!(1), &json!(1)), "{}", ran.err);
        let heard = server.heard().remove(0);
        assert_eq!(heard.line, format!("POST /tables/t/raw?{query}"));
        assert_eq!(heard.body, b"{\n  \"id\": 7\n}\n");
        for header in ["content-type: application/json", "x-partition: 2", "zombi-header-a: b"] {
            assert!(heard.headers.lines().any(|line| line == header), "{header}: {}", heard.headers);
        }
    }
    let server = Scripted::start(vec![ok(answer)]).await;
    let bytes = server.command(&["append", "t", "--format", "raw"]).input(b"\xff\n").run().await;
    assert_eq!(bytes.code, Some(0), "{}", bytes.err);
    let heard = server.heard().remove(0);
    assert!(heard.headers.contains("content-type: application/octet-stream"), "{}", heard.headers);
    assert_eq!(heard.body, b"\xff\n");
}
