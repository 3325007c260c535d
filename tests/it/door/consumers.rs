//! Consumer groups: one request says one thing of a partition, and what nobody has committed is all still to
//! be read.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::expect_problem;
use testing::{Sent, TestServer};

const COMMIT: &str = "/consumers/g/commit";

/// Commits of one request that name a partition twice, as it may be named.
fn commits_of_a_partition_twice() -> [Value; 8] {
    [
        json!([{"table": "t", "offset": 20}, {"table": "t", "offset": 12}]),
        json!([{"table": "t", "offset": 12}, {"table": "t", "offset": 20}]),
        json!([{"table": "t", "offset": 20}, {"table": "t", "offset": 20}]),
        json!([{"table": "t", "offset": 20}, {"topic": "t", "offset": 12}]),
        json!([{"topic": "t", "offset": 20}, {"topic": "t", "offset": 20}]),
        json!([{"table": "t", "offset": 20}, {"table": "t", "partition": 0, "offset": 12}]),
        json!([
            {"table": "t", "partition": 1, "offset": 20},
            {"table": "u", "offset": 1},
            {"topic": "t", "partition": 1, "offset": 21},
        ]),
        json!([
            {"table": "u", "offset": 3},
            {"table": "t", "offset": 20},
            {"table": "v", "offset": 0},
            {"table": "t", "offset": 12},
        ]),
    ]
}

#[tokio::test]
async fn a_request_that_names_a_partition_twice_commits_nothing() {
    let z = TestServer::start().await;
    for table in ["t", "u", "v"] {
        Sent::default().append(&z, table, 2, 60).await;
    }
    let twice = commits_of_a_partition_twice();
    let standing = async || {
        let at = async |table: &str, partition: u32| {
            z.get(&format!("/consumers/g/offset?table={table}&partition={partition}")).await.1["offset"]
                .clone()
        };
        [at("t", 0).await, at("t", 1).await, at("u", 0).await]
    };
    for before in [Value::Null, json!(10)] {
        if !before.is_null() {
            for (table, partition) in [("t", 0), ("t", 1), ("u", 0)] {
                let first = json!({"table": table, "partition": partition, "offset": 10});
                assert_eq!(z.post(COMMIT, &first).await.0, StatusCode::OK);
            }
        }
        for commits in &twice {
            for body in [
                json!({"commits": commits}),
                json!({"commits": commits, "force": true}),
                json!({"commits": commits, "force": false}),
            ] {
                expect_problem(&body, &z.post(COMMIT, &body).await, 400, "duplicate_commit");
                assert_eq!(standing().await, [before.clone(), before.clone(), before.clone()], "{body}");
            }
        }
        assert_eq!(
            z.get("/consumers").await.1["groups"].as_array().unwrap().len(),
            usize::from(!before.is_null())
        );
    }
    // The same number in two tables, and two partitions of one, are four places.
    let all: Vec<_> = [("t", 0), ("t", 1), ("u", 0), ("u", 1)]
        .iter()
        .map(|(t, p)| json!({"table": t, "partition": p, "offset": 21}))
        .collect();
    assert_eq!(z.post(COMMIT, &json!({"commits": all})).await.0, StatusCode::OK);
    assert_eq!(standing().await, [21, 21, 21]);
}

