//! Backups: what they hold, and what a second run copies.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::json;
use testing::{Sent, TestServer, command::CommandLine, server::BUCKET};

use super::{at, done, json_of, refused, serve};

#[tokio::test]
async fn a_second_run_copies_only_what_is_new() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 300).await;
    z.flush_and_evict().await;
    let words = ["backup", "--to", &at("backup")];
    let planned = json_of(&z, &[&words[..], &["--dry-run"]].concat()).await;
    assert_eq!((&planned["copied_objects"], z.objects("backup/").len()), (&json!(3), 0));
    let first = json_of(&z, &words).await;
    assert_eq!(
        (&first["segments"], &first["events"], &first["copied_objects"]),
        (&json!(3), &json!(300), &json!(3))
    );
    assert_eq!(z.store().copies.load(SeqCst), 3, "the store copied them by itself");
    done(&z, &["verify", &at("backup")]).await;

    // Nothing is new.
    let again = json_of(&z, &words).await;
    assert_eq!((&again["copied_objects"], &again["held_objects"]), (&json!(0), &json!(3)));
    assert_eq!((&again["copied_manifests"], z.store().copies.load(SeqCst)), (&json!(0), 3));
    // Two segments are.
    sent.append(&z, "t", 2, 10).await;
    z.flush_and_evict().await;
    let third = json_of(&z, &words).await;
    assert_eq!((&third["copied_objects"], &third["held_objects"]), (&json!(2), &json!(3)));
    assert_eq!(z.store().copies.load(SeqCst), 5);
    assert_eq!(z.objects("backup/backup-lists/").len(), 1, "the list before it is gone");
    done(&z, &["verify", &at("backup")]).await;
    for (key, body) in z.objects("segments/") {
        assert_eq!(z.store().get(BUCKET, &format!("backup/{key}")).unwrap(), body, "{key}");
    }
    let record = z.store().get(BUCKET, "backup/backup.json").unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!((&record["manifest"], &record["events"]), (&third["manifest"], &json!(310)));
}

#[tokio::test]
async fn a_backup_is_of_one_store_and_lies_in_a_place_of_its_own() {
    let z = TestServer::start_tiered(&[]).await;
    Sent::default().append(&z, "t", 1, 10).await;
    z.flush_and_evict().await;
    z.store().replace(BUCKET, "taken/notes.txt", bytes::Bytes::from_static(b"x"));
    refused(&z, &["backup", "--to", &at("taken")], &["not empty", "notes.txt"]).await;
    refused(&z, &["backup", "--to", &at("")], &["no backup"]).await;
    refused(&z, &["backup", "--from", &at("nothing"), "--to", &at("b")], &["holds no store"]).await;
    refused(&z, &["backup", "--to", "https://x/y"], &["s3://bucket/prefix"]).await;
    done(&z, &["backup", "--to", &at("b")]).await;
    let other = serve(&z, "other").await;
    Sent::default().append(&other, "t", 1, 10).await;
    other.flush_and_evict().await;
    refused(&other, &["backup", "--to", &at("b")], &["is a backup of store"]).await;
}

/// A name with a slip in it, or a backup that was never made, must not pass for one that is right.
#[tokio::test]
async fn a_place_without_a_store_is_not_right() {
    let z = TestServer::start_tiered(&[]).await;
    done(&z, &["verify"]).await;
    let directory = tempfile::tempdir().unwrap();
    for place in [at("nothing"), directory.path().display().to_string()] {
        refused(&z, &["verify", &place], &["there is no store at", &place]).await;
        refused(&z, &["verify", "--json", &place], &["there is no store at"]).await;
    }
    refused(&z, &["manifest", "show", "9999"], &["there is no manifest 9999"]).await;
}

/// A run that is killed leaves manifests with gaps between them behind those that the backup names.
#[tokio::test]
async fn a_backup_is_what_its_last_whole_run_has_named() {
    let z = TestServer::start_tiered(&[]).await;
    let place = at("backup");
    done(&z, &["backup", "--to", &place]).await;
    let (_, manifest) = z.objects("manifests/").remove(0);
    z.store().replace(BUCKET, "backup/manifests/00000000000000000007.json", manifest);
    for words in [&["verify", &*place][..], &["verify", "--list", &place]] {
        done(&z, words).await;
    }
}

