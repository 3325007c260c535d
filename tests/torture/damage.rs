//! Flipped bits and files cut short, on the volume and in the bucket: the right answer or an error, never
//! wrong bytes, silent loss or a panic.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{Effort, WRITE_FAILED};
use testing::{
    TestServer,
    server::{BUCKET, TestRequest},
};

/// What is changed in one file or object.
#[derive(Debug, Clone, Copy)]
enum Tampering {
    Flip { byte: usize, bit: u8 },
    Cut { length: usize },
}

impl Tampering {
    fn random(rng: &mut StdRng, length: usize) -> Self {
        match rng.random_bool(0.75) {
            true => Self::Flip { byte: rng.random_range(0..length), bit: rng.random_range(0..8) },
            false => Self::Cut { length: rng.random_range(0..length) },
        }
    }

    fn done_to(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Self::Flip { byte, bit } => bytes[byte] ^= 1 << bit,
            Self::Cut { length } => bytes.truncate(length),
        }
        bytes
    }
}

/// What came of it, how often.
#[derive(Debug, Default)]
struct Outcomes {
    refused: usize,
    errors: usize,
    right: usize,
}

impl Outcomes {
    fn count(&mut self, found: AnswerFound) {
        match found {
            AnswerFound::Refused => self.refused += 1,
            AnswerFound::Error => self.errors += 1,
            AnswerFound::Right => self.right += 1,
        }
    }

    fn total(&self) -> usize {
        self.refused + self.errors + self.right
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} refused at the start, {} errors, {} right answers)",
            self.total(),
            self.refused,
            self.errors,
            self.right
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerFound {
    Refused,
    Error,
    Right,
}

type VolumeFiles = BTreeMap<PathBuf, Vec<u8>>;

const TABLES: [&str; 2] = ["a", "b"];

/// Everything that a right answer says.
#[derive(Debug, PartialEq)]
struct RightAnswers(BTreeMap<&'static str, Vec<Value>>);

impl RightAnswers {
    async fn of(z: &TestServer) -> Self {
        let mut tables = BTreeMap::new();
        for table in TABLES {
            tables.insert(table, z.read_all(table, "limit=1000").await);
        }
        Self(tables)
    }

    /// Compares with what a server says that runs.
    async fn compare(&self, z: &TestServer) -> Result<AnswerFound, String> {
        let mut found = AnswerFound::Right;
        let mut look =
            async |what: String, request: TestRequest, is_right: &dyn Fn(StatusCode, &Value) -> bool| {
                match ask(request).await {
                    Some((status, body)) if is_right(status, &body) => Ok(()),
                    Some((status, body)) if !status.is_server_error() || body["code"] == "internal" => {
                        Err(format!("{what}: {status} {body}"))
                    }
                    _ => {
                        found = AnswerFound::Error;
                        Ok(())
                    }
                }
            };
        for (table, expected) in &self.0 {
            // Page by page, so that a damaged place does not keep the others from being looked at.
            for page in expected.chunks(50) {
                let path = format!("/tables/{table}?partition=0&offset={}&limit=50", page[0]["offset"]);
                let is_right =
                    |_, body: &Value| body["records"].as_array().is_some_and(|found| found == page);
                look(path.clone(), z.request(Method::GET, &path), &is_right).await?;
            }
            let path = format!("/tables/{table}");
            let known = keyed(7);
            look(format!("key 7 of {table}"), z.request(Method::POST, &path).json(&known), &|_, body| {
                body["offset"] == 7
            })
            .await?;
            let is_next = |_, body: &Value| body["offset"] == expected.len();
            look(
                format!("a write to {table}"),
                z.request(Method::POST, &path).json(&json!({"payload": "new"})),
                &is_next,
            )
            .await?;
        }
        Ok(found)
    }
}

/// What is answered; nothing by a process that has ended.
async fn ask(request: TestRequest) -> Option<(StatusCode, Value)> {
    let response = request.send().await.ok()?;
    Some((response.status(), response.json().await.ok()?))
}

fn keyed(n: usize) -> Value {
    json!({"payload": {"number": n, "text": "x".repeat(n % 200)}, "idempotency_key": format!("key {n}")})
}

async fn fill(z: &TestServer, from: usize, count: usize) {
    for table in TABLES {
        for first in (from..from + count).step_by(20) {
            let records: Vec<_> = (first..first + 20).map(keyed).collect();
            let (status, body) = z.post(&format!("/tables/{table}/bulk"), &json!({"records": records})).await;
            assert_eq!(status, StatusCode::CREATED, "{body}");
        }
    }
}

fn read_files(directory: &Path) -> VolumeFiles {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

fn write_files(directory: &Path, files: &VolumeFiles) {
    drop(std::fs::remove_dir_all(directory));
    std::fs::create_dir_all(directory).unwrap();
    files.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
}

/// Starts it over what was damaged, and compares; nowhere may it panic.
async fn start_and_compare(z: &mut TestServer, expected: &RightAnswers) -> Result<AnswerFound, String> {
    let found = look(z, expected).await?;
    z.panic().map_or(Ok(found), |panic| Err(panic.to_owned()))
}

async fn look(z: &mut TestServer, expected: &RightAnswers) -> Result<AnswerFound, String> {
    if let Err(log) = z.try_run().await {
        return if log.contains("exiting error=") { Ok(AnswerFound::Refused) } else { Err(log) };
    }
    let found = expected.compare(z).await?;
    if z.has_ended() {
        // It may give up where writing fails, and only so.
        let code = z.wait().await;
        return if code == Some(WRITE_FAILED) {
            Ok(AnswerFound::Error)
        } else {
            Err(format!("it ended with {code:?}"))
        };
    }
    z.end().await;
    Ok(found)
}

/// Damages files of the volume.
pub(crate) async fn volume(seed: u64, budget: Effort) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = TestServer::start().await;
    fill(&z, 0, 400).await;
    assert_eq!(z.terminate().await, Some(0));
    z.run().await;
    fill(&z, 400, 200).await;
    let expected = RightAnswers::of(&z).await;
    z.kill().await;
    let files = read_files(&z.data_dir());
    // Its messages and its options are for people.
    let is_data = |path: &&PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        !name.starts_with("LOG") && !name.starts_with("OPTIONS") && name != "LOCK"
    };
    let data: Vec<PathBuf> =
        files.keys().filter(is_data).filter(|path| !files[*path].is_empty()).cloned().collect();
    let mut outcomes = Outcomes::default();
    while budget.allows(outcomes.total()) {
        write_files(&z.data_dir(), &files);
        let path = data.choose(&mut rng).unwrap();
        let damage = Tampering::random(&mut rng, files[path].len());
        std::fs::write(path, damage.done_to(&files[path])).unwrap();
        let found = start_and_compare(&mut z, &expected).await;
        outcomes.count(found.map_err(|why| format!("{damage:?} of {}: {why}", path.display()))?);
    }
    Ok(format!("{outcomes} in {} files", data.len()))
}

