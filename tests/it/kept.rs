//! Volumes and buckets that earlier programs wrote, as `tests/kept/make.py` keeps them: each is opened, and
//! all that was in it is there. What a later program wrote is refused.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use cold_s3::manifest;
use hot_rocksdb::keys;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use testing::{TestServer, server::BUCKET};

/// What an earlier program had acked.
#[derive(Deserialize)]
struct AckedEvents {
    tables: BTreeMap<String, Vec<Value>>,
    consumers: BTreeMap<String, BTreeMap<String, u64>>,
    keys: BTreeMap<String, BTreeMap<String, u64>>,
    ends: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What was kept, unpacked.
struct KeptStore {
    home: TempDir,
    expected: AckedEvents,
}

impl KeptStore {
    /// Each of them, with its name.
    fn all() -> Vec<(PathBuf, Self)> {
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kept").read_dir().unwrap();
        let archives = files
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "zst"));
        let all: Vec<_> = archives.map(|path| (path.clone(), Self::unpack(&path))).collect();
        assert!(!all.is_empty(), "none is kept");
        all
    }

    fn unpack(archive: &Path) -> Self {
        let home = TempDir::new().unwrap();
        let tar = zstd::decode_all(std::fs::File::open(archive).unwrap()).unwrap();
        std::fs::write(home.path().join("kept.tar"), tar).unwrap();
        assert!(
            Command::new("tar")
                .args(["-xf", "kept.tar"])
                .current_dir(home.path())
                .status()
                .unwrap()
                .success()
        );
        let expected =
            serde_json::from_slice(&std::fs::read(home.path().join("expected.json")).unwrap()).unwrap();
        Self { home, expected }
    }

    /// A server with what was kept in its bucket, not started yet.
    async fn with_bucket(&self) -> TestServer {
        // Keys are remembered for a week otherwise, and these are older some day.
        let z = TestServer::tiered(&[("idempotency.window_secs", "3000000000")]).await;
        let bucket = self.home.path().join("bucket");
        z.store().make_bucket(BUCKET);
        let mut folders = vec![bucket.clone()];
        while let Some(folder) = folders.pop() {
            for path in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let key = path.strip_prefix(&bucket).unwrap().to_str().unwrap();
                    z.store().replace(BUCKET, key, std::fs::read(&path).unwrap().into());
                }
            }
        }
        z
    }

    /// The records of some tables are what they were.
    async fn reads(&self, z: &TestServer, tables: &[&str]) {
        for table in tables {
            assert_eq!(z.read_all(table, "").await, self.expected.tables[*table], "{table}");
        }
    }

    /// What groups had committed is what it was.
    async fn knows_its_groups(&self, z: &TestServer) {
        for (group, offsets) in &self.expected.consumers {
            let (_, shown) = z.get(&format!("/consumers/{group}")).await;
            let found = shown["offsets"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| (one["table"].as_str().unwrap().to_owned(), one["offset"].as_u64().unwrap()));
            assert_eq!(found.collect::<BTreeMap<_, _>>(), *offsets, "{group}");
        }
    }

    /// Tables that were deleted are not there, and go on with the offsets behind those that they had given.
    async fn goes_on_behind_the_deleted(&self, z: &TestServer) {
        for (table, partitions) in &self.expected.ends {
            assert_eq!(z.get(&format!("/tables/{table}")).await.0, StatusCode::NOT_FOUND, "{table}");
            for (partition, end) in partitions {
                let event = json!({"payload": "later", "partition": partition.parse::<u64>().unwrap()});
                let (_, appended) = z.post(&format!("/tables/{table}"), &event).await;
                assert_eq!(appended["offset"], *end, "{table}/{partition}: {appended}");
            }
        }
    }

    /// Writing again what had an idempotency key is told what was written then.
    async fn knows_its_keys(&self, z: &TestServer, is_known: impl Fn(&str) -> bool) {
        for (table, keys) in &self.expected.keys {
            for (key, offset) in keys.iter().filter(|(key, _)| is_known(key)) {
                let record =
                    self.expected.tables[table].iter().find(|record| record["offset"] == *offset).unwrap();
                let event = json!({
                    "payload": record["payload"],
                    "timestamp_ms": record["timestamp_ms"],
                    "partition": 0,
                    "idempotency_key": key,
                });
                let (status, again) = z.post(&format!("/tables/{table}"), &event).await;
                assert_eq!(
                    (status, &again["duplicate"], &again["offset"]),
                    (StatusCode::OK, &json!(true), &json!(offset)),
                    "{key}: {again}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_volume_and_its_bucket_are_taken_over() {
    for (name, kept) in KeptStore::all() {
        eprintln!("{}", name.display());
        let mut z = kept.with_bucket().await;
        std::fs::rename(kept.home.path().join("volume"), z.data_dir()).unwrap();
        let tables: Vec<&str> = kept.expected.tables.keys().map(String::as_str).collect();
        for _ in 0..2 {
            z.run().await;
            kept.reads(&z, &tables).await;
            kept.knows_its_groups(&z).await;
            kept.knows_its_keys(&z, |_| true).await;
            z.flush_and_evict().await;
            kept.reads(&z, &tables).await;
            z.audit().await;
            z.kill().await;
        }
        z.run().await;
        kept.goes_on_behind_the_deleted(&z).await;
    }
}

#[tokio::test]
async fn a_bucket_alone_brings_back_what_was_flushed() {
    for (name, kept) in KeptStore::all() {
        eprintln!("{}", name.display());
        let mut z = kept.with_bucket().await;
        z.run().await;
        // The rest had not been flushed.
        kept.reads(&z, &["lost", "merged"]).await;
        kept.knows_its_keys(&z, |key| key.starts_with("cold")).await;
        z.flush_and_evict().await;
        z.audit().await;
    }
}

/// The volume's format is another one from now on.
fn set_format(volume: &Path, format: u32) {
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), volume, keys::cf::ALL).unwrap();
    let facts = db.cf_handle(keys::cf::META).unwrap();
    db.put_cf(facts, keys::meta::FORMAT, format.to_be_bytes()).unwrap();
}

/// The start is refused, and the bucket stays what it is.
async fn is_refused(z: &mut TestServer, why: &str) {
    let objects = z.objects("");
    let log = z.try_run().await.expect_err("it started");
    assert!(log.contains(why) && log.contains("Nothing was changed"), "nothing of {why:?} in {log}");
    assert!(z.objects("") == objects, "the bucket was changed");
}

/// Who goes back to an earlier program is refused where a later one has written what that does not know, and
/// goes forward again with all of it.
#[tokio::test]
async fn what_a_later_program_wrote_is_refused_and_left_as_it_is() {
    let mut z = TestServer::start_tiered(&[]).await;
    for payload in ["in S3", "on the volume"] {
        assert_eq!(z.post("/tables/t", &json!({"payload": payload})).await.0, StatusCode::CREATED);
        if payload == "in S3" {
            z.flush_and_evict().await;
        }
    }
    z.kill().await;
    // The last manifest of a later program.
    let links = z.objects("manifests/").into_iter().rev();
    let mut links = links.filter_map(|(key, body)| Some((manifest::number(&key)?, key, body)));
    let (number, key, written) = links.next().unwrap();
    let mut link = manifest::decode(number, &written).unwrap();
    link.version = manifest::VERSION + 1;
    z.store().replace(BUCKET, &key, manifest::encode(&link).into());
    is_refused(&mut z, "was written by a newer program").await;
    let (is_right, said) = z.look(&["verify"]).await;
    assert!(!is_right && said.contains("was written by a newer program"), "{said}");
    z.store().replace(BUCKET, &key, written);
    // Its volume.
    set_format(&z.data_dir(), keys::FORMAT + 1);
    is_refused(&mut z, "another program wrote it").await;
    set_format(&z.data_dir(), keys::FORMAT);
    z.run().await;
    let records = z.read_all("t", "").await;
    let payloads: Vec<&Value> = records.iter().map(|record| &record["payload"]).collect();
    assert_eq!(payloads, ["in S3", "on the volume"]);
    z.flush_and_evict().await;
    z.audit().await;
}
