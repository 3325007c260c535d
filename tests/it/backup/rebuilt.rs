//! Manifests made anew from segments.

use serde_json::{Value, json};
use testing::{Sent, TestServer, server::BUCKET};

use super::{at, done, json_of, refused};

const RESERVED: u64 = 1 << 28;

fn lose_manifests(z: &TestServer) {
    z.objects("manifests/").iter().for_each(|(key, _)| z.store().delete(BUCKET, key));
}

#[tokio::test]
async fn a_bucket_without_manifests_is_refused_and_mended() {
    for compression in ["zstd", "none"] {
        let mut z = TestServer::start_tiered(&[("segment.compression", compression)]).await;
        let mut sent = Sent::default();
        for _ in 0..3 {
            sent.append(&z, "t", 3, 300).await;
            z.flush_and_evict().await;
        }
        z.post("/tables/keys", &json!({"payload": 1, "idempotency_key": "k"})).await;
        z.flush_and_evict().await;
        z.kill().await;
        lose_manifests(&z);
        let objects = z.objects("");
        std::fs::remove_dir_all(z.data_dir()).unwrap();
        let log = z.try_run().await.unwrap_err();
        assert!(log.contains("zombi manifest rebuild"), "{log}");
        assert_eq!(z.objects("segments/").len(), objects.len(), "nothing was changed");
        std::fs::remove_dir_all(z.data_dir()).unwrap();

        let planned = json_of(&z, &["manifest", "rebuild", "--dry-run"]).await;
        assert_eq!((&planned["store_id"], &planned["segments"]), (&Value::Null, &json!(10)));
        assert!(z.objects("manifests/").is_empty());
        let text = done(&z, &["manifest", "rebuild"]).await;
        assert!(text.contains("consumer offsets"), "{text}");
        z.audit().await;
        refused(&z, &["manifest", "rebuild"], &["exists"]).await;
        z.run().await;
        assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
        let (_, again) = z.post("/tables/keys", &json!({"payload": 1, "idempotency_key": "k"})).await;
        assert_eq!(again["duplicate"], true);
        let (_, next) = z.post("/tables/t", &json!({"payload": "next"})).await;
        assert!(next["offset"].as_u64().unwrap() >= RESERVED, "what was given is not known: {next}");
        z.flush_and_evict().await;
        z.audit().await;
    }
}

#[tokio::test]
async fn a_volume_that_is_still_there_goes_on_under_its_own_store_id() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 100).await;
    z.flush_and_evict().await;
    sent.append(&z, "t", 2, 20).await;
    let shown: Value = serde_json::from_str(&done(&z, &["manifest", "show"]).await).unwrap();
    z.kill().await;
    lose_manifests(&z);
    let store_id = shown["store_id"].as_str().unwrap();
    done(&z, &["manifest", "rebuild", "--store-id", store_id]).await;
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent, "unflushed events are there");
    z.flush_and_evict().await;
    z.audit().await;
}

#[tokio::test]
async fn damage_is_left_out_only_when_asked_and_holes_are_declared() {
    let mut z = TestServer::start_tiered(&[]).await;
    for _ in 0..3 {
        for n in 0..10 {
            z.post("/tables/t", &json!({"payload": n})).await;
        }
        z.flush_and_evict().await;
    }
    z.kill().await;
    lose_manifests(&z);
    let segments = z.objects("segments/");
    let (damaged, _) = &segments[1];
    z.store().flip_bit(BUCKET, damaged, 20);
    z.store().replace(BUCKET, "segments/t/00000/notes.txt", bytes::Bytes::from_static(b"x"));
    refused(&z, &["manifest", "rebuild"], &["--skip-damaged", damaged]).await;
    assert!(z.objects("manifests/").is_empty());
    let rebuilt = json_of(&z, &["manifest", "rebuild", "--skip-damaged"]).await;
    assert_eq!(rebuilt["holes"], json!([{"table": "t", "partition": 0, "start": 10, "end": 20}]));
    assert_eq!(rebuilt["foreign"], json!(["segments/t/00000/notes.txt"]));
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    let (_, page) = z.get("/tables/t").await;
    assert_eq!((&page["count"], &page["lost"][0]["start"]), (&json!(20), &json!(10)));
    z.audit().await;
}

/// A copy of a prefix that lacks the manifests is mended where it is.
#[tokio::test]
async fn another_place_is_mended_by_its_name() {
    let z = TestServer::start_tiered(&[]).await;
    Sent::default().append(&z, "t", 1, 10).await;
    z.flush_and_evict().await;
    for (key, body) in z.objects("segments/") {
        z.store().replace(BUCKET, &format!("copy/{key}"), body);
    }
    refused(&z, &["verify", &at("copy")], &["no manifest"]).await;
    done(&z, &["manifest", "rebuild", &at("copy")]).await;
    done(&z, &["verify", &at("copy")]).await;
}
