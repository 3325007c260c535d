//! Who waits for one partition is woken by that one, and by nothing that is written elsewhere.

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{Duration, sleep},
};

use super::write_to;
use testing::{
    TestServer,
    process::{may_open, processor_ticks},
    raw,
    server::eventually,
};

type Poll = JoinHandle<Result<reqwest::Response, reqwest::Error>>;

/// A cursor at the end of a read.
async fn end(z: &TestServer, path: &str) -> String {
    let (status, page) = z.get(path).await;
    assert_eq!((status, &page["has_more"]), (StatusCode::OK, &json!(false)), "{page}");
    page["next_cursor"].as_str().unwrap().to_owned()
}

fn poll(z: &TestServer, query: &str) -> Poll {
    tokio::spawn(z.request(Method::GET, &format!("/tables/t?wait=50s&{query}")).send())
}

async fn records(poll: Poll) -> Vec<Value> {
    let page: Value = poll.await.unwrap().unwrap().json().await.unwrap();
    page["records"].as_array().unwrap_or_else(|| panic!("{page}")).clone()
}

#[tokio::test]
async fn a_waiter_hears_of_its_partition_and_one_for_all_hears_of_every_one_new_ones_too() {
    let z = TestServer::start().await;
    assert_eq!(write_to(&z, "t", [0, 1]).await.0, StatusCode::CREATED);
    let mut tail = raw::get(
        z.address(),
        &format!("/tables/t?cursor={}", end(&z, "/tables/t").await),
        "text/event-stream",
    )
    .await;
    assert_eq!(raw::status(&raw::read_until(&mut tail, "\r\n\r\n").await), 200);
    // An old partition, one by its cursor, one that is not there yet, and all.
    for partition in [1, 0, 7, 1023] {
        let there =
            if partition < 2 { z.partition("t", partition).await["next"].as_u64().unwrap() } else { 0 };
        let by_offset = poll(&z, &format!("partition={partition}&offset={there}"));
        let by_cursor = poll(
            &z,
            &format!("cursor={}", end(&z, &format!("/tables/t?partition={partition}&offset={there}")).await),
        );
        let of_all = poll(&z, &format!("cursor={}", end(&z, "/tables/t").await));
        let other = if partition == 0 { 1 } else { 0 };
        let of_another = z.partition("t", other).await["next"].clone();
        let of_another = poll(&z, &format!("partition={other}&offset={of_another}"));
        sleep(Duration::from_millis(200)).await;
        let said = format!("news of {partition}");
        let (status, body) = z.post("/tables/t", &json!({"payload": said, "partition": partition})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        for waiter in [by_offset, by_cursor, of_all] {
            let records = records(waiter).await;
            assert_eq!((records.len(), &records[0]["payload"]), (1, &json!(said)), "partition {partition}");
        }
        assert!(
            raw::read_until(&mut tail, &said).await.contains(&said),
            "a tail does not hear of partition {partition}"
        );
        assert!(!of_another.is_finished(), "who waits for {other} was told of {partition}");
        z.post("/tables/t", &json!({"payload": "its own", "partition": other})).await;
        assert_eq!(records(of_another).await[0]["payload"], "its own");
        raw::read_until(&mut tail, "its own").await;
    }
}

#[tokio::test]
async fn a_waiter_is_told_of_what_is_written_while_it_comes() {
    let z = TestServer::start().await;
    assert_eq!(write_to(&z, "t", 0..4).await.0, StatusCode::CREATED);
    for round in 0..100 {
        let cursor = end(&z, "/tables/t?limit=1000").await;
        let waiters: Vec<_> = (0..4).map(|_| poll(&z, &format!("cursor={cursor}"))).collect();
        // Sometimes before the first of them is there, sometimes in between, sometimes behind all.
        sleep(Duration::from_micros(round % 10 * 200)).await;
        let record = json!({"payload": round, "partition": round % 6});
        assert_eq!(z.post("/tables/t", &record).await.0, StatusCode::CREATED);
        for waiter in waiters {
            assert_eq!(records(waiter).await[0]["payload"], round, "a waiter waits on");
        }
    }
}

/// Waits until the server has nothing more to do.
async fn is_quiet(z: &TestServer) {
    eventually("it is quiet", || async {
        let before = processor_ticks(z.pid());
        sleep(Duration::from_millis(500)).await;
        processor_ticks(z.pid()) - before <= 2
    })
    .await;
}

/// The processor's time for so many appends, one after the other.
async fn cost(z: &TestServer, table: &str) -> u64 {
    is_quiet(z).await;
    let before = processor_ticks(z.pid());
    for number in 0..500 {
        assert_eq!(
            z.post(&format!("/tables/{table}"), &json!({"payload": number})).await.0,
            StatusCode::CREATED
        );
    }
    processor_ticks(z.pid()) - before
}

#[tokio::test]
async fn a_thousand_who_wait_elsewhere_cost_an_append_nothing_and_all_hear_of_theirs() {
    if !may_open(4000) {
        return;
    }
    let z = TestServer::start_with(&[("limits.wait_secs", "600"), ("limits.write_stall_secs", "600")]).await;
    for table in ["busy", "quiet"] {
        assert_eq!(write_to(&z, table, [0, 1]).await.0, StatusCode::CREATED);
    }
    cost(&z, "busy").await; // the first ones make files and threads
    let alone = cost(&z, "busy").await;
    let quiet = end(&z, "/tables/quiet").await;
    // Pages and tails of another table, and of another partition of this one.
    let kinds = [
        (format!("/tables/quiet?wait=600s&cursor={quiet}"), "application/json"),
        (format!("/tables/quiet?cursor={quiet}"), "text/event-stream"),
        ("/tables/busy?wait=600s&partition=1&offset=1".to_owned(), "application/json"),
        ("/tables/busy?partition=1&offset=1".to_owned(), "text/event-stream"),
    ];
    let waiters = kinds.iter().cycle().take(1000).map(|(path, accept)| raw::get(z.address(), path, accept));
    let mut waiters: Vec<TcpStream> = join_all(waiters).await;
    eventually("all are there", || async { z.metric("zombi_http_connections").await >= 1000.0 }).await;
    let beside = cost(&z, "busy").await;
    assert!(
        beside <= 3 * alone + 20,
        "500 appends cost {alone} ticks, and {beside} beside 1,000 who wait for something else"
    );

    for (table, partition) in [("quiet", 0), ("busy", 1)] {
        let (status, _) =
            z.post(&format!("/tables/{table}"), &json!({"payload": "theirs", "partition": partition})).await;
        assert_eq!(status, StatusCode::CREATED);
    }
    for (number, waiter) in waiters.iter_mut().enumerate() {
        let said = raw::read_until(waiter, "theirs").await;
        assert!(raw::status(&said) == 200 && said.contains("theirs"), "waiter {number}: {said}");
    }
}
