//! What volume and bucket mean together at the start: lost volumes, older copies, foreign ones.

mod bucket;
mod damaged;

use std::{path::Path, sync::atomic::Ordering::SeqCst, time::Duration};

use reqwest::StatusCode;
use serde_json::{Value, json};

use testing::{Sent, TestServer};

/// Offsets that a reservation holds.
const RESERVED: u64 = 1 << 28;

async fn append(z: &TestServer, table: &str, payload: &str) -> u64 {
    let (status, body) = z.post(&format!("/tables/{table}"), &json!({"payload": payload})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    body["offset"].as_u64().unwrap()
}

fn payloads(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["payload"].as_str().unwrap()).collect()
}

fn offsets(records: &[Value]) -> Vec<u64> {
    records.iter().map(|record| record["offset"].as_u64().unwrap()).collect()
}

fn lose_volume(z: &TestServer) {
    std::fs::remove_dir_all(z.data_dir()).unwrap();
}

/// Puts a copy of a folder in the place of another.
pub(crate) fn copy(from: &Path, to: &Path) {
    drop(std::fs::remove_dir_all(to));
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_lost_volume_comes_back_from_s3() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 300).await;
    for n in 0..5 {
        z.post(
            "/tables/keys",
            &json!({"payload": n, "idempotency_key": format!("k{n}"), "partition": n % 2}),
        )
        .await;
    }
    z.post("/consumers/g/commit", &json!({"table": "t", "partition": 1, "offset": 40})).await;
    let (status, _) = z.put("/tables/t/config", &json!({"retention_secs": 1_000_000})).await;
    assert_eq!(status, StatusCode::OK);
    z.flush_and_evict().await;
    let acked_and_never_flushed = append(&z, "t", "gone").await;
    z.kill().await;
    lose_volume(&z);
    z.run().await;

    assert_eq!(Sent::from_records(&z.read_all("t", "limit=100").await), sent);
    // Nobody else ever gets an offset that may have been seen; what is between is declared.
    let next = append(&z, "t", "after").await;
    assert_eq!((acked_and_never_flushed, next), (100, 100 + RESERVED));
    let (_, page) = z.get("/tables/t?partition=0&offset=99").await;
    assert_eq!(page["lost"], json!([{"partition": 0, "start": 100, "end": next}]));
    assert_eq!(offsets(page["records"].as_array().unwrap()), [99, next]);
    let (_, page) = z.get("/tables/t?partition=0&offset=100").await;
    assert_eq!(payloads(page["records"].as_array().unwrap()), ["after"]);
    assert_eq!(z.partition("t", 0).await["lost"], json!([{"start": 100, "end": next}]));
    let (_, stats) = z.get("/stats").await;
    assert_eq!(stats["tables"]["t"]["partitions"][0]["lost"][0]["start"], 100);

    // Keys inside the window, consumer offsets and settings are back.
    for n in 0..5 {
        let (status, body) = z
            .post(
                "/tables/keys",
                &json!({"payload": n, "idempotency_key": format!("k{n}"), "partition": n % 2}),
            )
            .await;
        assert_eq!(
            (status, &body["offset"], &body["duplicate"]),
            (StatusCode::OK, &json!(n / 2), &json!(true))
        );
    }
    let (_, offset) = z.get("/consumers/g/offset?table=t&partition=1").await;
    assert_eq!((&offset["offset"], &offset["lag"]), (&json!(40), &json!(60)));
    assert_eq!(z.get("/tables/t/config").await.1["retention_secs"], 1_000_000);
    z.flush_and_evict().await;
    z.crash().await;
    assert_eq!(z.read_all("t", "").await.len(), 301);
    z.audit().await;
}

#[tokio::test]
async fn an_empty_volume_says_in_one_line_that_it_recovers_and_what_that_means() {
    let mut z = TestServer::start_tiered(&[]).await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    z.kill().await;
    lose_volume(&z);
    let log = z.try_run_log().await;
    let line = log.lines().find(|line| line.contains("recovering from S3")).unwrap();
    for word in ["the volume is empty", "lost", "mount it"] {
        assert!(line.contains(word), "nothing of {word:?} in {line}");
    }
    let log = {
        z.kill().await;
        z.try_run_log().await
    };
    assert!(!log.contains("recovering from S3"), "{log}");
}

