//! Faults of S3 against every operation, kills between every two durable steps, and two writers of one
//! bucket.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use testing::{
    Sent, TestServer,
    faults::{Fault, Operation},
    server::{PATIENCE, eventually},
};

/// S3 requests that fail fast, so that a fault that hangs does not take long.
const IMPATIENT: [(&str, &str); 4] = [
    ("s3.attempts", "2"),
    ("s3.attempt_timeout_secs", "1"),
    ("cold.cache_bytes", "0"),
    ("compaction.grace_secs", "0"),
];

/// Reads whatever the faults; what comes is right, or an error.
async fn read_is_right_or_an_error(z: &TestServer, sent: &Sent, fault: &str) {
    let (status, body) = z.get("/tables/t?limit=10000").await;
    if status == StatusCode::OK {
        let Value::Array(records) = &body["records"] else { panic!("no records in {body}") };
        assert_eq!(Sent::from_records(records), *sent, "{fault}");
    } else {
        assert!(["cold_unavailable", "corrupt"].contains(&body["code"].as_str().unwrap()), "{fault}: {body}");
    }
}

async fn with_faults(operation: Operation) {
    let mut settings = IMPATIENT.to_vec();
    if operation == Operation::Delete {
        settings.extend([("compaction.interval_secs", "1"), ("compaction.min_segments", "2")]);
    }
    let mut z = TestServer::start_tiered(&settings).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 40).await;
    z.flush_and_evict().await;
    for fault in Fault::ALL {
        let said = format!("{fault:?} of {operation:?}");
        // More often than the client tries, so that it is not it alone that copes.
        z.store().faults.add(operation, fault, 3);
        sent.append(&z, "t", 2, 40).await;
        let (status, body) = z.post("/flush", &json!(null)).await;
        assert!(status == StatusCode::OK || body["code"] == "cold_unavailable", "{said}: {status} {body}");
        read_is_right_or_an_error(&z, &sent, &said).await;
        if operation == Operation::Delete {
            // What is merged, and so replaced, depends on how many segments there are: until it suffers there
            // are more.
            let began = std::time::Instant::now();
            while z.store().faults.left() > 0 {
                assert!(began.elapsed() < PATIENCE, "replaced segments are not deleted: {said}");
                sent.append(&z, "t", 2, 20).await;
                z.post("/flush", &json!(null)).await;
                sleep(Duration::from_millis(300)).await;
            }
        }
        if operation == Operation::List || operation == Operation::ManifestGet {
            // These are made at the start. A wrong answer may end it, and the next start goes on.
            z.kill().await;
            while z.try_run().await.is_err() {}
            read_is_right_or_an_error(&z, &sent, &said).await;
        }
        assert!(z.store().faults.left() < 3, "{said}: nothing has suffered");
        z.store().faults.clear();
        eventually("everything is cold", || async {
            z.post("/flush", &json!(null)).await.0 == StatusCode::OK
        })
        .await;
        assert_eq!(Sent::from_records(&z.read_all("t", "limit=10000").await), sent, "{said}");
    }
    // A late put may still come; then everything is as it should be, and stays so over a start.
    sleep(Duration::from_millis(400)).await;
    z.audit().await;
    z.crash().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=10000").await), sent);
    assert_eq!(z.terminate().await, Some(0));
}

macro_rules! every_fault {
    ($($name:ident $operation:ident),*) => {
        $(
            #[tokio::test]
            async fn $name() {
                with_faults(Operation::$operation).await;
            }
        )*
    };
}

every_fault! {
    every_fault_of_a_segment_put SegmentPut,
    every_fault_of_a_manifest_put ManifestPut,
    every_fault_of_a_manifest_get ManifestGet,
    every_fault_of_a_segment_get SegmentGet,
    every_fault_of_a_list List,
    every_fault_of_a_delete Delete
}

async fn recovery_with_faults(operation: Operation) {
    let mut z = TestServer::start_tiered(&[("s3.attempts", "1"), ("s3.attempt_timeout_secs", "1")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 40).await;
    let keyed = json!({"payload": "x", "idempotency_key": "k"});
    z.post("/tables/keyed", &keyed).await;
    z.flush_and_evict().await;
    for fault in Fault::ALL {
        let said = format!("{fault:?} of {operation:?}");
        z.kill().await;
        std::fs::remove_dir_all(z.data_dir()).unwrap();
        z.store().faults.add(operation, fault, 2);
        // What is damaged on its way may end the start, and the next one goes on; what does not answer is
        // waited for.
        while let Err(log) = z.try_run().await {
            assert!(!log.contains("belong together"), "{said}: {log}");
        }
        assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent, "{said}");
        let (_, body) = z.post("/tables/keyed", &keyed).await;
        assert_eq!((&body["offset"], &body["duplicate"]), (&json!(0), &json!(true)), "{said}");
        assert!(z.store().faults.left() < 2, "{said}: nothing has suffered");
        z.store().faults.clear();
    }
    z.flush_and_evict().await;
    sleep(Duration::from_millis(400)).await;
    z.audit().await;
}

