//! Nothing is left in either tier: merged, expired, replaced and unnamed objects go too.

use std::time::Duration;

use cold_s3::manifest;
use hyper::http::request::Parts;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::sleep;

use super::{KEEPING, done, erase, event, expect_erased, expect_kept, holders, lines, secrets, write};
use testing::{
    TestServer,
    faults::{Fault, Operation, StandingRefusal},
    server::{BUCKET, eventually},
};

#[tokio::test]
async fn nothing_is_left_of_hot_cold_and_merged_events() {
    // Two segments merge at once, and what they replace stays for an hour.
    let settings = [
        ("compaction.interval_secs", "1"),
        ("compaction.min_segments", "2"),
        ("compaction.grace_secs", "3600"),
        ("manifests.keep_secs", "1000000"),
    ];
    let z = TestServer::start_tiered(&settings).await;
    for round in 0..4 {
        write(&z, round * 5..(round + 1) * 5).await;
        z.flush_and_evict().await;
    }
    let merged = || z.objects("segments/t/").iter().any(|(key, _)| key.contains("-00000000000000000020-"));
    eventually("all segments are merged", async || merged()).await;
    write(&z, 20..23).await;
    assert!(holders(&z, &secrets(7)[0]).len() >= 2, "a segment and the one that was merged from it");
    // An object that no manifest names, as a kill between a PUT and its manifest leaves it.
    let (key, body) = z.objects("segments/t/").remove(0);
    let unnamed = key.replace("-00000001.", "-00000000.");
    z.store().replace(BUCKET, &unnamed, body);

    let shown = done(&z, &erase(&z, &json!({"offsets": [0, 7, 8, 21], "reason": "asked"})).await).await;
    assert!(shown["segments"].as_u64() >= Some(1) && shown["objects"].as_u64() >= Some(2), "{shown}");
    for number in 0..23 {
        match [0, 7, 8, 21].contains(&number) {
            true => expect_erased(&z, number).await,
            false => expect_kept(&z, number).await,
        }
    }
    assert!(z.store().get(BUCKET, &unnamed).is_none());
    let lines = lines(&z);
    let erased: Vec<_> = lines.iter().filter(|line| line["erased"] == true).collect();
    assert!(erased.iter().any(|line| line["offset"] == 7), "{lines:?}");
    assert!(erased.iter().all(|line| line.get("payload").is_none() && line.get("key").is_none()));
    z.audit().await;
    // What was written anew merges with others, and stays erased. With which of its neighbours, and after how
    // many more events, is a question of time.
    let spans = |key: &str| {
        let name = key.rsplit('/').next().unwrap();
        let mut numbers = name.split('-').map(|number| number.parse::<u64>().unwrap_or_default());
        numbers.next().unwrap() <= 20 && numbers.next().unwrap() >= 26
    };
    let mut next = 23;
    eventually("merged again", async || {
        write(&z, next..next + 3).await;
        z.flush_and_evict().await;
        next += 3;
        z.objects("segments/t/").iter().any(|(key, _)| spans(key))
    })
    .await;
    expect_erased(&z, 21).await;
    expect_kept(&z, 22).await;
    z.audit().await;
}

#[tokio::test]
async fn an_event_that_expired_goes_from_the_objects_that_are_kept() {
    let z = TestServer::start_tiered(&KEEPING).await;
    write(&z, 0..5).await;
    z.flush_and_evict().await;
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    z.post("/flush", &json!(null)).await;
    assert!(!holders(&z, &secrets(2)[0]).is_empty(), "it is kept, to be found again");
    // The next write revives the table.
    let (_, written) = z.post("/tables/t", &json!({"payload": "later"})).await;
    assert_eq!(written["offset"], 5);
    // By what they had they are found as well; each time all goes that is in the same objects.
    for (number, asked) in [(1, json!({"key": event(1)["key"]})), (2, json!({"offsets": [2]}))] {
        let shown = done(&z, &erase(&z, &asked).await).await;
        assert_eq!(shown["events"], 1, "{shown}");
        for secret in secrets(number) {
            assert_eq!(holders(&z, &secret), [""; 0]);
        }
    }
    let (_, page) = z.get("/tables/t").await;
    assert_eq!((&page["records"][0]["payload"], &page["count"]), (&json!("later"), &json!(1)));
    z.audit().await;
}

#[tokio::test]
async fn hot_does_not_wait_for_s3_and_s3_follows() {
    let z = TestServer::start_tiered(&[&KEEPING[..], &[("s3.attempts", "1")]].concat()).await;
    write(&z, 0..4).await;
    z.flush_and_evict().await;
    write(&z, 4..8).await;
    z.store().is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    let id = erase(&z, &json!({"offsets": [1, 5]})).await;
    eventually("the volume has nothing of it any more", async || {
        let (_, shown) = z.get(&format!("/tables/t/erase/{id}")).await;
        shown["status"] == "hot_done" && shown["trouble"].is_string()
    })
    .await;
    expect_erased(&z, 5).await;
    z.store().is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    done(&z, &id).await;
    for number in [1, 5] {
        expect_erased(&z, number).await;
    }
    z.audit().await;
}

