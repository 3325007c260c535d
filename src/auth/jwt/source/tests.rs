//! Fetching, in virtual time, from a server that is none.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use super::{super::signer::Signer, *};

const URL: &str = "https://issuer.example/keys";
const HOUR: Duration = Duration::from_secs(3600);

/// A server that answers with a JWKS, or with an error, after half a second.
#[derive(Default)]
struct FakeServer {
    answer: Mutex<Option<Value>>,
    fetches: AtomicUsize,
}

struct FakeFetch(Arc<FakeServer>);

#[async_trait]
impl FetchKeys for FakeFetch {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        self.0.fetches.fetch_add(1, SeqCst);
        sleep(Duration::from_millis(500)).await;
        let answer = self.0.answer.lock().clone();
        answer.map(|jwks| jwks.to_string().into_bytes()).ok_or_else(|| "away".to_owned())
    }
}

/// A source, its server and its task.
struct Rig {
    source: Arc<KeySource>,
    server: Arc<FakeServer>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    data_dir: tempfile::TempDir,
}

impl Rig {
    fn start(kids: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), kids)
    }

    fn start_in(data_dir: tempfile::TempDir, kids: &[&str]) -> Self {
        let server = Arc::new(FakeServer::default());
        let kept = KeptKeys::new(data_dir.path(), URL);
        let source = Arc::new(KeySource::of_url(Box::new(FakeFetch(Arc::clone(&server))), kept, HOUR));
        let stop = CancellationToken::new();
        let (running, stopped) = (Arc::clone(&source), stop.clone());
        let task = tokio::spawn(async move { running.run(stopped).await });
        let rig = Self { source, server, stop, task, data_dir };
        rig.serve(kids);
        rig
    }

    /// Serves keys with these names; without any, the server is away.
    fn serve(&self, kids: &[&str]) {
        let keys: Vec<Value> = kids.iter().map(|kid| Signer::p256().jwk(kid)).collect();
        *self.server.answer.lock() = (!keys.is_empty()).then(|| json!({ "keys": keys }));
    }

    fn fetches(&self) -> usize {
        self.server.fetches.load(SeqCst)
    }

    async fn find(&self, kid: &str) -> Result<(), CredentialRefusal> {
        self.source.find(Some(kid)).await.map(drop)
    }
}