macro_rules! recovery_with_every_fault {
    ($($name:ident $operation:ident),*) => {
        $(
            #[tokio::test]
            async fn $name() {
                recovery_with_faults(Operation::$operation).await;
            }
        )*
    };
}

recovery_with_every_fault! {
    recovery_with_every_fault_of_a_list List,
    recovery_with_every_fault_of_a_manifest_get ManifestGet,
    recovery_with_every_fault_of_a_manifest_put ManifestPut,
    recovery_with_every_fault_of_a_segment_get SegmentGet
}

#[tokio::test]
async fn a_lost_answer_to_a_manifest_is_no_takeover() {
    let z = TestServer::start_tiered(&IMPATIENT).await;
    let mut sent = Sent::default();
    for fault in [Fault::AnswerLost, Fault::ResetAnswer, Fault::AppliedLate, Fault::Hang] {
        sent.append(&z, "t", 1, 10).await;
        z.store().faults.add(Operation::ManifestPut, fault, 1);
        eventually("everything is cold", || async {
            z.post("/flush", &json!(null)).await.0 == StatusCode::OK
        })
        .await;
        assert_eq!(z.store().faults.left(), 0);
    }
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
    z.audit().await;
}

#[tokio::test]
async fn a_retry_writes_the_same_bytes_under_the_same_key() {
    let mut z = TestServer::start_tiered(&IMPATIENT).await;
    let mut sent = Sent::default();
    for crash in [false, true] {
        sent.append(&z, "t", 1, 10).await;
        z.store().faults.add(Operation::ManifestPut, Fault::Status(500), 100);
        let (status, _) = z.post("/flush", &json!(null)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let put = z.objects("segments/");
        sent.append(&z, "t", 1, 10).await;
        z.store().faults.clear();
        if crash {
            z.crash().await;
        }
        eventually("everything is cold", || async {
            z.post("/flush", &json!(null)).await.0 == StatusCode::OK
        })
        .await;
        let objects = z.objects("segments/");
        assert!(
            put.iter().all(|object| objects.contains(object)),
            "{:?}",
            objects.iter().map(|(key, _)| key).collect::<Vec<_>>()
        );
        let (is_right, text) = z.look(&["verify"]).await;
        assert!(is_right && !text.contains("named by no manifest"), "{text}");
        assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
    }
}

#[tokio::test]
async fn a_slow_segment_does_not_hold_up_other_tables() {
    let z =
        TestServer::start_tiered(&[("s3.attempt_timeout_secs", "60"), ("flush.interval_secs", "0")]).await;
    z.store().faults.add(Operation::SegmentPut, Fault::Hang, 1);
    let mut slow = Sent::default();
    slow.append(&z, "slow", 1, 10).await;
    eventually("the slow one is being put", || async { z.store().faults.left() == 0 }).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 10).await;
    eventually("the other is cold", || async { z.partition("t", 0).await["flushed"] == 10 }).await;
    assert_eq!(z.partition("slow", 0).await["flushed"], 0);
}

