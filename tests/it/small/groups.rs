//! Consumer groups are names that clients choose: bounded, and nothing that every manifest or scrape pays for
//! again.

use futures_util::{StreamExt, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::write_to;
use testing::{TestServer, server::eventually};

async fn commit(
    z: &TestServer,
    group: &str,
    partitions: impl IntoIterator<Item = u32>,
) -> (StatusCode, Value) {
    let commits: Vec<_> = partitions
        .into_iter()
        .map(|partition| json!({"table": "t", "partition": partition, "offset": 1}))
        .collect();
    z.post(&format!("/consumers/{group}/commit"), &json!({"commits": commits})).await
}

fn is_too_many(what: &str, (status, problem): (StatusCode, Value)) {
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("too_many_groups")), "{what}: {problem}");
}

#[tokio::test]
async fn there_are_so_many_groups_and_one_that_goes_makes_room() {
    let mut z = TestServer::start_with(&[("limits.groups", "3")]).await;
    assert_eq!(write_to(&z, "t", 0..4).await.0, StatusCode::CREATED);
    for group in ["a", "b", "c"] {
        assert_eq!(commit(&z, group, [0]).await.0, StatusCode::OK);
    }
    is_too_many("a fourth group", commit(&z, "d", [0]).await);
    assert_eq!(z.get("/consumers").await.1["groups"], json!(["a", "b", "c"]));
    assert_eq!(z.get("/consumers/d").await.0, StatusCode::NOT_FOUND);
    assert_eq!(commit(&z, "c", [0, 1, 2, 3]).await.0, StatusCode::OK, "those that are there go on");
    z.crash().await;
    is_too_many("a fourth group after a start", commit(&z, "d", [0]).await);
    assert!(z.delete("/consumers/b").await.0.is_success());
    assert_eq!(commit(&z, "d", [0]).await.0, StatusCode::OK, "where one has gone");
    is_too_many("one more again", commit(&z, "b", [0]).await);
}

#[tokio::test]
async fn there_are_so_many_offsets_of_groups_and_a_commit_gets_all_or_none() {
    let z = TestServer::start_with(&[("limits.group_offsets", "4")]).await;
    assert_eq!(write_to(&z, "t", 0..10).await.0, StatusCode::CREATED);
    assert_eq!(commit(&z, "g", 0..3).await.0, StatusCode::OK);
    is_too_many("two where one is left", commit(&z, "g", 3..5).await);
    is_too_many("an old one and two new ones", commit(&z, "g", [0, 3, 4]).await);
    for partition in [3, 4] {
        let (_, shown) = z.get(&format!("/consumers/g/offset?table=t&partition={partition}")).await;
        assert_eq!(shown["offset"], json!(null), "nothing of it was committed");
    }
    assert_eq!(commit(&z, "g", [3]).await.0, StatusCode::OK);
    is_too_many("a fifth", commit(&z, "g", [9]).await);
    assert_eq!(commit(&z, "g", 0..4).await.0, StatusCode::OK, "those that are there go on");
}

#[tokio::test]
async fn groups_that_have_not_moved_are_in_no_manifest_but_checkpoints_and_cost_a_scrape_little() {
    const GROUPS: usize = 600;
    let z = TestServer::start_tiered(&[]).await;
    assert_eq!(write_to(&z, "t", 0..2).await.0, StatusCode::CREATED);
    let name = |number: usize| format!("a-group-of-many-{number:04}");
    let commits = (0..GROUPS).map(|number| {
        let z = &z;
        async move { commit(z, &name(number), [0]).await.0 }
    });
    let answers: Vec<_> = stream::iter(commits).buffered(32).collect().await;
    assert!(answers.iter().all(|status| *status == StatusCode::OK));
    z.flush_and_evict().await;
    let said = |from: usize, group: usize| {
        let manifests = z.objects("manifests/");
        manifests.iter().skip(from).any(|(_, bytes)| holds(bytes, name(group).as_bytes()))
    };
    eventually("their offsets are in S3", || async { said(0, GROUPS - 1) }).await;

    let before = z.objects("manifests/").len();
    for round in 0..3 {
        assert_eq!(write_to(&z, "t", [0]).await.0, StatusCode::CREATED);
        assert_eq!(commit(&z, &name(round), [1]).await.0, StatusCode::OK);
        z.flush_and_evict().await;
    }
    eventually("those that have moved are in S3", || async { (0..3).all(|group| said(before, group)) }).await;
    let new = z.objects("manifests/").split_off(before);
    assert!(!new.is_empty());
    // One of them may be a checkpoint, which has everything.
    let large: Vec<_> =
        new.iter().filter(|(_, bytes)| bytes.len() > 10_000).map(|(key, bytes)| (key, bytes.len())).collect();
    assert!(large.len() <= 1, "600 groups, one of which has moved: {large:?}");

    let metrics = z.admin_metrics().await;
    let lags = metrics.lines().filter(|line| line.starts_with("zombi_consumer_lag_events{")).count();
    assert!((1..=200).contains(&lags), "{lags} groups are shown");
    all_come_back(z, GROUPS, name).await;
}

/// All of them are there after the volume is lost, from the last checkpoint and what changed since.
async fn all_come_back(mut z: TestServer, count: usize, name: impl Fn(usize) -> String) {
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    assert_eq!(z.get("/consumers").await.1["groups"].as_array().unwrap().len(), count);
    let (_, shown) = z.get(&format!("/consumers/{}/offset?table=t&partition=0", name(count - 1))).await;
    assert_eq!(shown["offset"], 1, "{shown}");
    let (_, shown) = z.get(&format!("/consumers/{}/offset?table=t&partition=1", name(2))).await;
    assert_eq!(shown["offset"], 1, "{shown}");
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
