//! A point in time whose segments were merged with later ones, or taken away by DELETE.

use serde_json::{Value, json};
use testing::{
    Sent, TestServer,
    server::{BUCKET, eventually},
};

use super::{at, done, json_of, refused, serve};

const SETTINGS: [(&str, &str); 4] = [
    ("compaction.interval_secs", "1"),
    ("compaction.min_segments", "2"),
    ("compaction.grace_secs", "0"),
    ("segment.compression", "zstd"),
];

/// The last manifest.
async fn last(z: &TestServer) -> Value {
    serde_json::from_str(&done(z, &["manifest", "show"]).await).unwrap()
}

fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

#[tokio::test]
async fn a_state_is_restored_though_its_segments_were_merged_with_later_ones() {
    let z = TestServer::start_tiered(&SETTINGS).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 100).await;
    Sent::default().append(&z, "deleted", 1, 10).await;
    z.flush_and_evict().await;
    let (then, earlier) = (last(&z).await, sent.clone());
    let number = then["number"].to_string();
    // Another millisecond, at least.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    for _ in 0..5 {
        sent.append(&z, "t", 1, 100).await;
        z.flush_and_evict().await;
    }
    assert_eq!(z.delete("/tables/deleted").await.0, 204);
    let first = format!("segments/t/00000/{:020}-{:020}-{:08}.jsonl.zst", 0, 100, 1);
    eventually("the first is merged with later ones, and gone", || async {
        z.store().get(BUCKET, &first).is_none()
    })
    .await;

    let to = at("by-number");
    let restored = json_of(&z, &["restore", "--to", &to, "--at", &number, "--source-is-gone"]).await;
    assert_eq!((&restored["cut_segments"], &restored["events"]), (&json!(1), &json!(110)));
    done(&z, &["verify", &to]).await;
    let new = serve(&z, "by-number").await;
    assert_eq!(Sent::from_records(&new.read_all("t", "").await), earlier);
    assert_eq!(new.read_all("deleted", "").await.len(), 10, "DELETE was later");
    // By its time, out of a backup, which has only what was merged.
    done(&z, &["backup", "--to", &at("backup")]).await;
    done(&z, &["verify", &at("backup")]).await;
    let time = rfc3339(then["written_ms"].as_i64().unwrap());
    let (from, to) = (at("backup"), at("by-time"));
    let restored = json_of(&z, &["restore", "--from", &from, "--to", &to, "--at", &time]).await;
    assert_eq!(restored["manifest"].to_string(), number);
    let new = serve(&z, "by-time").await;
    assert_eq!(Sent::from_records(&new.read_all("t", "").await), earlier);

    refused(&z, &["restore", "--to", &at("x"), "--at", "999999"], &["these can"]).await;
    refused(&z, &["restore", "--to", &at("x"), "--at", "1999-01-01T00:00:00Z"], &["as old as that"]).await;
    refused(&z, &["restore", "--to", &at("x"), "--at", "yesterday"], &["number of a manifest"]).await;
    assert!(z.objects("x/").is_empty());
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent, "the source goes on");
}

#[tokio::test]
async fn what_is_no_longer_kept_is_refused_by_name() {
    let settings =
        [("compaction.interval_secs", "1"), ("compaction.grace_secs", "0"), ("manifests.keep_secs", "0")];
    let z = TestServer::start_tiered(&settings).await;
    Sent::default().append(&z, "t", 1, 10).await;
    z.flush_and_evict().await;
    let number = last(&z).await["number"].to_string();
    assert_eq!(z.delete("/tables/t").await.0, 204);
    eventually("its objects are gone", || async {
        z.flush_and_evict().await;
        z.objects("segments/t/").is_empty()
    })
    .await;
    refused(&z, &["restore", "--to", &at("x"), "--at", &number], &["t/0", "manifests.keep_secs"]).await;
    assert!(z.objects("x/").is_empty());
}
