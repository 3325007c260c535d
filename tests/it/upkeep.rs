//! Upkeep ends what it begins: what must go goes, whatever is left to merge; and objects that nobody names
//! go, and none that somebody names, or is about to.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use testing::{
    Sent, TestServer,
    faults::{Fault, Operation},
    server::{BUCKET, eventually},
};

/// Upkeep all the time, and a grace of two seconds.
const EAGER: [(&str, &str); 4] = [
    ("compaction.interval_secs", "1"),
    ("compaction.grace_secs", "2"),
    ("flush.interval_secs", "600"),
    ("manifests.keep_secs", "1000000"),
];

fn key(table: &str, start: u64, end: u64, epoch: u64) -> String {
    format!("segments/{table}/00000/{start:020}-{end:020}-{epoch:08}.jsonl.zst")
}

fn put(z: &TestServer, key: &str) {
    z.store().replace(BUCKET, key, Bytes::from_static(b"x"));
}

fn is_there(z: &TestServer, key: &str) -> bool {
    z.store().get(BUCKET, key).is_some()
}

#[tokio::test]
async fn what_nobody_names_goes_and_nothing_else_does() {
    let mut z = TestServer::tiered(&EAGER).await;
    z.run().await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 10).await;
    z.flush_and_evict().await;
    Sent::default().append(&z, "gone", 1, 10).await;
    z.flush_and_evict().await;
    assert_eq!(z.delete("/tables/gone").await.0, StatusCode::NO_CONTENT);
    assert_eq!(z.post("/flush", &json!({})).await.0, StatusCode::OK);
    z.kill().await;
    // Of an earlier epoch; of a volume that is gone; of a table that nobody knows; of one that was deleted
    // during a PUT. They are there before the first look: after one that has found nothing there is none for
    // a day.
    let unnamed = [key("t", 0, 7, 1), key("t", 5000, 5010, 1), key("unknown", 0, 5, 1), key("gone", 0, 3, 1)];
    let successors = key("t", 0, 9, 3);
    let foreign = "segments/t/00000/notes.txt".to_owned();
    let began = Instant::now();
    unnamed.iter().chain([&successors, &foreign]).for_each(|key| put(&z, key));
    z.run().await; // the second epoch
    while began.elapsed() < Duration::from_secs(2) {
        let seen_once = unnamed.iter().all(|key| is_there(&z, key));
        assert!(seen_once || began.elapsed() >= Duration::from_millis(1900), "two looks are a grace apart");
        sleep(Duration::from_millis(100)).await;
    }
    let named = key("t", 0, 10, 1);
    let kept = key("gone", 0, 10, 1);
    // One that is put, and whose manifest is on its way.
    sent.append(&z, "t", 1, 3).await;
    z.store().faults.add(Operation::ManifestPut, Fault::Hang, 1);
    let flush = tokio::spawn(z.request(Method::POST, "/flush").send());
    let waiting = key("t", 10, 13, 2);
    eventually("a segment waits for its manifest", || async {
        z.store().faults.left() == 0 && is_there(&z, &waiting)
    })
    .await;
    sleep(Duration::from_secs(3)).await; // for two more looks
    z.store().faults.clear();
    assert_eq!(flush.await.unwrap().unwrap().status(), StatusCode::OK);
    eventually("what nobody names is gone", || async { unnamed.iter().all(|key| !is_there(&z, key)) }).await;
    for spared in [&named, &kept, &successors, &foreign, &waiting] {
        assert!(is_there(&z, spared), "{spared} was swept");
    }
    assert!(z.metric("zombi_swept_objects_total").await >= 4.0);
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
    assert_eq!(z.get("/tables/gone").await.0, StatusCode::NOT_FOUND);
    z.store().delete(BUCKET, &successors);
    z.audit().await;
}