#[tokio::test]
async fn manifests_of_a_bucket_that_opens_meanwhile_list_an_erasure_before_it_is_done() {
    let mut z = TestServer::start_tiered(&[&KEEPING[..], &[("s3.attempts", "1")]].concat()).await;
    write(&z, 0..4).await;
    z.flush_and_evict().await;
    write(&z, 4..8).await;
    z.kill().await;
    z.store().is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    // Long enough for the bucket to be opened before it goes on to S3.
    z.environment.push(("FAILPOINTS".to_owned(), "erase-scrubbed=1*sleep(5000)".to_owned()));
    z.run().await;
    let id = erase(&z, &json!({"offsets": [5]})).await;
    z.store().is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    done(&z, &id).await;
    let manifests = z.objects("manifests/").into_iter();
    let mut links: Vec<_> = manifests.map(|(key, body)| (manifest::number(&key).unwrap(), body)).collect();
    links.sort();
    let changes = links.iter().map(|(number, body)| manifest::decode(*number, body).unwrap().changes);
    let listed: Vec<_> = changes.flat_map(|changes| changes.erasures).collect();
    assert!(listed.iter().all(|erasure| erasure.id.to_string() == id), "{listed:?}");
    assert!(listed.len() >= 2 && !listed[0].is_done() && !listed[0].parts.is_empty(), "{listed:?}");
    z.audit().await;
}

#[tokio::test]
async fn what_a_segment_being_written_holds_goes_once_it_is_named() {
    let z = TestServer::start_tiered(&KEEPING).await;
    write(&z, 0..4).await;
    // The segment is put, and its manifest does not come through.
    z.store().faults.add(Operation::ManifestPut, Fault::Status(503), 1_000_000);
    assert_eq!(z.post("/flush", &json!(null)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let id = erase(&z, &json!({"offsets": [2]})).await;
    z.store().faults.clear();
    done(&z, &id).await;
    expect_erased(&z, 2).await;
    expect_kept(&z, 3).await;
    z.audit().await;
}

#[tokio::test]
async fn erasing_while_events_are_written_and_flushed_loses_nothing() {
    let settings =
        [("flush.interval_secs", "1"), ("compaction.interval_secs", "1"), ("compaction.min_segments", "2")];
    let z = TestServer::start_tiered(&settings).await;
    let mut gone = Vec::new();
    for number in 0..60 {
        let (_, body) = z.post("/tables/t", &event(number)).await;
        assert_eq!(body["offset"], number);
        if number % 6 == 5 {
            let id = erase(&z, &json!({"offsets": [number, number - 3]})).await;
            gone.extend([number, number - 3]);
            done(&z, &id).await;
        }
    }
    for number in 0..60 {
        match gone.contains(&number) {
            true => expect_erased(&z, number).await,
            false => expect_kept(&z, number).await,
        }
    }
    eventually("all of it is cold", async || z.post("/flush", &json!(null)).await.0 == StatusCode::OK).await;
    z.audit().await;
}

/// An erasure whose objects cannot be deleted reads no segment a second time, and holds up nothing.
#[tokio::test]
async fn one_that_is_stuck_reads_nothing_again() {
    let z = TestServer::start_tiered(&KEEPING).await;
    write(&z, 0..4).await;
    z.flush_and_evict().await;
    let no_deletes = |head: &Parts| head.method == Method::DELETE;
    z.store().refuse(Some(StandingRefusal::only(no_deletes, 403, "AccessDenied")));
    let id = erase(&z, &json!({"offsets": [1]})).await;
    let trouble = async || {
        let (_, shown) = z.get(&format!("/tables/t/erase/{id}")).await;
        shown["trouble"].as_str().unwrap_or_default().to_owned()
    };
    eventually("it is stuck", async || trouble().await.contains("could not be deleted")).await;
    let nothing_of_segments = |head: &Parts| {
        let is_get = head.method == Method::GET && head.uri.path().contains("/segments/");
        head.method == Method::DELETE || is_get
    };
    z.store().refuse(Some(StandingRefusal::only(nothing_of_segments, 403, "AccessDenied")));
    for _ in 0..30 {
        sleep(Duration::from_millis(100)).await;
        assert!(trouble().await.contains("could not be deleted"), "{}", trouble().await);
    }
    assert_eq!(z.metric("zombi_erasures_pending").await, 1.0);
    assert!((2.0..3600.0).contains(&z.metric("zombi_erasure_oldest_seconds").await));
    z.store().refuse(None);
    let shown = done(&z, &id).await;
    assert_eq!(z.metric("zombi_erasures_pending").await, 0.0);
    assert_eq!(z.metric("zombi_erasure_oldest_seconds").await, 0.0);
    assert_eq!((&shown["segments"], &shown["objects"]), (&json!(1), &json!(1)), "{shown}");
    expect_erased(&z, 1).await;
    z.audit().await;
}

/// A segment that is not compressed has an object beside it: both are written anew, and both of the old go.
#[tokio::test]
async fn an_uncompressed_segment_goes_with_what_is_beside_it() {
    let settings = [&KEEPING[..], &[("segment.compression", "none")]].concat();
    let mut z = TestServer::start_tiered(&settings).await;
    write(&z, 0..6).await;
    z.flush_and_evict().await;
    let old: Vec<String> = z.objects("segments/t/").into_iter().map(|(key, _)| key).collect();
    assert_eq!(old.len(), 2, "{old:?}");
    // An attempt that was killed has put one that nobody names.
    z.kill().await;
    z.try_run_with("erase-put=return").await.unwrap();
    let asked = z.request(Method::POST, "/tables/t/erase").json(&json!({"offsets": [2, 3]}));
    drop(asked.send().await);
    z.wait().await;
    z.run().await;
    eventually("it is erased", async || {
        [2, 3].iter().all(|number| holders(&z, &secrets(*number)[0]).is_empty())
    })
    .await;
    eventually("it is done", async || z.metric("zombi_erasures_pending").await == 0.0).await;
    for number in 0..6 {
        match [2, 3].contains(&number) {
            true => expect_erased(&z, number).await,
            false => expect_kept(&z, number).await,
        }
    }
    let left: Vec<String> = z.objects("segments/t/").into_iter().map(|(key, _)| key).collect();
    assert!(left.len() == 2 && left.iter().all(|key| !old.contains(key)), "{left:?}");
    z.audit().await;
}
