//! Killed at every step and run again with the same words, a backup and a restore are whole.

use serde_json::json;
use testing::{Sent, TestServer, server::BUCKET};

use super::{at, done, json_of, killed, refused, serve};

#[tokio::test]
async fn a_backup_that_was_killed_is_run_again() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 5, 100).await;
    z.flush_and_evict().await;
    done(&z, &["backup", "--to", &at("renewed")]).await;
    sent.append(&z, "t", 5, 100).await;
    z.flush_and_evict().await;
    let points = [
        "backup-begun=return",
        "backup-copied=return",
        "backup-copied=2*off->return",
        "backup-segments=return",
        "backup-manifests=return",
        "backup-listed=return",
        "backup-recorded=return",
    ];
    for (number, point) in points.into_iter().enumerate() {
        let to = at(&format!("killed-{number}"));
        killed(&mut z, point, &["backup", "--to", &to]).await;
        // What was never finished is none.
        if z.store().get(BUCKET, &format!("killed-{number}/backup.json")).is_none() {
            refused(&z, &["verify", &to], &["begun and not ended"]).await;
            refused(&z, &["restore", "--from", &to, "--to", &at("x")], &["begun and not ended"]).await;
        }
        done(&z, &["backup", "--to", &to]).await;
        done(&z, &["verify", &to]).await;
    }
    // One that is renewed stays what it was until it is the new one.
    for point in points.iter().filter(|point| !point.contains('*')) {
        sent.append(&z, "t", 5, 10).await;
        z.flush_and_evict().await;
        killed(&mut z, point, &["backup", "--to", &at("renewed")]).await;
        done(&z, &["verify", &at("renewed")]).await;
    }
    done(&z, &["backup", "--to", &at("renewed")]).await;
    done(&z, &["verify", &at("renewed")]).await;
    done(&z, &["restore", "--from", &at("renewed"), "--to", &at("new"), "--source-is-gone"]).await;
    let restored = serve(&z, "new").await;
    assert_eq!(Sent::from_records(&restored.read_all("t", "limit=1000").await), sent);
}

#[tokio::test]
async fn a_restore_that_was_killed_is_run_again() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 5, 100).await;
    z.flush_and_evict().await;
    done(&z, &["backup", "--to", &at("backup")]).await;
    let points = [
        "restore-begun=return",
        "backup-copied=return",
        "backup-copied=3*off->return",
        "restore-segments=return",
        "restore-begins=return",
    ];
    for (number, point) in points.into_iter().enumerate() {
        let prefix = format!("killed-{number}");
        let to = at(&prefix);
        let words = ["restore", "--from", &at("backup"), "--to", &to, "--source-is-gone"];
        killed(&mut z, point, &words).await;
        // Other words are another restore.
        let other = ["restore", "--from", &at("backup"), "--to", &to];
        refused(&z, &other, &["another restore was begun"]).await;
        done(&z, &words).await;
        done(&z, &["verify", &to]).await;
        assert!(z.store().get(BUCKET, &format!("{prefix}/restore.json")).is_none());
        refused(&z, &words, &["not empty"]).await;
        let restored = serve(&z, &prefix).await;
        assert_eq!(Sent::from_records(&restored.read_all("t", "limit=1000").await), sent, "{point}");
    }
}

/// Segments of one table that overlap, so that one of them must be cut: a copy of what another store had.
async fn overlapping() -> (TestServer, Sent) {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    for _ in 0..2 {
        sent.append(&z, "t", 1, 10).await;
        z.flush_and_evict().await;
    }
    let other = serve(&z, "other").await;
    Sent::default().append(&other, "t", 1, 15).await;
    other.flush_and_evict().await;
    for (key, body) in z.objects("other/segments/") {
        z.store().replace(BUCKET, key.strip_prefix("other/").unwrap(), body);
    }
    (z, sent)
}

#[tokio::test]
async fn manifests_are_made_anew_though_it_was_killed() {
    let (mut z, sent) = overlapping().await;
    z.kill().await;
    z.objects("manifests/").iter().for_each(|(key, _)| z.store().delete(BUCKET, key));
    let planned = json_of(&z, &["manifest", "rebuild", "--dry-run"]).await;
    assert_eq!((&planned["segments"], &planned["cut_segments"]), (&json!(2), &json!(1)), "{planned}");
    let before = z.objects("segments/").len();
    for point in ["rebuild-put=return", "rebuild-cut=return"] {
        killed(&mut z, point, &["manifest", "rebuild"]).await;
        assert!(z.objects("manifests/").is_empty(), "{point}");
        assert_eq!(z.objects("segments/").len(), before + 1, "what is cut is cut once: {point}");
        refused(&z, &["verify"], &["no manifest"]).await;
    }
    done(&z, &["manifest", "rebuild"]).await;
    z.audit().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
}
