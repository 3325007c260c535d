//! What a caller may not read: no pod tells whether it is there, by its own answer or by that of another.

use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use super::identity::secured_for;
use testing::{TestServer, server::answer};

#[tokio::test]
async fn no_pod_tells_whether_there_is_what_may_not_be_read() {
    let directory = TempDir::new().unwrap();
    let policy = "version: 1\nbindings:\n\
                  - {subjects: [\"token:ci\"], role: owner, tables: [\"table-*\"], groups: [g]}\n\
                  - {subjects: [\"token:boss\"], role: operator, tables: [\"*\"], groups: [\"*\"]}\n";
    let (cluster, [token, boss]) = secured_for(directory.path(), policy, ["ci", "boss"], &[]).await;
    let mut others = (0..).map(|number| format!("other-{number}"));
    let (mine, other) = (cluster.table_of(1), others.find(|name| cluster.owner(name) == 2).unwrap());
    let ask = async |pod: &TestServer, method: Method, path: &str| {
        let request = pod.request(method, path).header("x-request-id", "the-same").bearer_auth(&token);
        answer(request.send().await.unwrap()).await
    };
    let refusals = async || {
        let mut all = Vec::new();
        for pod in &cluster.pods {
            for end in ["", "/partitions", "/segments", "/config"] {
                all.push(ask(pod, Method::GET, &format!("/tables/{other}{end}")).await);
            }
            all.push(ask(pod, Method::DELETE, &format!("/tables/{other}")).await);
            all.push(ask(pod, Method::POST, &format!("/tables/{other}/flush")).await);
            all.push(ask(pod, Method::GET, &format!("/consumers/g/offset?table={other}")).await);
            all.push(ask(pod, Method::GET, "/consumers/hidden").await);
        }
        all
    };
    let missing = refusals().await;
    assert!(missing.iter().all(|(status, _)| *status == 403), "{missing:?}");
    let commits = json!({"commits": [{"table": mine, "offset": 1}, {"table": other, "offset": 1}]});
    let event = json!({"payload": "x"});
    for (path, body) in [
        (format!("/tables/{mine}"), &event),
        (format!("/tables/{other}"), &event),
        ("/consumers/g/commit".to_owned(), &commits),
        ("/consumers/hidden/commit".to_owned(), &commits),
    ] {
        let made = cluster.pods[0].request(Method::POST, &path).json(body).bearer_auth(&boss).send().await;
        assert!(made.unwrap().status().is_success(), "{path}");
    }
    assert_eq!(refusals().await, missing);
    for pod in &cluster.pods {
        assert_eq!(ask(pod, Method::GET, "/consumers").await.1, json!({"groups": ["g"]}));
        let (status, group) = ask(pod, Method::GET, "/consumers/g").await;
        assert_eq!(
            (status.as_u16(), &group["tables"]),
            (200, &json!([{"table": mine, "lag": 0}])),
            "{group}"
        );
        assert!(!group.to_string().contains(&other), "{group}");
    }
}