#[tokio::test]
async fn a_manifest_is_read_once_to_be_shown() {
    let mut z = TestServer::start_tiered(&[]).await;
    assert_eq!(z.terminate().await, Some(0));
    let before = z.store().gets.load(SeqCst);
    done(&z, &["manifest", "show", "0"]).await;
    assert_eq!(z.store().gets.load(SeqCst) - before, 1, "objects that were read");
}

#[tokio::test]
async fn a_directory_holds_a_backup_too() {
    let z = TestServer::start_tiered(&[("segment.compression", "none")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 100).await;
    z.flush_and_evict().await;
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("backup").display().to_string();
    let saved = json_of(&z, &["backup", "--to", &directory]).await;
    assert_eq!(saved["copied_objects"], 4, "two segments, and an index beside each");
    done(&z, &["verify", &directory]).await;
    assert_eq!(json_of(&z, &["backup", "--to", &directory]).await["copied_objects"], 0);
    done(&z, &["restore", "--from", &directory, "--to", &at("restored"), "--source-is-gone"]).await;
    let restored = serve(&z, "restored").await;
    assert_eq!(Sent::from_records(&restored.read_all("t", "limit=50").await), sent);
    // On a terminal each of them shows how far it is.
    let [second, third] = ["second", "third"].map(|name| place.path().join(name).display().to_string());
    for words in [
        &["verify", &*directory][..],
        &["backup", "--from", &directory, "--to", &second],
        &["restore", "--from", &directory, "--to", &third, "--source-is-gone"],
        &["manifest", "rebuild", &third],
    ] {
        if words[0] == "manifest" {
            std::fs::remove_dir_all(place.path().join("third/manifests")).unwrap();
        }
        let ran = CommandLine::new(words).watched(120).await;
        assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.err);
        for word in ["%", " left"] {
            assert!(ran.err.contains(word), "{words:?}: {word:?} is not shown: {:?}", ran.err);
        }
        assert!(!ran.err.contains("0 B/0 B"), "{words:?}: nothing is all of nothing: {:?}", ran.err);
    }
    // A damaged object is found.
    let segment = std::fs::read_dir(place.path().join("backup/segments/t/00000")).unwrap();
    let file =
        segment.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "jsonl").unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    refused(&z, &["verify", &directory], &["WRONG", "jsonl"]).await;
    let unread = CommandLine::new(&["verify", &directory]).begin().closed().await;
    assert_eq!(unread, Some(1), "whether or not anybody reads what it is");
}

/// The source is written, merged and expires while backups are made; each is whole.
#[tokio::test]
async fn a_source_at_work_is_backed_up() {
    let settings = [
        ("compaction.interval_secs", "1"),
        ("compaction.min_segments", "2"),
        ("compaction.grace_secs", "0"),
        ("manifests.keep_secs", "0"),
    ];
    let mut z = TestServer::start_tiered(&settings).await;
    z.put("/tables/short/config", &json!({"retention_secs": 1})).await;
    let mut sent = Sent::default();
    let writing = async {
        for round in 0..40 {
            sent.append(&z, "t", 2, 20).await;
            z.post("/tables/short", &json!({"payload": round})).await;
            z.flush_and_evict().await;
        }
    };
    let saving = async {
        for _ in 0..6 {
            done(&z, &["backup", "--to", &at("backup")]).await;
            done(&z, &["verify", &at("backup")]).await;
        }
    };
    tokio::join!(writing, saving);
    // A store that cannot copy is read and written.
    z.store().refuses_copies.store(true, SeqCst);
    sent.append(&z, "t", 2, 20).await;
    assert_eq!(z.terminate().await, Some(0));
    done(&z, &["backup", "--to", &at("backup")]).await;
    done(&z, &["verify", &at("backup")]).await;
    let restored = json_of(&z, &["restore", "--from", &at("backup"), "--to", &at("restored")]).await;
    assert_eq!(restored["partitions_with_a_gap"], 0, "the source was released");
    done(&z, &["verify", &at("restored")]).await;
    let restored = serve(&z, "restored").await;
    assert_eq!(Sent::from_records(&restored.read_all("t", "limit=1000").await), sent);
    assert!(restored.partition("t", 0).await["lost"].as_array().is_none_or(Vec::is_empty));
    sent.append(&restored, "t", 2, 20).await;
    restored.audit().await;
}