#[tokio::test]
async fn after_a_clean_stop_a_new_volume_goes_on_without_a_gap() {
    let mut z = TestServer::start_tiered(&[]).await;
    for n in 0..10 {
        append(&z, "t", &n.to_string()).await;
    }
    assert_eq!(z.terminate().await, Some(0));
    lose_volume(&z);
    z.run().await;
    assert_eq!(append(&z, "t", "10").await, 10);
    assert_eq!(offsets(&z.read_all("t", "").await), (0..=10).collect::<Vec<_>>());
    // And the new one's offsets are reserved again.
    z.kill().await;
    lose_volume(&z);
    z.run().await;
    assert!(append(&z, "t", "11").await > 10);
    z.audit().await;
}

#[tokio::test]
async fn an_offset_that_never_reached_s3_is_not_given_again() {
    let mut z = TestServer::start_tiered(&[]).await;
    assert_eq!(append(&z, "t", "seen").await, 0);
    z.kill().await;
    lose_volume(&z);
    z.run().await;
    let next = append(&z, "t", "another").await;
    assert!(next >= RESERVED);
    assert_eq!(append(&z, "new", "first").await, 0);
    let (_, page) = z.get("/tables/t").await;
    assert_eq!(page["lost"], json!([{"partition": 0, "start": 0, "end": next}]));
    z.flush_and_evict().await;
    z.audit().await;
}

#[tokio::test]
async fn an_older_copy_of_the_volume_is_noticed_and_catches_up() {
    let mut z = TestServer::start_tiered(&[]).await;
    for payload in ["a", "b"] {
        append(&z, "t", payload).await;
    }
    z.flush_and_evict().await;
    append(&z, "t", "c").await; // unflushed in the copy, flushed by the original
    z.put("/tables/t/config", &json!({"retention_secs": 3600})).await;
    z.kill().await;
    let copied = tempfile::tempdir().unwrap();
    copy(&z.data_dir(), copied.path());
    z.run().await;
    append(&z, "t", "d").await;
    z.put("/tables/t/config", &json!({"retention_secs": null})).await;
    z.post("/consumers/g/commit", &json!({"table": "t", "partition": 0, "offset": 4})).await;
    z.flush_and_evict().await;
    assert_eq!(append(&z, "t", "seen, and lost with the original").await, 4);
    z.kill().await;

    copy(copied.path(), &z.data_dir());
    z.run().await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["a", "b", "c", "d"]);
    assert!(append(&z, "t", "e").await >= RESERVED);
    assert_eq!(z.get("/consumers/g/offset?table=t&partition=0").await.1["offset"], 4);
    assert_eq!(
        z.get("/tables/t/config").await.1["retention_secs"],
        json!(null),
        "what the copy remembers counts no more"
    );
    z.flush_and_evict().await;
    z.crash().await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["a", "b", "c", "d", "e"]);
    z.audit().await;
}

/// Where groups are in a table of one partition; `None` for one that has committed nothing there.
async fn committed(z: &TestServer, groups: [&str; 4]) -> [Option<u64>; 4] {
    let mut found = [None; 4];
    for (group, found) in groups.into_iter().zip(&mut found) {
        let path = format!("/consumers/{group}/offset?table=t&partition=0");
        *found = z.get(&path).await.1["offset"].as_u64();
    }
    found
}