async fn pass(secs: u64) {
    sleep(Duration::from_secs(secs)).await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_at_the_start_and_every_hour() {
    let rig = Rig::start(&["a"]);
    assert!(!rig.source.has_keys());
    assert_eq!(rig.find("a").await, Err(CredentialRefusal::Unavailable));
    pass(1).await;
    assert!(rig.source.has_keys());
    assert_eq!((rig.find("a").await, rig.fetches()), (Ok(()), 1));
    rig.serve(&["b"]);
    pass(3590).await;
    assert_eq!((rig.find("a").await, rig.fetches()), (Ok(()), 1));
    pass(20).await;
    assert_eq!((rig.find("b").await, rig.fetches()), (Ok(()), 2));
    assert_eq!(rig.find("a").await, Err(CredentialRefusal::UnknownKey));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_fetched_once_for_all_who_wait() {
    let rig = Rig::start(&["a"]);
    pass(60).await;
    rig.serve(&["a", "b"]);
    let mut waiting = JoinSet::new();
    for _ in 0..100 {
        let source = Arc::clone(&rig.source);
        waiting.spawn(async move { source.find(Some("b")).await.is_ok() });
    }
    assert!(waiting.join_all().await.into_iter().all(|found| found));
    assert_eq!(rig.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn made_up_names_cost_one_fetch_every_ten_seconds() {
    let rig = Rig::start(&["a"]);
    pass(60).await;
    let began = Instant::now();
    for n in 0..10_000 {
        assert_eq!(rig.find(&format!("made-up-{n}")).await, Err(CredentialRefusal::UnknownKey));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((rig.find("a").await, rig.fetches()), (Ok(()), 2));
    for n in 0..60 {
        pass(1).await;
        assert_eq!(rig.find(&format!("other-{n}")).await, Err(CredentialRefusal::UnknownKey));
    }
    assert!((6..=8).contains(&rig.fetches()), "{}", rig.fetches());
}

#[tokio::test(start_paused = true)]
async fn failed_fetches_count_too_and_are_retried() {
    let rig = Rig::start(&[]);
    pass(55).await;
    assert!((5..=6).contains(&rig.fetches()), "{}", rig.fetches());
    assert!(!rig.source.has_keys());
    rig.serve(&["a"]);
    pass(11).await;
    assert_eq!(rig.find("a").await, Ok(()));
    rig.serve(&[]);
    pass(30).await;
    let fetches = rig.fetches();
    for _ in 0..2 {
        assert_eq!(rig.find("b").await, Err(CredentialRefusal::UnknownKey));
    }
    assert_eq!((rig.find("a").await, rig.fetches()), (Ok(()), fetches + 1));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_not_found_is_remembered_for_ten_seconds() {
    let rig = Rig::start(&["a"]);
    pass(60).await;
    assert_eq!(rig.find("b").await, Err(CredentialRefusal::UnknownKey));
    // The last fetch began more than ten seconds ago, and ended less than ten ago.
    sleep(Duration::from_millis(9_700)).await;
    rig.serve(&["a", "b"]);
    assert_eq!((rig.find("b").await, rig.fetches()), (Err(CredentialRefusal::UnknownKey), 2));
    pass(1).await;
    assert_eq!((rig.find("b").await, rig.fetches()), (Ok(()), 3));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_leaves_the_keys_as_they_were() {
    let rig = Rig::start(&["a"]);
    pass(60).await;
    for bad in [json!([]), json!({ "keys": [] }), json!({ "keys": [{ "kty": "oct", "k": "AA" }] })] {
        *rig.server.answer.lock() = Some(bad);
        let fetches = rig.fetches();
        pass(3700).await;
        assert!(rig.fetches() > fetches);
        assert_eq!(rig.find("a").await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_without_the_server_has_the_keys_that_were_kept() {
    let rig = Rig::start(&["a"]);
    while !rig.data_dir.path().join("auth/jwks.json").exists() {
        pass(1).await;
    }
    rig.stop.cancel();
    rig.task.await.unwrap();
    let again = Rig::start_in(rig.data_dir, &[]);
    assert!(again.source.has_keys());
    assert_eq!(again.find("a").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_task_that_has_ended() {
    let rig = Rig::start(&["a"]);
    pass(60).await;
    let source = Arc::clone(&rig.source);
    let waiting = tokio::spawn(async move { source.find(Some("b")).await.map(drop) });
    sleep(Duration::from_millis(100)).await;
    rig.stop.cancel();
    rig.task.await.unwrap();
    let began = Instant::now();
    assert_eq!(waiting.await.unwrap(), Err(CredentialRefusal::UnknownKey));
    assert_eq!(rig.source.find(Some("c")).await.map(drop), Err(CredentialRefusal::UnknownKey));
    assert!(began.elapsed() < Duration::from_millis(100));
    assert_eq!(rig.source.find(Some("a")).await.map(drop), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_even_if_nobody_fetches() {
    let data_dir = tempfile::tempdir().unwrap();
    let kept = KeptKeys::new(data_dir.path(), URL);
    let source = KeySource::of_url(Box::new(FakeFetch(Arc::default())), kept, HOUR);
    let jwks = json!({ "keys": [Signer::p256().jwk("a")] }).to_string();
    assert_eq!(source.replace(jwks.as_bytes()), Ok(true));
    let began = Instant::now();
    assert_eq!(source.find(Some("b")).await.map(drop), Err(CredentialRefusal::UnknownKey));
    assert!(began.elapsed() < 2 * PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn the_keys_of_a_file_are_replaced_and_never_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let jwks = |kid: &str| json!({ "keys": [Signer::p256().jwk(kid)] }).to_string();
    let settings = OidcSettings { jwks_file: Some(path.clone()), ..OidcSettings::default() };
    let error = KeySource::open(&settings, dir.path()).unwrap_err().to_string();
    assert!(error.contains("jwks.json"), "{error}");
    std::fs::write(&path, "{}").unwrap();
    let error = KeySource::open(&settings, dir.path()).unwrap_err().to_string();
    assert!(error.contains("jwks.json") && error.contains("no list of keys"), "{error}");
    std::fs::write(&path, jwks("a")).unwrap();
    let source = KeySource::open(&settings, dir.path()).unwrap();
    assert_eq!(source.replace(jwks("a").as_bytes()), Ok(false));
    assert!(source.replace(b"{}").is_err() && source.has_keys());
    assert_eq!(source.find(Some("b")).await.map(drop), Err(CredentialRefusal::UnknownKey));
    assert_eq!(source.replace(jwks("b").as_bytes()), Ok(true));
    assert_eq!(source.find(Some("b")).await.map(drop), Ok(()));
    let stop = CancellationToken::new();
    stop.cancel();
    source.run(stop).await;
}
