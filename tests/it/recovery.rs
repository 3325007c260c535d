//! What volume and bucket mean together at the start: lost volumes, older copies, foreign ones, a bucket that
//! does not answer.

use std::{path::Path, sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use reqwest::StatusCode;
use serde_json::{Value, json};

use testing::{Sent, TestServer, server::eventually};

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
async fn a_bucket_that_lost_its_manifests_is_refused() {
    let mut z = TestServer::start_tiered(&[]).await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    z.kill().await;
    for (key, _) in z.objects("manifests/") {
        z.store().delete("events", &key);
    }
    let log = z.try_run().await.unwrap_err();
    assert!(log.contains("manifests were deleted"), "{log}");
}

/// What the admin port says of the bucket.
async fn says_of_the_bucket(z: &TestServer) -> String {
    z.client.get(z.admin_url("/readyz?verbose")).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_bucket_that_comes_back_empty_is_named_and_nothing_is_begun_in_it() {
    let mut z = TestServer::start_tiered(&[]).await;
    append(&z, "t", "cold").await;
    z.flush_and_evict().await;
    append(&z, "t", "hot").await;
    let objects: Vec<_> = ["manifests/", "segments/"].iter().flat_map(|prefix| z.objects(prefix)).collect();
    for (key, _) in &objects {
        z.store().delete("events", key);
    }
    // While it runs, and while it starts.
    for is_started_anew in [false, true] {
        if is_started_anew {
            z.crash().await;
        } else {
            tokio::time::sleep(Duration::from_secs(11)).await; // for so long it trusts what it saw
            let (status, problem) = z.post("/flush", &json!(null)).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
        }
        let is_named = || async { says_of_the_bucket(&z).await.contains("came back empty") };
        eventually("it is named", is_named).await;
        let said = says_of_the_bucket(&z).await;
        assert!(said.contains("Bring its objects back"), "{said}");
        append(&z, "t", "meanwhile").await;
        assert_eq!(payloads(&z.read_all("t", "partition=0&offset=1").await)[0], "hot");
        assert!(
            z.objects("manifests/").is_empty() && z.objects("segments/").is_empty(),
            "something was begun in it"
        );
    }
    for (key, bytes) in objects {
        z.store().replace("events", &key, bytes);
    }
    let flushed = || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK };
    eventually("it goes on when its objects are back", flushed).await;
    assert!(!says_of_the_bucket(&z).await.contains("came back empty"));
    assert_eq!(payloads(&z.read_all("t", "").await), ["cold", "hot", "meanwhile", "meanwhile"]);
    z.audit().await;
}

#[tokio::test]
async fn a_bucket_that_is_emptied_while_writes_go_on_is_named_too() {
    let settings = [("flush.interval_secs", "0"), ("compaction.interval_secs", "3600")];
    let mut z = TestServer::start_tiered(&settings).await;
    append(&z, "t", "cold").await;
    z.flush_and_evict().await;
    let objects: Vec<_> = ["manifests/", "segments/"].iter().flat_map(|prefix| z.objects(prefix)).collect();
    for (key, _) in &objects {
        z.store().delete("events", key);
    }
    // Each is flushed at once: there is never a quiet moment in which to look.
    let is_named = || async {
        append(&z, "t", "meanwhile").await;
        says_of_the_bucket(&z).await.contains("came back empty")
    };
    eventually("it is named under load", is_named).await;
    // From here on nothing more is put. What was put before is no chain.
    let put: Vec<_> = z.objects("").into_iter().map(|(key, _)| key).collect();
    for _ in 0..20 {
        append(&z, "t", "meanwhile").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(says_of_the_bucket(&z).await.contains("came back empty"));
    assert_eq!(z.objects("").into_iter().map(|(key, _)| key).collect::<Vec<_>>(), put);
    z.crash().await;
    eventually("a start names it", || async { says_of_the_bucket(&z).await.contains("came back empty") })
        .await;
    let next = append(&z, "t", "after the start").await + 1;

    for (key, bytes) in objects {
        z.store().replace("events", &key, bytes);
    }
    let flushed = || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK };
    eventually("it goes on when its objects are back", flushed).await;
    assert_eq!(offsets(&z.read_all("t", "limit=1000").await), (0..next).collect::<Vec<_>>());
    z.audit().await;
}

#[tokio::test]
async fn without_s3_a_volume_with_events_serves_and_flushes_later() {
    let mut z = TestServer::start_tiered(&[("s3.attempts", "1")]).await;
    append(&z, "t", "cold").await;
    z.flush_and_evict().await;
    append(&z, "t", "hot").await;
    z.kill().await;
    z.store().is_down.store(true, SeqCst);
    z.run().await;
    assert_eq!(append(&z, "t", "while S3 is away").await, 2);
    assert_eq!(append(&z, "new", "while S3 is away").await, 0);
    let (status, problem) = z.get("/tables/t").await;
    assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("cold_unavailable")));
    assert_eq!(z.get("/tables/t?partition=0&offset=1").await.0, StatusCode::OK);
    assert_eq!(z.post("/flush", &json!(null)).await.1["code"], "cold_unavailable");
    z.store().is_down.store(false, SeqCst);
    eventually("the bucket is opened", || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK })
        .await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["cold", "hot", "while S3 is away"]);
    z.audit().await;
    assert_eq!(z.terminate().await, Some(0));
}