#[tokio::test]
async fn an_older_volume_takes_groups_as_they_were_set_since_and_keeps_what_only_it_was_told() {
    let mut z = TestServer::start_tiered(&[]).await;
    let groups = ["on", "back", "gone", "own"];
    for payload in ["a", "b", "c", "d", "e", "f"] {
        append(&z, "t", payload).await;
    }
    let commit = async |z: &TestServer, group: &str, offset: u64| {
        let commit = json!({"table": "t", "partition": 0, "offset": offset});
        assert_eq!(z.post(&format!("/consumers/{group}/commit"), &commit).await.0, StatusCode::OK);
    };
    for (group, offset) in groups.into_iter().zip([3, 5, 3, 2]) {
        commit(&z, group, offset).await;
    }
    z.flush_and_evict().await;
    commit(&z, "own", 4).await; // in no manifest
    z.kill().await;
    let older = tempfile::tempdir().unwrap();
    copy(&z.data_dir(), older.path());
    lose_volume(&z);
    z.run().await;
    assert_eq!(committed(&z, groups).await, [Some(3), Some(5), Some(3), Some(2)]);
    commit(&z, "on", 4).await;
    let reset = z.post("/consumers/back/reset", &json!({"table": "t", "to": "earliest"})).await;
    assert_eq!(reset.0, StatusCode::OK, "{}", reset.1);
    assert_eq!(z.delete("/consumers/gone").await.0, StatusCode::NO_CONTENT);
    assert_eq!(z.terminate().await, Some(0));

    copy(older.path(), &z.data_dir());
    z.run().await;
    let expected = [Some(4), Some(0), None, Some(4)];
    assert_eq!(committed(&z, groups).await, expected);
    // And so do those that come after it.
    assert_eq!(z.terminate().await, Some(0));
    lose_volume(&z);
    z.run().await;
    assert_eq!(committed(&z, groups).await, expected);
    z.audit().await;
}

#[tokio::test]
async fn a_copy_that_catches_up_forgets_what_was_deleted_since() {
    let mut z = TestServer::start_tiered(&[]).await;
    let keyed = |key: &str, payload: &str| json!({"payload": payload, "idempotency_key": key});
    for table in ["gone", "again", "kept"] {
        z.post(&format!("/tables/{table}"), &keyed("k", "old")).await;
        z.post("/consumers/g/commit", &json!({"table": table, "partition": 0, "offset": 1})).await;
    }
    z.flush_and_evict().await;
    z.kill().await;
    let copied = tempfile::tempdir().unwrap();
    copy(&z.data_dir(), copied.path());
    z.run().await;
    for table in ["gone", "again"] {
        assert_eq!(z.delete(&format!("/tables/{table}")).await.0, StatusCode::NO_CONTENT);
    }
    append(&z, "again", "new").await;
    z.flush_and_evict().await;
    z.kill().await;

    copy(copied.path(), &z.data_dir());
    z.run().await;
    for table in ["gone", "again"] {
        let (status, group) = z.get(&format!("/consumers/g/offset?table={table}&partition=0")).await;
        assert!(status == StatusCode::NOT_FOUND || group["offset"].is_null(), "{table}: {group}");
        // A key of what is gone does not stand for an event that nobody can read.
        let (status, body) = z.post(&format!("/tables/{table}"), &keyed("k", "stored")).await;
        assert_eq!(status, StatusCode::CREATED, "{table}: {body}");
        let records = z.read_all(table, "").await;
        assert_eq!(records.last().unwrap()["payload"], "stored", "{table}: {records:?}");
    }
    let (status, body) = z.post("/tables/kept", &keyed("k", "old")).await;
    assert_eq!((status, &body["duplicate"]), (StatusCode::OK, &json!(true)), "{body}");
    assert_eq!(z.get("/consumers/g/offset?table=kept&partition=0").await.1["offset"], 1);
    assert_eq!(z.delete("/tables/kept").await.0, StatusCode::NO_CONTENT);
    let (status, _) =
        z.post("/consumers/g/commit", &json!({"table": "kept", "partition": 0, "offset": 0})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "a commit to a table that is gone");
    z.flush_and_evict().await;
    z.audit().await;
}