/// `zombi verify --delete-unnamed`: the same by hand, while nobody writes.
#[tokio::test]
async fn by_hand_it_goes_once_every_writer_has_stopped() {
    let delete = ["verify", "--json", "--delete-unnamed"];
    let mut z = TestServer::start_tiered(&[("compaction.interval_secs", "600")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 10).await;
    assert_eq!(z.terminate().await, Some(0));
    z.run().await; // the second epoch
    sent.append(&z, "t", 1, 3).await;
    z.flush_and_evict().await;
    let unnamed = [key("t", 0, 7, 1), key("t", 10, 13, 1)];
    // Of the last writer itself; beyond the end; of a table that the chain does not know.
    let spared = [key("t", 0, 9, 2), key("t", 13, 15, 1), key("unknown", 0, 5, 1)];
    unnamed.iter().chain(&spared).for_each(|key| put(&z, key));
    let (is_right, said) = z.look(&delete).await;
    assert!(!is_right && said.contains("was not stopped cleanly"), "beside a writer: {said}");
    assert_eq!(z.terminate().await, Some(0));
    // While something is wrong, nothing goes: it may be the last copy.
    let (named, body) = z.objects("segments/t/").into_iter().find(|(_, body)| body.len() > 1).unwrap();
    z.store().delete(BUCKET, &named);
    let (is_right, said) = z.look(&delete).await;
    assert!(!is_right && said.contains(&named), "{said}");
    z.store().replace(BUCKET, &named, body);
    assert!(unnamed.iter().all(|key| is_there(&z, key)), "nothing was deleted so far");
    let (is_right, said) = z.look(&delete).await;
    assert!(is_right, "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    // Which shard is looked at first is no matter.
    let keys =
        |field: &str| BTreeSet::from_iter(said[field].as_array().unwrap().iter().map(Value::to_string));
    let quoted = |keys: &[String]| BTreeSet::from_iter(keys.iter().map(|key| json!(key).to_string()));
    assert_eq!((keys("deleted"), keys("unnamed")), (quoted(&unnamed), quoted(&spared)));
    assert!(unnamed.iter().all(|key| !is_there(&z, key)));
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
}

#[tokio::test]
async fn a_retry_under_an_old_epoch_is_spared() {
    let mut z = TestServer::tiered(&EAGER).await;
    z.run().await;
    // Put, and not named when the process ends; and then for longer than a grace, as the segment cannot be
    // put again.
    Sent::default().append(&z, "t", 1, 10).await;
    z.store().faults.add(Operation::ManifestPut, Fault::Hang, 1_000_000);
    let flush = tokio::spawn(z.request(Method::POST, "/flush").send());
    let waiting = key("t", 0, 10, 1);
    eventually("a segment waits for its manifest", || async { is_there(&z, &waiting) }).await;
    z.kill().await;
    drop(flush.await);
    z.store().faults.clear();
    z.store().faults.add(Operation::SegmentPut, Fault::Status(503), 1_000_000);
    z.run().await;
    sleep(Duration::from_secs(6)).await;
    assert!(is_there(&z, &waiting), "it was swept");
    z.store().faults.clear();
    eventually("it is flushed", || async { z.post("/flush", &json!({})).await.0 == StatusCode::OK }).await;
    assert!(is_there(&z, &waiting));
    z.flush_and_evict().await;
    assert_eq!(z.read_all("t", "").await.len(), 10);
    z.audit().await;
}

#[tokio::test]
async fn what_expires_waits_for_no_merge() {
    const PARTITIONS: u64 = 60;
    let settings = [
        ("compaction.interval_secs", "1"),
        ("compaction.min_segments", "2"),
        ("compaction.grace_secs", "0"),
        ("manifests.keep_secs", "0"),
        ("flush.interval_secs", "600"),
        ("cold.cache_bytes", "0"),
    ];
    let z = TestServer::start_tiered(&settings).await;
    assert_eq!(z.put("/tables/short/config", &json!({"retention_secs": 1})).await.0, StatusCode::CREATED);
    // No object can be read while it hangs, so that no merge comes to an end.
    z.store().faults.add(Operation::SegmentGet, Fault::Hang, 1_000_000);
    let mut sent = Sent::default();
    for number in 0..3 {
        sent.append(&z, "t", PARTITIONS, 60).await;
        assert_eq!(z.post("/tables/short", &json!({"payload": number})).await.0, StatusCode::CREATED);
        z.flush_and_evict().await;
    }
    let objects = || z.objects("segments/t/").len();
    assert_eq!(objects(), 180);
    eventually("retention goes on", || async {
        z.partition("short", 0).await["earliest"] == z.partition("short", 0).await["next"]
    })
    .await;
    eventually("its objects are gone", || async { z.objects("segments/short/").is_empty() }).await;
    assert_eq!(objects(), 180, "nothing could be merged");
    eventually("a turn of merges is given up", || async {
        z.metric("zombi_upkeep_failures_total").await > 0.0
    })
    .await;
    z.store().faults.clear();
    eventually("all of it is merged", || async { objects() == 60 }).await;
    eventually("nothing is left to do", || async {
        z.metric("zombi_upkeep_due{kind=\"merges\"}").await == 0.0
    })
    .await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
    z.audit().await;
}

/// A segment that is not compressed has an object beside it, which goes where it goes, and is swept where it
/// is left alone.
#[tokio::test]
async fn an_index_goes_with_its_segment() {
    let settings =
        [("segment.compression", "none"), ("compaction.min_segments", "2"), ("manifests.keep_secs", "0")];
    let z = TestServer::start_tiered(&[&EAGER[..3], &settings].concat()).await;
    let alone = key("t", 500, 600, 0).replace(".jsonl.zst", ".jsonl.index");
    put(&z, &alone);
    let mut sent = Sent::default();
    for _ in 0..4 {
        sent.append(&z, "t", 1, 30).await;
        z.flush_and_evict().await;
    }
    let keys = || z.objects("segments/t/").into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    eventually("the segments are merged, and what is left over is gone", || async { keys().len() == 2 })
        .await;
    assert_eq!(keys()[1], format!("{}.index", keys()[0]));
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=50").await), sent);
    z.audit().await;
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    eventually("both objects are gone", || async { keys().is_empty() }).await;
    z.audit().await;
}
