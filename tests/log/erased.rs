//! An event that is erased while a copy of its shard is away: no file of any pod has it once that is done.

use std::{fs, path::Path};

use contracts::{name::TableName, shards::shard_of};
use serde_json::{Value, json};
use testing::{TestServer, cluster::SHARDS, loaded::LoadedCluster, server::eventually};

/// The shard that is looked at: one is like the other.
const SHARD: u32 = 0;
/// A text that any file shows which has it: nothing in it repeats.
const SECRET: &str = "payload-5f0d8c71b3e9a264d07c";

/// A table in the shard.
fn table() -> String {
    let is_in_shard = |table: &String| shard_of(&TableName::parse(table).unwrap(), SHARDS) == SHARD;
    (0..).map(|number| format!("erased-{number}")).find(is_in_shard).unwrap()
}

/// Whether a file below a directory has the text. Files come and go.
fn has_secret(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| {
        let text = SECRET.as_bytes();
        let bytes = fs::read(&path).unwrap_or_default();
        if path.is_dir() { has_secret(&path) } else { bytes.windows(text.len()).any(|window| window == text) }
    })
}

/// Which pods have the text on their volumes.
fn holders(pods: &[TestServer]) -> Vec<usize> {
    (0..pods.len()).filter(|pod| has_secret(&pods[*pod].data_dir())).collect()
}

/// What is said of an erasure.
async fn shown(pod: &TestServer, table: &str, id: &str) -> Value {
    pod.get(&format!("/tables/{table}/erase/{id}")).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_done_once_no_pods_volume_has_the_event_any_more() {
    let mut cluster = LoadedCluster::start().await;
    let table = table();
    let event = json!({"payload": SECRET, "partition": 0});
    let path = format!("/tables/{table}");
    eventually("an event is taken", async || cluster.pods[0].post(&path, &event).await.0.is_success()).await;
    eventually("both copies have it", async || holders(&cluster.pods).len() == 2).await;
    let (owner, follower) = (cluster.owner(SHARD).await, cluster.follower(SHARD).await);
    cluster.pods[follower].kill().await;

    let (path, asked) = (format!("/tables/{table}/erase"), json!({"partition": 0, "offsets": [0]}));
    let mut id = String::new();
    eventually("an erasure is taken", async || {
        let (status, body) = cluster.pods[owner].post(&path, &asked).await;
        id = body["id"].as_str().unwrap_or_default().to_owned();
        status == 202
    })
    .await;
    let away = format!("zombi-{follower}");
    let mut last = Value::Null;
    eventually("it waits for the copy that is away", async || {
        last = shown(&cluster.pods[owner], &table, &id).await;
        last["trouble"].as_str().is_some_and(|trouble| trouble.contains(&away))
    })
    .await;
    assert_eq!(last["status"], "hot_done", "{last}");
    assert_eq!(holders(&cluster.pods), [follower], "{last}");
    cluster.goes_on().await;

    cluster.pods[follower].run().await;
    eventually("it is done", async || shown(&cluster.pods[owner], &table, &id).await["status"] == "done")
        .await;
    assert_eq!(holders(&cluster.pods), [0; 0]);
    cluster.check().await;
}