#[tokio::test]
async fn a_copy_that_has_more_than_s3_brings_it_in() {
    let mut z = TestServer::start_tiered(&[]).await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    append(&z, "t", "b").await;
    z.kill().await;
    let copied = tempfile::tempdir().unwrap();
    copy(&z.data_dir(), copied.path());
    z.run().await; // a manifest of its own, no flush
    append(&z, "t", "lost with the original").await;
    z.kill().await;
    copy(copied.path(), &z.data_dir());
    z.run().await;
    assert!(append(&z, "t", "c").await >= RESERVED);
    assert_eq!(payloads(&z.read_all("t", "").await), ["a", "b", "c"]);
    let (_, page) = z.get("/tables/t").await;
    assert_eq!(page["lost"][0]["start"], 2);
    z.flush_and_evict().await;
    z.audit().await;
}

#[tokio::test]
async fn a_copy_that_went_another_way_is_refused_and_nothing_is_changed() {
    let mut z = TestServer::start_tiered(&[("s3.attempts", "1")]).await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    z.kill().await;
    let copied = tempfile::tempdir().unwrap();
    copy(&z.data_dir(), copied.path());
    z.run().await;
    append(&z, "t", "the original's").await;
    z.flush_and_evict().await;
    z.kill().await;
    // The copy is written while S3 does not answer, so that it cannot know better.
    copy(copied.path(), &z.data_dir());
    z.store().is_down.store(true, SeqCst);
    z.run().await;
    append(&z, "t", "the copy's").await;
    z.kill().await;
    z.store().is_down.store(false, SeqCst);
    let objects = z.objects("");
    let log = z.try_run().await.unwrap_err();
    assert!(log.contains("other events there than the volume") && log.contains("t/0"), "{log}");
    assert_eq!(
        z.objects("segments/"),
        objects.into_iter().filter(|(key, _)| key.starts_with("segments/")).collect::<Vec<_>>()
    );
    z.audit().await;
}

#[tokio::test]
async fn another_stores_volume_is_refused_and_nothing_is_changed() {
    let mut z = TestServer::start_tiered(&[]).await;
    append(&z, "t", "ours").await;
    z.flush_and_evict().await;
    z.kill().await;
    let mut other = TestServer::start_tiered(&[]).await;
    append(&other, "t", "theirs").await;
    other.kill().await;
    other.s3 = z.s3.clone();
    let objects = z.objects("");
    let log = other.try_run().await.unwrap_err();
    assert!(log.contains("do not belong together"), "{log}");
    assert_eq!(z.objects(""), objects);
    z.run().await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["ours"]);
}

#[tokio::test]
async fn a_recovery_may_be_killed_anywhere() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 100).await;
    z.post("/tables/k", &json!({"payload": 1, "idempotency_key": "k"})).await;
    z.flush_and_evict().await;
    append(&z, "unflushed", "x").await;
    z.kill().await;
    lose_volume(&z);
    let points = [
        "recovery-begun",
        "manifest-intended",
        "recovery-taken-over",
        "recovery-partitions",
        "recovery-lost-declared",
        "recovery-moved-on",
        "recovery-emptied",
        "recovery-scrubbed",
    ];
    for point in points {
        let log = z.try_run_with(&format!("{point}=return")).await.unwrap_err();
        assert!(!log.contains("exiting"), "{point}: it ended by itself\n{log}");
    }
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
    assert_eq!(
        z.post("/tables/k", &json!({"payload": 1, "idempotency_key": "k"})).await.1["duplicate"],
        true
    );
    let lost = &z.partition("t", 0).await["lost"];
    assert_eq!(*lost, json!([{"start": 50, "end": 50 + RESERVED}]), "declared once, whatever the kills");
    assert!(append(&z, "unflushed", "y").await >= RESERVED);
    z.flush_and_evict().await;
    z.audit().await;
}

#[tokio::test]
async fn twenty_kills_in_the_first_half_second() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 1000).await;
    z.flush_and_evict().await;
    sent.append(&z, "t", 2, 1000).await;
    z.kill().await;
    for round in 0..20 {
        z.run_for(Duration::from_millis(round * 25)).await;
    }
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
    z.flush_and_evict().await;
    z.audit().await;
}
