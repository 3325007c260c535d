//! Who asks is found out where the client connects, and travels signed: nobody becomes anybody by a header.

use std::path::Path;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::{
    TestCluster, TestServer, raw,
    server::{answer, eventually},
};
use tokio::io::AsyncWriteExt;
use zombi::{
    auth::tokens::{NewToken, new_token},
    cluster::{secret::SecretFile, ticket::Ticket},
};

/// An audit log of everything, as JSON.
const AUDITED: [(&str, &str); 2] = [("audit.log", "all"), ("log.format", "json")];
const SECRET: &str = "a secret of the cluster, 32 bytes or more";

/// What the token `ci` may do in most tests: it owns the tables `table-*`, and nobody else may do anything.
const OWNER: &str =
    "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: owner, tables: [\"table-*\"]}\n";

/// A cluster with a policy, and the token `ci`.
async fn secured(directory: &Path, policy: &str) -> (TestCluster, String) {
    let (cluster, [token]) = secured_for(directory, policy, ["ci"], &[]).await;
    (cluster, token)
}

/// A cluster with a policy, tokens and more settings.
pub(super) async fn secured_for<const N: usize>(
    directory: &Path,
    policy: &str,
    names: [&str; N],
    more: &[(&str, &str)],
) -> (TestCluster, [String; N]) {
    let tokens = names.map(|name| new_token(name).unwrap());
    let plain = tokens.each_ref().map(|NewToken { plain, .. }| plain.clone());
    let lines: Vec<&str> = tokens.iter().map(|NewToken { line, .. }| line.as_str()).collect();
    let file = format!("version: 1\ntokens:\n{}\n", lines.join("\n"));
    std::fs::write(directory.join("tokens.yaml"), file).unwrap();
    std::fs::write(directory.join("policy.yaml"), policy).unwrap();
    std::fs::write(directory.join("secret"), SECRET).unwrap();
    let path = |name: &str| directory.join(name).display().to_string();
    let (policy, tokens, secret) = (path("policy.yaml"), path("tokens.yaml"), path("secret"));
    let settings: [(&str, &str); 5] = [
        ("auth.mode", "required"),
        ("auth.policy_file", &policy),
        ("auth.tokens_file", &tokens),
        ("auth.admin", "false"),
        ("cluster.secret_file", &secret),
    ];
    let settings: Vec<(&str, &str)> = settings.into_iter().chain(more.iter().copied()).collect();
    let cluster = TestCluster::start(&settings).await;
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

/// What a pod has counted of the requests that it has passed on, by what became of them.
async fn passed_on(pod: &TestServer, result: &str) -> u64 {
    let metrics = pod.admin_metrics().await;
    let name = format!(r#"zombi_forwarded_requests_total{{result="{result}"}} "#);
    let count =
        metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("it is there from the start");
    count.parse().unwrap()
}

#[tokio::test]
async fn a_pod_that_another_does_not_believe_counts_that_and_no_denial() {
    let directory = TempDir::new().unwrap();
    let (mut cluster, token) = secured(directory.path(), OWNER).await;
    let path = format!("/tables/{}", cluster.table_of(1));
    let ask = async |pod: &TestServer| {
        let asked = pod.request(Method::GET, &path).bearer_auth(&token).send().await;
        let (status, problem) = answer(asked.unwrap()).await;
        assert_eq!((status.as_u16(), &problem["code"]), (403, &json!("forbidden")), "{problem}");
        (passed_on(pod, "answered").await, passed_on(pod, "refused").await)
    };
    let again = async |pod: &mut TestServer, key: &str, text: &str| {
        let file = directory.path().join(key);
        std::fs::write(&file, text).unwrap();
        assert_eq!(pod.terminate().await, Some(0));
        pod.set(key, &file.display().to_string());
        pod.run().await;
    };
    again(&mut cluster.pods[1], "auth.policy_file", &OWNER.replace("table-*", "other-*")).await;
    assert_eq!(ask(&cluster.pods[0]).await, (1, 0), "the owner's policy denies it, and it is believed");
    again(&mut cluster.pods[0], "cluster.secret_file", "another secret of the cluster, 32 bytes or more")
        .await;
    assert_eq!(ask(&cluster.pods[0]).await, (0, 1));
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

#[tokio::test]
async fn commits_of_which_one_is_denied_commit_nothing_in_any_shard() {
    let directory = TempDir::new().unwrap();
    let policy = "version: 1\nbindings:\n\
                  - {subjects: [\"token:ci\"], role: consumer, tables: [\"table-*\"], groups: [g]}\n\
                  - {subjects: [\"token:boss\"], role: operator, tables: [\"*\"], groups: [\"*\"]}\n";
    let (cluster, [token, boss]) = secured_for(directory.path(), policy, ["ci", "boss"], &[]).await;
    let mut others = (0..).map(|number| format!("other-{number}"));
    let (mine, other) = (cluster.table_of(1), others.find(|name| cluster.owner(name) == 2).unwrap());
    for table in [&mine, &other] {
        let write = cluster.pods[0].request(Method::POST, &format!("/tables/{table}"));
        let write = write.json(&json!({"payload": "x"})).bearer_auth(&boss).send().await;
        assert_eq!(write.unwrap().status(), 201);
    }
    for pod in &cluster.pods {
        for tables in [[&mine, &other], [&other, &mine]] {
            let commits = json!({"commits": tables.map(|table| json!({"table": table, "offset": 1}))});
            let commit = pod.request(Method::POST, "/consumers/g/commit").json(&commits).bearer_auth(&token);
            let (status, problem) = answer(commit.send().await.unwrap()).await;
            let denied = json!(format!("table {other}"));
            assert_eq!((status.as_u16(), &problem["resource"]), (403, &denied), "{problem}");
        }
        let group = pod.request(Method::GET, "/consumers/g").bearer_auth(&boss).send().await.unwrap();
        assert_eq!(group.status(), 404, "a shard has committed");
    }
}

/// A ticket of the token `ci` for a GET of a path at a pod, as a pod would sign it.
fn ticket(path: &str, pod: usize) -> Ticket {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    Ticket {
        principal: "token:ci".to_owned(),
        peer: [192, 0, 2, 7].into(),
        method: "GET".to_owned(),
        path: path.to_owned(),
        to: format!("zombi-{pod}"),
        exp: i64::try_from(now).unwrap() + 30,
    }
}

/// The status of a request that says that a pod passes it on.
async fn passed(
    pod: &TestServer,
    (method, path): (Method, &str),
    ticket: &Ticket,
    secret: &str,
) -> StatusCode {
    let ticket = ticket.signed(&SecretFile::parse(secret.as_bytes()).unwrap());
    let request = pod.request(method, path).header("zombi-hop", "1").header("zombi-principal", ticket);
    request.send().await.unwrap().status()
}

#[tokio::test]
async fn a_ticket_is_good_for_its_request_at_its_pod_for_a_while_and_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let (cluster, token) = secured(directory.path(), OWNER).await;
    let (pod, path) = (&cluster.pods[1], format!("/tables/{}", cluster.table_of(1)));
    let write = pod.request(Method::POST, &path).json(&json!({"payload": "x"})).bearer_auth(&token);
    assert_eq!(write.send().await.unwrap().status(), 201);
    let right = ticket(&path, 1);
    let get = || (Method::GET, path.as_str());
    assert_eq!(passed(pod, get(), &right, SECRET).await, 200);
    for (wrong, secret) in [
        (Ticket { method: "POST".to_owned(), ..right.clone() }, SECRET),
        (Ticket { path: path.clone() + "?limit=1", ..right.clone() }, SECRET),
        (Ticket { to: "zombi-0".to_owned(), ..right.clone() }, SECRET),
        (Ticket { exp: right.exp - 90, ..right.clone() }, SECRET),
        (Ticket { exp: right.exp + 90, ..right.clone() }, SECRET),
        (Ticket { principal: "token:nobody".to_owned(), ..right.clone() }, SECRET),
        (right.clone(), "another secret of the cluster, 32 bytes or more"),
    ] {
        assert_eq!(passed(pod, get(), &wrong, secret).await, 403, "{wrong:?}");
    }
    for other in [(Method::DELETE, path.as_str()), (Method::GET, "/tables")] {
        assert_eq!(passed(pod, other, &right, SECRET).await, 403);
    }
    // The client uses its connections again: what came with a ticket is not remembered on any of them.
    for _ in 0..5 {
        assert_eq!(passed(pod, get(), &right, SECRET).await, 200);
        assert_eq!(pod.request(Method::GET, &path).send().await.unwrap().status(), 401);
    }
}

#[tokio::test]
async fn what_one_principal_sees_through_a_connection_between_pods_the_next_does_not() {
    let directory = TempDir::new().unwrap();
    let policy = "version: 1\nbindings:\n\
                  - {subjects: [\"token:ci\"], role: owner, tables: [\"table-*\"]}\n\
                  - {subjects: [\"token:cd\"], role: owner, tables: [\"other-*\"]}\n";
    let (cluster, tokens) = secured_for(directory.path(), policy, ["ci", "cd"], &[]).await;
    let asked = &cluster.pods[0];
    for (token, prefix) in tokens.iter().zip(["table-", "other-"]) {
        for number in 0..12 {
            let write = asked.request(Method::POST, &format!("/tables/{prefix}{number}"));
            let write = write.json(&json!({"payload": "x"})).bearer_auth(token).send().await;
            assert_eq!(write.unwrap().status(), 201);
        }
    }
    for _ in 0..5 {
        for (token, prefix) in tokens.iter().zip(["table-", "other-"]) {
            let list = asked.request(Method::GET, "/tables").bearer_auth(token).send().await.unwrap();
            let (_, list) = answer(list).await;
            let names =
                list["tables"].as_array().unwrap().iter().map(|table| table["table"].as_str().unwrap());
            let names: Vec<&str> = names.collect();
            assert!(names.len() == 12 && names.iter().all(|name| name.starts_with(prefix)), "{names:?}");
        }
        assert_eq!(asked.request(Method::GET, "/tables").send().await.unwrap().status(), 401);
    }
}

#[tokio::test]
async fn flushes_are_counted_where_the_client_asks_and_a_name_is_none() {
    let directory = TempDir::new().unwrap();
    let policy = "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: owner, tables: [\"*\"]}\n\
                  quotas:\n  bindings:\n  - {subjects: [\"token:ci\"], flushes_per_min: 1}\n";
    let (cluster, token) = secured(directory.path(), policy).await;
    let write = async |pod: &TestServer, path: &str| {
        let request = pod.request(Method::POST, path).json(&json!({"payload": "x"})).bearer_auth(&token);
        answer(request.send().await.unwrap()).await
    };
    let asked = &cluster.pods[(cluster.owner("flush") + 1) % 3];
    for _ in 0..3 {
        let (status, body) = write(asked, "/tables/flush").await;
        assert_eq!(status, 201, "{body}");
    }
    let waits = "/tables/flush?wait%5Ffor=%63old";
    assert_eq!(write(asked, waits).await.0, 201);
    let (status, problem) = write(asked, waits).await;
    assert_eq!((status.as_u16(), &problem["quota"]), (429, &json!("flushes")), "{problem}");
}

#[tokio::test]
async fn the_audit_log_of_the_pod_that_is_asked_has_the_events_that_another_wrote() {
    let directory = TempDir::new().unwrap();
    let (mut cluster, [token]) = secured_for(directory.path(), OWNER, ["ci"], &AUDITED).await;
    let path = format!("/tables/{}/bulk", cluster.table_of(1));
    let body = json!({"records": [{"payload": "x"}, {"payload": "y"}, {"payload": "z"}]});
    let write = cluster.pods[0].request(Method::POST, &path).json(&body).bearer_auth(&token);
    let response = write.send().await.unwrap();
    assert!(!response.headers().contains_key("zombi-records"), "that is said between pods");
    assert_eq!(response.status(), 201);
    assert_eq!(audited(&mut cluster, "append").await, ["3"], "once, where the client asked");
}

/// How many events the audit logs of all pods name for what a verb does, pod by pod. Ends the pods.
async fn audited(cluster: &mut TestCluster, verb: &str) -> Vec<String> {
    let mut counts = Vec::new();
    for pod in &mut cluster.pods {
        let (_, log) = pod.terminate_with_log().await;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        for line in lines.filter(|line| line["target"] == "zombi::audit") {
            let field = |name: &str| line.get(name).unwrap_or_else(|| &line["fields"][name]).clone();
            if field("verb") == verb {
                counts.push(field("records").to_string().trim_matches('"').to_owned());
            }
        }
    }
    counts
}

#[tokio::test]
async fn the_audit_log_of_the_pod_that_is_asked_has_the_events_of_another_ones_streams() {
    let directory = TempDir::new().unwrap();
    let (mut cluster, [token]) = secured_for(directory.path(), OWNER, ["ci"], &AUDITED).await;
    let asked = &cluster.pods[0];
    let path = format!("/tables/{}", cluster.table_of(1));
    let body = json!({"records": [{"payload": "x"}, {"payload": "y"}, {"payload": "z"}]});
    let write = asked.request(Method::POST, &format!("{path}/bulk")).json(&body).bearer_auth(&token);
    assert_eq!(write.send().await.unwrap().status(), 201);
    let read = |accept: &str| asked.request(Method::GET, &path).header("accept", accept).bearer_auth(&token);
    let lines = read("application/x-ndjson").send().await.unwrap().text().await.unwrap();
    assert_eq!(lines.lines().count(), 3, "{lines}");
    // A client that leaves sees no end of its stream.
    let mut stream = read("text/event-stream").send().await.unwrap();
    let mut came = String::new();
    while !came.contains("caught-up") {
        came += &String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap());
    }
    drop(stream);
    assert_eq!(audited(&mut cluster, "read").await, ["3", "3"]);
}

#[tokio::test]
async fn a_body_holds_of_its_callers_quota_where_the_client_asks() {
    let directory = TempDir::new().unwrap();
    let policy =
        format!("{OWNER}quotas:\n  bindings:\n  - {{subjects: [\"token:ci\"], inflight_bytes: 100000}}\n");
    let (cluster, token) = secured(directory.path(), &policy).await;
    let path = format!("/tables/{}", cluster.table_of(1));
    for pod in &cluster.pods {
        // Of unknown length, and no stream: it is held as it comes.
        let headers = format!("authorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n");
        let head = raw::post_head(&path, "application/json", &headers);
        let mut socket = raw::send(pod.address(), head).await;
        let body = format!("{{\"payload\":\"{}\"}}", "x".repeat(200_000));
        // It may be refused before all of it is sent.
        drop(socket.write_all(&[raw::chunk(body.as_bytes()), raw::chunk(b"")].concat()).await);
        let came = raw::read_until(&mut socket, "}").await;
        let problem = raw::json(&came);
        assert_eq!((raw::status(&came), &problem["quota"]), (429, &json!("inflight")), "{came}");
        assert_eq!(problem["outcome"], "not_written", "{came}");
        // A stream is never there as a whole.
        let lines = pod.request(Method::POST, &path).header("content-type", "application/x-ndjson");
        let lines = lines.body("{\"payload\":1}\n".repeat(50_000)).bearer_auth(&token);
        let (status, body) = answer(lines.send().await.unwrap()).await;
        assert_eq!((status.as_u16(), &body["count"]), (201, &json!(50_000)), "{body}");
    }
}

#[tokio::test]
async fn a_path_of_any_length_is_passed_on() {
    let directory = TempDir::new().unwrap();
    let (cluster, token) = secured(directory.path(), OWNER).await;
    let long = format!("/tables/{}?x={}", cluster.table_of(1), "y".repeat(60_000));
    for pod in &cluster.pods {
        let (status, problem) =
            answer(pod.request(Method::GET, &long).bearer_auth(&token).send().await.unwrap()).await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_query")), "{problem}");
    }
}
