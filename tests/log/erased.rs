//! An event that is erased while a copy of its shard is away: no file of any pod has it once that is done.

use std::{
    fs,
    path::{Path, PathBuf},
};

use contracts::{name::TableName, shards::shard_of};
use serde_json::{Value, json};
use testing::{TestServer, cluster::SHARDS, loaded::LoadedCluster, server::eventually};

/// The shard that is looked at: one is like the other.
const SHARD: u32 = 0;
/// What any file shows that has the event, a compressed one, too: no four bytes of it come twice.
const SECRET: &str = "AW3BhyfmncDdXZaVxZN9K";

/// A table in the shard.
fn table() -> String {
    let is_in_shard = |table: &String| shard_of(&TableName::parse(table).unwrap(), SHARDS) == SHARD;
    (0..).map(|number| format!("erased-{number}")).find(is_in_shard).unwrap()
}

/// The files below a directory that have the text. Files come and go.
fn files_with_secret(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let files = entries.map(|entry| entry.path()).flat_map(|path| {
        if path.is_dir() {
            return files_with_secret(&path);
        }
        let (text, bytes) = (SECRET.as_bytes(), fs::read(&path).unwrap_or_default());
        let has_it = bytes.windows(text.len()).any(|window| window == text);
        has_it.then_some(path).into_iter().collect()
    });
    files.collect()
}

/// Which pods have the text on their volumes.
fn holders(pods: &[TestServer]) -> Vec<usize> {
    (0..pods.len()).filter(|pod| !files_with_secret(&pods[*pod].data_dir()).is_empty()).collect()
}

/// What is said of an erasure.
async fn shown(pod: &TestServer, table: &str, id: &str) -> Value {
    pod.get(&format!("/tables/{table}/erase/{id}")).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_done_once_no_pods_volume_has_the_event_any_more() {
    let mut cluster = LoadedCluster::start().await;
    let table = table();
    // Three bytes at either end may go with what is around them.
    let event = json!({"payload": format!("payload-cUU{SECRET}WtU"), "partition": 0});
    let path = format!("/tables/{table}");
    eventually("an event is taken", async || cluster.pods[0].post(&path, &event).await.0.is_success()).await;
    eventually("both copies have it", async || holders(&cluster.pods).len() == 2).await;
    let (owner, follower) = (cluster.owner(SHARD).await, cluster.follower(SHARD).await);
    // At a start, what the write-ahead log holds goes into a table file, which is compressed.
    cluster.pods[follower].kill().await;
    cluster.pods[follower].run().await;
    let directory = cluster.pods[follower].data_dir();
    eventually("it is found in a table file", async || {
        let files = files_with_secret(&directory);
        files.iter().any(|file| file.extension().is_some_and(|extension| extension == "sst"))
    })
    .await;
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