/// The lag of a group in a table as the metrics show it.
async fn metric(z: &TestServer, group: &str, table: &str) -> Option<f64> {
    let text = z.metrics().await;
    let name = format!("zombi_consumer_lag_events{{group=\"{group}\",table=\"{table}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map(|value| value.parse().unwrap())
}

/// Where a group stands in each partition of a table, and how much is left there, in every place that says
/// so.
async fn expect_lag(z: &TestServer, group: &str, table: &str, partitions: &[(Option<u64>, u64)], when: &str) {
    let (_, shown) = z.get(&format!("/consumers/{group}")).await;
    let offsets: Vec<_> =
        shown["offsets"].as_array().unwrap().iter().filter(|one| one["table"] == table).collect();
    assert_eq!(offsets.len(), partitions.len(), "{when}: {shown}");
    for (number, (offset, lag)) in partitions.iter().enumerate() {
        let wanted = json!({"table": table, "partition": number, "offset": offset, "lag": lag});
        assert!(offsets.contains(&&wanted), "{when}: no {wanted} in {shown}");
        let (_, one) = z.get(&format!("/consumers/{group}/offset?table={table}&partition={number}")).await;
        let wanted =
            json!({"group": group, "table": table, "partition": number, "offset": offset, "lag": lag});
        assert_eq!(one, wanted, "{when}");
    }
    let total: u64 = partitions.iter().map(|(_, lag)| lag).sum();
    let tables = shown["tables"].as_array().unwrap();
    assert!(tables.contains(&json!({"table": table, "lag": total})), "{when}: {total} in {table}: {shown}");
    let sum: u64 = tables.iter().map(|table| table["lag"].as_u64().unwrap()).sum();
    assert_eq!(shown["lag"], sum, "{when}: {shown}");
    assert_eq!(metric(z, group, table).await, Some(total as f64), "{when}");
}

#[tokio::test]
async fn partitions_that_a_group_never_committed_are_all_still_to_be_read() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 30).await;
    Sent::default().append(&z, "u", 2, 8).await;
    assert_eq!(
        z.get("/consumers/g/offset?table=t&partition=2").await.1["lag"],
        10,
        "before the group is there"
    );
    z.post(COMMIT, &json!({"table": "t", "partition": 1, "offset": 4})).await;
    expect_lag(&z, "g", "t", &[(None, 10), (Some(4), 6), (None, 10)], "one committed").await;
    let (_, shown) = z.get("/consumers/g").await;
    assert_eq!(shown["lag"], 26, "a table that the group never read is none of its own: {shown}");

    z.post(COMMIT, &json!({"table": "u", "offset": 0})).await;
    expect_lag(&z, "g", "u", &[(Some(0), 4), (None, 4)], "committed at the beginning").await;
    expect_lag(&z, "g", "t", &[(None, 10), (Some(4), 6), (None, 10)], "two tables").await;
    z.flush_and_evict().await;
    sent.append(&z, "t", 3, 3).await;
    expect_lag(&z, "g", "t", &[(None, 11), (Some(4), 7), (None, 11)], "partly in S3").await;
    z.crash().await;
    expect_lag(&z, "g", "t", &[(None, 11), (Some(4), 7), (None, 11)], "started again").await;
    z.post("/tables/t", &json!({"payload": 1, "partition": 3})).await;
    expect_lag(&z, "g", "t", &[(None, 11), (Some(4), 7), (None, 11), (None, 1)], "a new partition").await;
    let commits: Vec<_> = [11, 11, 11, 1]
        .iter()
        .enumerate()
        .map(|(p, offset)| json!({"table": "t", "partition": p, "offset": offset}))
        .collect();
    assert_eq!(z.post(COMMIT, &json!({"commits": commits})).await.0, StatusCode::OK);
    expect_lag(&z, "g", "t", &[(Some(11), 0), (Some(11), 0), (Some(11), 0), (Some(1), 0)], "all read").await;
}

#[tokio::test]
async fn what_cannot_be_read_any_more_is_no_lag() {
    let z = TestServer::start().await;
    Sent::default().append(&z, "t", 2, 20).await;
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    // Offsets go on: 10 and 11 of one partition, 10 to 12 of the other.
    for partition in [0, 0, 1, 1, 1] {
        z.post("/tables/t", &json!({"payload": 1, "partition": partition})).await;
    }
    z.post(COMMIT, &json!({"table": "t", "partition": 0, "offset": 11})).await;
    expect_lag(&z, "g", "t", &[(Some(11), 1), (None, 3)], "deleted and written again").await;
    z.post("/consumers/behind/commit", &json!({"table": "t", "partition": 0, "offset": 2})).await;
    expect_lag(&z, "behind", "t", &[(Some(2), 2), (None, 3)], "committed below what can be read").await;
}