#[tokio::test]
async fn without_s3_and_without_events_it_waits_and_is_not_ready() {
    let mut z = TestServer::start_tiered(&[("s3.attempts", "1")]).await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    z.kill().await;
    lose_volume(&z);
    z.store().is_down.store(true, SeqCst);
    let store = z.s3.clone().unwrap();
    let back = tokio::spawn(async move {
        while store.store.refused.load(SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        store.store.is_down.store(false, SeqCst);
    });
    let log = z.try_run_log().await;
    back.await.unwrap();
    assert!(log.contains("there is nothing on the volume to serve without it: retrying"), "{log}");
    assert_eq!(payloads(&z.read_all("t", "").await), ["a"]);
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_unless_it_is_taken_as_it_is() {
    let mut z = TestServer::tiered(&[]).await;
    z.store().is_unconditional.store(true, SeqCst);
    let log = z.try_run().await.unwrap_err();
    assert!(log.contains("s3.unfenced"), "{log}");
    assert!(z.objects("").is_empty(), "{:?}", z.objects(""));
    z.set("s3.unfenced", "true");
    z.run().await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["a"]);
    z.audit().await;
}

#[tokio::test]
async fn an_unfenced_writer_puts_no_segment_over_another() {
    let z = TestServer::start_tiered(&[("s3.unfenced", "true")]).await;
    append(&z, "t", "a").await;
    let key = "segments/t/00000/00000000000000000000-00000000000000000001-00000001.jsonl.zst";
    z.store().replace("events", key, Bytes::from_static(b"another's"));
    let (status, problem) = z.post("/flush", &json!(null)).await;
    assert!(status.is_server_error(), "{status} {problem}");
    assert_eq!(z.store().get("events", key).unwrap(), "another's");
    z.store().delete("events", key);
    eventually("it is put", || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK }).await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["a"]);
    z.audit().await;
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

#[tokio::test]
async fn a_log_that_is_damaged_in_its_middle_is_refused_and_not_cut_short() {
    let mut z = TestServer::start().await;
    let mut sent = Sent::default();
    for _ in 0..20 {
        sent.append(&z, "t", 2, 50).await;
    }
    z.kill().await;
    let log = std::fs::read_dir(z.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    let log = log.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap();
    let flip = || {
        let mut bytes = std::fs::read(&log).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&log, bytes).unwrap();
    };
    flip();
    let said = z.try_run().await.unwrap_err();
    assert!(said.contains("is damaged: a whole record follows at byte"), "{said}");
    flip();
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
}

#[tokio::test]
async fn a_list_of_files_that_is_torn_across_a_page_is_refused_or_nothing_is_missing() {
    const PAGE: usize = 4096;
    let mut z = TestServer::start_with(&[("hot.write_buffer_bytes", "1048576")]).await;
    let mut sent = Sent::default();
    for _ in 0..6 {
        sent.append(&z, "t", 2, 200).await;
        z.crash().await; // each start adds to the list
    }
    z.kill().await;
    let volume = tempfile::tempdir().unwrap();
    copy(&z.data_dir(), volume.path());
    let names = std::fs::read_dir(volume.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let list = names.filter(|name| name.to_str().unwrap().starts_with("MANIFEST")).max().unwrap();
    let whole = std::fs::read(volume.path().join(&list)).unwrap();
    let mut refused = 0;
    // The page in which it ends was not written whole, or nothing of it was, or not even the one before.
    let last = whole.len() / PAGE * PAGE;
    for (kept, has_zeros) in [
        (last + (whole.len() - last) / 2, true),
        (last, true),
        (last, false),
        (last.saturating_sub(PAGE), true),
    ] {
        let mut torn = whole[..kept].to_vec();
        if has_zeros {
            torn.resize(whole.len(), 0);
        }
        copy(volume.path(), &z.data_dir());
        std::fs::write(z.data_dir().join(&list), torn).unwrap();
        match z.try_run().await {
            Ok(()) => {
                assert_eq!(
                    Sent::from_records(&z.read_all("t", "limit=1000").await),
                    sent,
                    "kept {kept} of {}",
                    whole.len()
                );
                z.kill().await;
            }
            Err(said) => {
                assert!(
                    said.contains("MANIFEST") || said.contains("damaged") || said.contains("orrupt"),
                    "{said}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "a list without its end was taken for whole each time");
    copy(volume.path(), &z.data_dir());
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
}
