//! Who asks is found out where the client connects, and travels signed: nobody becomes anybody by a header.

use std::path::Path;

use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use testing::{
    TestCluster,
    server::{answer, eventually},
};
use zombi::auth::tokens::{NewToken, new_token};

const SECRET: &str = "a secret of the cluster, 32 bytes or more";

/// What the token `ci` may do in most tests: it owns the tables `table-*`, and nobody else may do anything.
const OWNER: &str =
    "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: owner, tables: [\"table-*\"]}\n";

/// A cluster with a policy, and the token `ci`.
async fn secured(directory: &Path, policy: &str) -> (TestCluster, String) {
    let NewToken { plain, line } = new_token("ci").unwrap();
    std::fs::write(directory.join("tokens.yaml"), format!("version: 1\ntokens:\n{line}\n")).unwrap();
    std::fs::write(directory.join("policy.yaml"), policy).unwrap();
    std::fs::write(directory.join("secret"), SECRET).unwrap();
    let path = |name: &str| directory.join(name).display().to_string();
    let cluster = TestCluster::start(&[
        ("auth.mode", "required"),
        ("auth.policy_file", &path("policy.yaml")),
        ("auth.tokens_file", &path("tokens.yaml")),
        ("auth.admin", "false"),
        ("cluster.secret_file", &path("secret")),
    ])
    .await;
    (cluster, plain)
}

#[tokio::test]
async fn the_pod_that_is_asked_lets_in_and_the_owner_believes_it() {
    let directory = TempDir::new().unwrap();
    let (cluster, token) = secured(directory.path(), OWNER).await;
    for owner in 0..3 {
        let table = cluster.table_of(owner);
        for pod in &cluster.pods {
            let path = format!("/tables/{table}");
            let body = json!({"payload": "x"});
            let write = || pod.request(Method::POST, &path).json(&body);
            let (status, problem) = answer(write().send().await.unwrap()).await;
            assert_eq!(status, 401, "{problem}");
            let (status, body) = answer(write().bearer_auth(&token).send().await.unwrap()).await;
            assert_eq!(status, 201, "{body}");
            let other = pod.request(Method::GET, "/tables/secret").bearer_auth(&token).send().await;
            assert_eq!(answer(other.unwrap()).await.0, 403);
        }
    }
}

#[tokio::test]
async fn nobody_is_a_pod_by_a_header() {
    let directory = TempDir::new().unwrap();
    let (cluster, token) = secured(directory.path(), OWNER).await;
    let table = cluster.table_of(0);
    for headers in [
        vec![("zombi-hop", "1")],
        vec![("zombi-principal", "token:ci")],
        vec![("zombi-hop", "1"), ("zombi-principal", "v1.e30.AAAA")],
    ] {
        for pod in &cluster.pods {
            let mut request = pod.request(Method::GET, &format!("/tables/{table}")).bearer_auth(&token);
            for (name, value) in &headers {
                request = request.header(*name, *value);
            }
            let (status, problem) = answer(request.send().await.unwrap()).await;
            assert_eq!(
                (status.as_u16(), &problem["code"]),
                (403, &json!("forbidden")),
                "{headers:?} {problem}"
            );
        }
    }
}

#[tokio::test]
async fn a_long_poll_holds_its_place_where_the_client_asks() {
    let directory = TempDir::new().unwrap();
    let policy = format!("{OWNER}quotas:\n  bindings:\n  - {{subjects: [\"token:ci\"], streams: 1}}\n");
    let (cluster, token) = secured(directory.path(), &policy).await;
    let (asked, path) = (&cluster.pods[0], format!("/tables/{}", cluster.table_of(1)));
    let write = asked.request(Method::POST, &path).json(&json!({"payload": "x"})).bearer_auth(&token);
    assert_eq!(answer(write.send().await.unwrap()).await.0, 201);
    let stream = asked.request(Method::GET, &path).header("accept", "text/event-stream").bearer_auth(&token);
    let stream = stream.send().await.unwrap();
    let poll = || asked.request(Method::GET, &format!("{path}?wait=30s")).bearer_auth(&token).send();
    let (status, problem) = answer(poll().await.unwrap()).await;
    assert_eq!((status.as_u16(), &problem["quota"]), (429, &json!("streams")), "{problem}");
    drop(stream);
    eventually("its place is given back", async || poll().await.unwrap().status() == 200).await;
}

#[tokio::test]
async fn what_a_body_asks_for_is_denied_by_any_pod_alike() {
    let directory = TempDir::new().unwrap();
    let policy =
        "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: producer, tables: [\"table-*\"]}\n";
    let (cluster, token) = secured(directory.path(), policy).await;
    let table = cluster.table_of(1);
    for pod in &cluster.pods {
        for (path, body) in [
            ("/consumers/g/commit", json!({"table": table, "offset": 0})),
            ("/consumers/g/reset", json!({"table": table, "to": "earliest"})),
        ] {
            let request = pod.request(Method::POST, path).json(&body).bearer_auth(&token);
            let (status, problem) = answer(request.send().await.unwrap()).await;
            assert_eq!((status.as_u16(), &problem["resource"]), (403, &json!("group g")), "{path} {problem}");
        }
    }
}
