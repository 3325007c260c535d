//! Small appends that pods pass on over one connection.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testing::{
    TestCluster, raw,
    server::{TestServer, answer},
};

/// Appends that are on their way at once.
const AT_ONCE: usize = 100;

/// Appends one event; its offset, and who owns it.
async fn append_one(pod: &TestServer, path: &str, number: usize) -> Result<(u64, String), Value> {
    let sent = pod.request(Method::POST, path).json(&json!({ "payload": number, "partition": 0 }));
    let response = sent.send().await.expect("the pod that is asked answers");
    let owner = response.headers().get("zombi-owner").map(|owner| owner.to_str().unwrap().to_owned());
    for name in ["x-request-id", "x-content-type-options", "cache-control", "content-security-policy"] {
        assert_eq!(response.headers().get_all(name).iter().count(), 1, "{name}");
    }
    let (status, told) = answer(response).await;
    if status == StatusCode::CREATED {
        Ok((told["offset"].as_u64().unwrap(), owner.unwrap()))
    } else {
        Err(told)
    }
}

#[tokio::test]
async fn many_small_appends_need_one_connection_to_their_owner() {
    let cluster = TestCluster::start(&[]).await;
    let path = format!("/tables/{}", cluster.table_of(1));
    let (asked, owner) = (&cluster.pods[0], &cluster.pods[1]);
    let before = owner.admin_metric("zombi_http_connections").await;
    let all = join_all((0..AT_ONCE).map(|number| append_one(asked, &path, number))).await;
    let offsets: BTreeSet<u64> = all
        .into_iter()
        .map(|appended| {
            let (offset, by) = appended.unwrap();
            assert_eq!(by, "zombi-1");
            offset
        })
        .collect();
    assert_eq!(offsets, (0..AT_ONCE as u64).collect());
    let more = owner.admin_metric("zombi_http_connections").await - before;
    assert!(more < 5.0, "{more} more connections for {AT_ONCE} appends at once");
    assert_eq!(asked.admin_metric("zombi_forwarded_requests_total").await as usize, AT_ONCE);
}

#[tokio::test]
async fn an_owner_that_stops_answers_every_append_that_it_has_been_sent() {
    let mut cluster = TestCluster::start(&[]).await;
    let path = format!("/tables/{}", cluster.table_of(1));
    append_one(&cluster.pods[0], &path, 0).await.unwrap();
    let [asked, owner, _] = &mut cluster.pods[..] else { panic!("three pods") };
    let asked = &*asked;
    let appending = async {
        let mut told = Vec::new();
        // Until it is gone.
        loop {
            let all = join_all((0..10).map(|number| append_one(asked, &path, number))).await;
            let is_gone = all.iter().any(Result::is_err);
            told.extend(all);
            if is_gone {
                return told;
            }
        }
    };
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(owner.terminate().await, Some(0));
    };
    let (told, ()) = tokio::join!(appending, stopping);
    for problem in told.into_iter().filter_map(Result::err) {
        assert_eq!(problem["outcome"], "not_written", "{problem}");
    }
}

#[tokio::test]
async fn a_client_that_is_no_pod_finds_no_trunk() {
    let cluster = TestCluster::start(&[]).await;
    for headers in ["", "expect: 100-continue\r\n"] {
        let headers = format!("transfer-encoding: chunked\r\n{headers}");
        let head = raw::post_head("/cluster/trunk/1", "application/octet-stream", &headers);
        let mut socket = raw::send(cluster.pods[0].address(), head).await;
        let told = raw::read_until(&mut socket, "\r\n\r\n").await;
        assert_eq!(raw::status(&told), 404, "{told}");
    }
}
