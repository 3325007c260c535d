//! Erased events in a store as a whole: they stay erased in what is restored, at whatever manifest, and in
//! manifests that are made anew.

use serde_json::{Value, json};
use testing::{TestServer, server::BUCKET};

use super::{at, done, json_of, serve};
use crate::erase;

/// A store with five events in one segment, and the number of its last manifest.
async fn filled() -> (TestServer, String) {
    let z = TestServer::start_tiered(&[("compaction.interval_secs", "3600")]).await;
    for n in 0..5 {
        z.post("/tables/t", &json!({"payload": n, "idempotency_key": format!("k{n}")})).await;
    }
    z.flush_and_evict().await;
    let last: Value = serde_json::from_str(&done(&z, &["manifest", "show"]).await).unwrap();
    (z, last["number"].to_string())
}

/// Erases the event in the middle, and waits until nothing of it is left.
async fn erase(z: &TestServer) {
    let id = erase::erase(z, &json!({"offsets": [2]})).await;
    erase::done(z, &id).await;
}

async fn expect_erased(z: &TestServer) {
    let records = z.read_all("t", "").await;
    let payloads: Vec<&Value> = records.iter().map(|record| &record["payload"]).collect();
    assert_eq!(payloads, [&json!(0), &json!(1), &Value::Null, &json!(3), &json!(4)]);
    assert_eq!(records[2]["erased"], true);
    let (_, again) = z.post("/tables/t", &json!({"payload": 2, "idempotency_key": "k2"})).await;
    assert_eq!((&again["duplicate"], &again["offset"]), (&json!(true), &json!(2)), "its key is known");
}

#[tokio::test]
async fn a_restore_to_an_earlier_manifest_brings_nothing_back_that_was_erased() {
    let (z, number) = filled().await;
    done(&z, &["backup", "--to", &at("backup")]).await;
    erase(&z).await;
    let saved = json_of(&z, &["backup", "--to", &at("backup")]).await;
    assert_eq!(saved["copied_objects"], 1, "the segment that was written anew");
    done(&z, &["verify", &at("backup")]).await;
    assert_eq!(z.objects("backup/segments/").len(), 2, "a backup deletes nothing");
    for (name, from) in [("of-bucket", None), ("of-backup", Some(at("backup")))] {
        for (when, point) in [("then", Some(number.as_str())), ("now", None)] {
            let (prefix, to) = (format!("{name}-{when}"), at(&format!("{name}-{when}")));
            let mut words = vec!["restore", "--to", &to, "--source-is-gone"];
            words.extend(from.iter().flat_map(|from| ["--from", from.as_str()]));
            words.extend(point.into_iter().flat_map(|number| ["--at", number]));
            done(&z, &words).await;
            done(&z, &["verify", &to]).await;
            expect_erased(&serve(&z, &prefix).await).await;
        }
    }
}

/// Nothing is written anew for what had expired: its objects go, and a backup has them still.
#[tokio::test]
async fn what_had_expired_when_it_was_erased_comes_back_from_no_backup() {
    let (z, number) = filled().await;
    assert_eq!(z.delete("/tables/t").await.0, 204);
    z.flush_and_evict().await;
    done(&z, &["backup", "--to", &at("backup")]).await;
    // The next write revives the table.
    z.post("/tables/t", &json!({"payload": "later"})).await;
    erase(&z).await;
    done(&z, &["backup", "--to", &at("backup")]).await;
    let (from, to) = (at("backup"), at("then"));
    let words = ["restore", "--from", &from, "--to", &to, "--at", &number, "--source-is-gone"];
    let restored = json_of(&z, &words).await;
    assert_eq!(restored["cut_segments"], 1, "{restored}");
    done(&z, &["verify", &to]).await;
    expect_erased(&serve(&z, "then").await).await;
}

#[tokio::test]
async fn manifests_made_anew_name_what_was_written_anew() {
    let (mut z, _) = filled().await;
    let before = z.objects("segments/t/");
    erase(&z).await;
    z.kill().await;
    z.objects("manifests/").iter().for_each(|(key, _)| z.store().delete(BUCKET, key));
    // As if the erasure had been killed before it deleted what it replaced.
    for (key, body) in before {
        z.store().replace(BUCKET, &key, body);
    }
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    let rebuilt = json_of(&z, &["manifest", "rebuild"]).await;
    let counts = [&rebuilt["segments"], &rebuilt["cut_segments"], &rebuilt["superseded"], &rebuilt["events"]];
    assert_eq!(counts, [1, 0, 1, 5], "{rebuilt}");
    z.audit().await;
    z.run().await;
    expect_erased(&z).await;
}
