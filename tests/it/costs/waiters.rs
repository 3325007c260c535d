//! Waiters: long polls and tails, of another table and of another partition.

use std::ops::Range;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::TcpStream;

use super::{STILL, compare, operations::costs};
use testing::{TestServer, process::may_open, raw, server::eventually};

const WAITERS: usize = 1000;

async fn write(z: &TestServer, table: &str, partitions: Range<u32>) {
    for partition in partitions {
        let (status, body) =
            z.post(&format!("/tables/{table}"), &json!({"payload": "x", "partition": partition})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
}

/// So many who wait, for as long as their connections are held.
async fn wait(z: &TestServer, count: usize) -> Vec<TcpStream> {
    let (_, page) = z.get("/tables/quiet").await;
    let end = page["next_cursor"].as_str().unwrap();
    let kinds = [
        (format!("/tables/quiet?wait=600s&cursor={end}"), "application/json"),
        (format!("/tables/quiet?cursor={end}"), "text/event-stream"),
        ("/tables/t?wait=600s&partition=1&offset=1".to_owned(), "application/json"),
        ("/tables/t?partition=1&offset=1".to_owned(), "text/event-stream"),
    ];
    let waiters = kinds.iter().cycle().take(count).map(|(path, accept)| raw::get(z.address(), path, accept));
    let waiters = join_all(waiters).await;
    eventually("all are there", || async { z.metric("zombi_http_connections").await >= count as f64 }).await;
    waiters
}

#[tokio::test]
async fn nothing_costs_more_beside_a_thousand_who_wait_for_something_else() {
    if !may_open(4000) {
        return;
    }
    let settings =
        [STILL.as_slice(), &[("limits.wait_secs", "600"), ("limits.write_stall_secs", "600")]].concat();
    let mut z = TestServer::start_tiered(&settings).await;
    write(&z, "t", 0..2).await;
    write(&z, "quiet", 0..2).await;
    let waiters = wait(&z, 1).await;
    let one = costs(&mut z).await;
    drop(waiters); // they have ended with the process
    let waiters = wait(&z, WAITERS).await;
    let many = costs(&mut z).await;
    drop(waiters);
    compare(WAITERS, &one, &many, &[]);
}