#[tokio::test]
async fn what_is_written_after_a_deletion_is_cold_only_once_it_is() {
    let z = TestServer::start_tiered(&[
        ("s3.attempt_timeout_secs", "5"),
        ("flush.interval_secs", "0"),
        ("flush.parallel", "1"),
    ])
    .await;
    z.store().faults.add(Operation::SegmentPut, Fault::Hang, 1);
    z.post("/tables/slow", &json!({"payload": 1})).await;
    eventually("the slow one is being put", || async { z.store().faults.left() == 0 }).await;
    // This segment is planned and waits for its turn. When that comes, its events are gone, and another has
    // come.
    z.post("/tables/t", &json!({"payload": 1})).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(z.request(Method::DELETE, "/tables/t").send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let (status, answer) = z.post("/tables/t?wait_for=cold", &json!({"payload": 2})).await;
    assert_eq!((status, &answer["offset"]), (StatusCode::CREATED, &json!(1)), "{answer}");
    assert_eq!(z.partition("t", 0).await["flushed"], 2);
}

#[tokio::test]
async fn a_kill_between_any_two_steps_of_a_flush_loses_and_doubles_nothing() {
    let mut z = TestServer::tiered(&[("flush.interval_secs", "0"), ("flush.segment_bytes", "5000")]).await;
    let mut sent = Sent::default();
    z.run().await;
    for point in [
        "flush-intended",
        "flush-put",
        "manifest-intended",
        "flush-published",
        "flush-marked",
        "flush-evicted",
    ] {
        z.kill().await;
        // Where opening passes the point too, the flush is the second to come.
        let skipped = if point == "manifest-intended" { "2*off->return" } else { "return" };
        if z.try_run_with(&format!("{point}={skipped}")).await.is_ok() {
            while !z.has_ended() {
                sent.try_append(&z, "t", 3, 100).await;
            }
            z.wait().await;
        }
        z.run().await;
        sent.resolve(&z, "t").await;
        z.audit().await;
    }
    z.flush_and_evict().await;
    sent.resolve(&z, "t").await;
    z.audit().await;
}

#[tokio::test]
async fn small_segments_become_large_ones_and_kills_do_no_harm() {
    let mut z = TestServer::start_tiered(&[
        ("compaction.interval_secs", "1"),
        ("compaction.min_segments", "4"),
        ("compaction.grace_secs", "0"),
    ])
    .await;
    let mut sent = Sent::default();
    for point in ["compact-put", "compact-published", "retired-deleted"] {
        z.kill().await;
        if z.try_run_with(&format!("{point}=return")).await.is_ok() {
            for _ in 0..8 {
                sent.try_append(&z, "t", 2, 30).await;
                drop(z.request(reqwest::Method::POST, "/flush").send().await);
            }
            z.wait().await;
        }
        z.run().await;
        sent.resolve(&z, "t").await;
        z.audit().await;
    }
    for _ in 0..30 {
        sent.append(&z, "t", 2, 30).await;
        z.flush_and_evict().await;
        assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
    }
    // Each of two partitions keeps at most three of each of four classes, whenever it was merged: from 15
    // events to less than a thousand, in steps of four.
    eventually("few segments are left", || async { z.objects("segments/").len() <= 24 }).await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
    z.audit().await;
    let (_, list) = z.look(&["verify", "--list", "--table", "t"]).await;
    let key = list.lines().next().unwrap().split('\t').next().unwrap();
    let (is_right, lines) = z.look(&["segment", "cat", key]).await;
    assert!(is_right && lines.starts_with("{\"partition\":0,\"offset\":0,"), "{lines:.200}");
    let (is_right, manifest) = z.look(&["manifest", "show"]).await;
    assert!(is_right && manifest.contains("\"store_id\""), "{manifest}");
}

#[tokio::test]
async fn an_audit_finds_what_is_wrong() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 100).await;
    z.flush_and_evict().await;
    let key = z.objects("segments/")[0].0.clone();
    z.audit().await;
    z.store().flip_bit("events", &key, 50);
    let (is_right, text) = z.look(&["verify"]).await;
    assert!(!is_right && text.contains(&key), "{text}");
    z.store().delete("events", &key);
    let (is_right, text) = z.look(&["verify"]).await;
    assert!(!is_right && text.contains("it is not there"), "{text}");
    let manifest = z.objects("manifests/").last().unwrap().0.clone();
    z.store().flip_bit("events", &manifest, 50);
    let (is_right, text) = z.look(&["verify"]).await;
    assert!(!is_right && text.contains(&manifest), "{text}");
}

#[tokio::test]
async fn the_second_writer_takes_over_and_an_idle_first_one_notices() {
    let mut first = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&first, "t", 2, 100).await;
    first.flush_and_evict().await;
    let mut second = first.beside();
    second.run().await;
    assert_eq!(first.wait().await, Some(4), "fenced");
    assert_eq!(Sent::from_records(&second.read_all("t", "").await), sent);
    let (status, body) = second.post("/tables/t", &json!({"payload": "second"})).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(body["offset"].as_u64().unwrap() >= 1 << 28, "behind all that the first may have given");
    second.flush_and_evict().await;
    second.audit().await;
    // The first one's volume is an older copy now: what it has that S3 has too is taken as it is.
    second.kill().await;
    first.run().await;
    assert_eq!(first.read_all("t", "").await.len(), 101);
}

#[tokio::test]
async fn a_writer_that_slept_through_a_takeover_acks_nothing_more_once_it_knows() {
    let settings = [("compaction.interval_secs", "1"), ("manifests.keep_secs", "0")];
    let mut first = TestServer::start_tiered(&settings).await;
    let mut sent = Sent::default();
    sent.append(&first, "t", 1, 10).await;
    first.flush_and_evict().await;
    first.signal("STOP").await;
    let mut second = first.beside();
    second.run().await;
    // So many manifests that those around the takeover are gone.
    for _ in 0..320 {
        second.post("/tables/t", &json!({"payload": "second"})).await;
        second.flush_and_evict().await;
    }
    eventually("old manifests are deleted", || async { second.objects("manifests/").len() < 260 }).await;
    let state = second.read_all("t", "limit=1000").await;
    first.signal("CONT").await;
    // It may end before it answers.
    let request = first.request(Method::POST, "/tables/t?wait_for=cold").json(&json!({"payload": "first"}));
    assert!(!request.send().await.is_ok_and(|answer| answer.status() == StatusCode::CREATED));
    assert_eq!(first.wait().await, Some(4), "fenced");
    assert_eq!(second.read_all("t", "limit=1000").await, state);
    second.flush_and_evict().await;
    second.audit().await;
}