/// Events in many segments, and some in hot alone.
async fn tiered(compression: &str) -> TestServer {
    let settings = [
        ("cold.cache_bytes", "0"),
        ("flush.segment_bytes", "20000"),
        ("s3.attempts", "1"),
        ("segment.compression", compression),
    ];
    let z = TestServer::start_tiered(&settings).await;
    fill(&z, 0, 400).await;
    z.flush_and_evict().await;
    fill(&z, 400, 200).await;
    z
}

/// Damages segments under a server that runs. Those that zstd has compressed have a checksum of its own, too.
pub(crate) async fn segments(compression: &str, seed: u64, budget: Effort) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = tiered(compression).await;
    let expected = RightAnswers::of(&z).await;
    let objects: Vec<(String, Bytes)> = z.objects("segments/");
    let mut outcomes = Outcomes::default();
    while budget.allows(outcomes.total()) {
        let (key, bytes) = objects.choose(&mut rng).unwrap();
        let damage = Tampering::random(&mut rng, bytes.len());
        z.store().replace(BUCKET, key, damage.done_to(bytes).into());
        let found = read_back(&z, &expected).await;
        outcomes.count(found.map_err(|why| format!("{damage:?} of {key}: {why}"))?);
        z.store().replace(BUCKET, key, bytes.clone());
    }
    z.kill().await;
    Ok(format!("{outcomes} in {} objects", objects.len()))
}

/// Damages manifests before a start, with the volume or without.
pub(crate) async fn manifests(seed: u64, budget: Effort) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = tiered("zstd").await;
    z.flush_and_evict().await;
    let expected = RightAnswers::of(&z).await;
    assert_eq!(z.terminate().await, Some(0));
    let (files, nothing, objects) = (read_files(&z.data_dir()), VolumeFiles::new(), z.objects("manifests/"));
    let mut outcomes = Outcomes::default();
    while budget.allows(outcomes.total()) {
        let (key, bytes) = objects.choose(&mut rng).unwrap();
        let damage = Tampering::random(&mut rng, bytes.len());
        let is_kept = rng.random_bool(0.5);
        write_files(&z.data_dir(), if is_kept { &files } else { &nothing });
        z.store().replace(BUCKET, key, damage.done_to(bytes).into());
        let found = start_and_compare(&mut z, &expected).await;
        outcomes.count(found.map_err(|why| format!("{damage:?} of {key}, volume kept: {is_kept}: {why}"))?);
        // The start may have added some.
        z.objects("manifests/").iter().for_each(|(key, _)| z.store().delete(BUCKET, key));
        objects.iter().for_each(|(key, bytes)| z.store().replace(BUCKET, key, bytes.clone()));
    }
    Ok(format!("{outcomes} in {} objects", objects.len()))
}

/// Reads both tables at once.
async fn read_back(z: &TestServer, expected: &RightAnswers) -> Result<AnswerFound, String> {
    let mut found = AnswerFound::Right;
    for (table, expected) in &expected.0 {
        match ask(z.request(Method::GET, &format!("/tables/{table}?limit=1000"))).await {
            Some((StatusCode::OK, body)) if body["records"].as_array() == Some(expected) => {}
            Some((status, body)) if status.is_server_error() && body["code"] == "corrupt" => {
                found = AnswerFound::Error
            }
            wrong => {
                return Err(format!(
                    "{table}: {:?}",
                    wrong.map(|(status, body)| (status, body["code"].clone()))
                ));
            }
        }
    }
    Ok(found)
}
