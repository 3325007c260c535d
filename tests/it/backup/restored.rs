//! Restores: what a new store has, where it goes on, and what is refused.

use serde_json::json;
use testing::{Sent, TestServer, server::BUCKET};

use super::{at, done, json_of, killed, refused, serve};

/// Offsets that a reservation holds.
const RESERVED: u64 = 1 << 28;

#[tokio::test]
async fn a_restored_store_has_all_of_it() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 300).await;
    z.put("/tables/t/config", &json!({"retention_secs": 1_000_000})).await;
    z.post("/consumers/g/commit", &json!({"table": "t", "partition": 1, "offset": 40})).await;
    z.post("/tables/keys", &json!({"payload": 1, "idempotency_key": "k"})).await;
    z.flush_and_evict().await;
    z.post("/tables/t", &json!({"payload": "never flushed"})).await;
    z.post("/consumers/late/commit", &json!({"table": "t", "partition": 0, "offset": 101})).await;
    z.flush_and_evict().await;
    sent.0.get_mut(&0).unwrap().push("never flushed".to_owned());
    done(&z, &["backup", "--to", &at("backup")]).await;
    z.kill().await;

    let words = ["restore", "--from", &at("backup")];
    let planned = json_of(&z, &[&words[..], &["--dry-run", "--to", &at("closed")]].concat()).await;
    assert_eq!((&planned["store_id"], z.objects("closed/").len()), (&json!(null), 0));
    assert_eq!(planned["partitions_with_a_gap"], 4, "the source was not released");
    done(&z, &[&words[..], &["--source-is-gone", "--to", &at("closed")]].concat()).await;
    let closed = serve(&z, "closed").await;
    assert_eq!(Sent::from_records(&closed.read_all("t", "limit=100").await), sent);
    let (_, offset) = closed.get("/consumers/g/offset?table=t&partition=1").await;
    assert_eq!(offset["offset"], 40);
    assert_eq!(closed.get("/tables/t/config").await.1["retention_secs"], 1_000_000);
    let (_, again) = closed.post("/tables/keys", &json!({"payload": 1, "idempotency_key": "k"})).await;
    assert_eq!((&again["duplicate"], &again["offset"]), (&json!(true), &json!(0)));
    let (_, next) = closed.post("/tables/t", &json!({"payload": "next"})).await;
    assert_eq!(next["offset"], 101, "it goes on at the end");
    closed.flush_and_evict().await;
    closed.audit().await;

    // Whoever may have seen later events sees no other ones under their offsets.
    done(&z, &[&words[..], &["--to", &at("careful")]].concat()).await;
    let careful = serve(&z, "careful").await;
    let (_, next) = careful.post("/tables/t", &json!({"payload": "next"})).await;
    assert!(next["offset"].as_u64().unwrap() >= RESERVED, "{next}");
    // The old volume has nothing to do with the new store.
    z.set("s3.prefix", "closed");
    drop(closed);
    assert!(z.try_run().await.unwrap_err().contains("do not belong together"));
}

#[tokio::test]
async fn some_tables_are_restored_and_no_place_is_written_over() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "wanted", 2, 30).await;
    for table in ["other", "third"] {
        Sent::default().append(&z, table, 1, 10).await;
    }
    z.post("/consumers/g/commit", &json!({"table": "other", "partition": 0, "offset": 4})).await;
    z.flush_and_evict().await;
    let restored = json_of(&z, &["restore", "--to", &at("some"), "--table", "wanted", "third"]).await;
    assert_eq!((&restored["tables"], &restored["events"]), (&json!(2), &json!(40)));
    done(&z, &["verify", &at("some")]).await;
    let some = serve(&z, "some").await;
    assert_eq!(Sent::from_records(&some.read_all("wanted", "").await), sent);
    assert_eq!(some.get("/tables/other").await.0, 404);
    assert_eq!(some.get("/consumers").await.1.to_string().matches("\"g\"").count(), 0);
    let to = at("some");
    refused(&z, &["restore", "--to", &to], &["not empty"]).await;
    refused(&z, &["restore", "--to", &at("x"), "--table", "nobody"], &["nobody"]).await;
    refused(&z, &["restore", "--from", &at("nothing"), "--to", &at("x")], &["no manifests"]).await;
    assert!(z.objects("x/").is_empty());
    assert_eq!(z.get("/tables/other").await.0, 200, "the source goes on");
}

#[tokio::test]
async fn no_server_writes_into_a_backup_or_a_restore_that_has_not_ended() {
    let mut z = TestServer::start_tiered(&[]).await;
    Sent::default().append(&z, "t", 2, 40).await;
    z.flush_and_evict().await;
    done(&z, &["backup", "--to", &at("backup")]).await;
    for is_whole in [true, false] {
        // Of one that was begun only the mark is there.
        if !is_whole {
            z.store().delete(BUCKET, "backup/backup.json");
        }
        let before = z.objects("backup/");
        let mut other = z.beside();
        other.set("s3.prefix", "backup");
        let log = other.try_run().await.unwrap_err();
        assert!(log.contains("is a backup, not a store") && log.contains("nothing was changed"), "{log}");
        assert_eq!(z.objects("backup/"), before);
    }
    done(&z, &["backup", "--to", &at("backup")]).await;
    let words = ["restore", "--from", &at("backup"), "--to", &at("new"), "--source-is-gone"];
    killed(&mut z, "restore-begun=return", &words).await;
    let mut other = z.beside();
    other.set("s3.prefix", "new");
    let log = other.try_run().await.unwrap_err();
    assert!(log.contains("a restore was begun") && log.contains("run it again"), "{log}");
    // Once its manifest is there, it is a store.
    killed(&mut z, "restore-begins=return", &words).await;
    assert!(z.store().get(BUCKET, "new/restore.json").is_some());
    assert_eq!(serve(&z, "new").await.read_all("t", "limit=100").await.len(), 40);
    done(&z, &words).await;
    assert!(z.store().get(BUCKET, "new/restore.json").is_none());
}
