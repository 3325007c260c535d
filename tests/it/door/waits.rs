//! How long to wait, and how to ask the probes: in all the ways in which people and programs write it.

use reqwest::StatusCode;
use serde_json::json;

use super::{ask, expect_problem};
use testing::TestServer;

#[tokio::test]
async fn lengths_of_time_are_understood_or_answered_by_an_example() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    // There is an event, so nobody waits.
    for wait in
        ["0", "0s", "30", "30s", "500ms", "1m", "60", "60s", "61s", "90s", "2m", "600", "100000s", "100000"]
    {
        let (status, page) = z.get(&format!("/tables/t?wait={wait}")).await;
        assert_eq!((status, &page["count"]), (StatusCode::OK, &json!(1)), "{wait}: {page}");
    }
    for wait in ["0.5s", "0.5", "1.5m", "1h", "1m30s", "30S", "PT30S", "1500us"] {
        let answer = z.get(&format!("/tables/t?wait={wait}")).await;
        if answer.0 != StatusCode::OK {
            expect_problem(wait, &answer, 400, "bad_query").saying("wait").saying("30s");
        }
    }
    for wait in ["", "soon", "-1", "-1s", "s", "ms", "1x", "1%20s%20later", "true", "NaN", "inf"] {
        expect_problem(wait, &z.get(&format!("/tables/t?wait={wait}")).await, 400, "bad_query")
            .saying("wait")
            .saying("30s");
    }
}

#[tokio::test]
async fn a_longer_wait_is_shortened() {
    let z = TestServer::start_with(&[("limits.wait_secs", "1")]).await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    let cursor = z.get("/tables/t").await.1["next_cursor"].as_str().unwrap().to_owned();
    // An hour, and no more than the client's own patience of two minutes.
    for wait in ["3600", "3600s", "60m"] {
        let (status, page) = z.get(&format!("/tables/t?wait={wait}&cursor={cursor}")).await;
        assert_eq!(
            (status, &page["count"], &page["has_more"]),
            (StatusCode::OK, &json!(0), &json!(false)),
            "{wait}: {page}"
        );
    }
    // Proxies give up after 60 s.
    let other = TestServer::start().await;
    let (is_right, settings) = other.look(&["config", "print"]).await;
    assert!(is_right && settings.lines().any(|line| line.trim() == "wait_secs: 55"), "{settings}");
}

#[tokio::test]
async fn probes_and_metrics_do_not_mind_parameters() {
    let z = TestServer::start_tiered(&[]).await;
    for path in ["/livez", "/readyz", "/startupz", "/health", "/healthz", "/metrics"] {
        for query in
            ["verbose", "verbose=1", "verbose&exclude=etcd", "x=1&x=2", "=", "&&", "a=%zz", "name[]=up"]
        {
            for url in [z.url(path), z.admin_url(path)] {
                let response = z.client.get(format!("{url}?{query}")).send().await.unwrap();
                assert_eq!(response.status(), StatusCode::OK, "{url}?{query}");
            }
        }
    }
    for url in [z.url("/readyz?verbose"), z.admin_url("/readyz?verbose")] {
        let (_, body) = ask(z.client.get(url)).await;
        let checks = body["checks"].as_array().unwrap();
        let bucket = checks
            .iter()
            .find(|check| check["name"] == "bucket")
            .unwrap_or_else(|| panic!("no bucket in {body}"));
        assert!(bucket["status"] == "ok" && bucket["detail"].is_string(), "{body}");
    }
    // Elsewhere a parameter that nobody knows is a mistake.
    for path in ["/stats", "/consumers", "/tables", "/tables/t"] {
        expect_problem(path, &z.get(&format!("{path}?verbose")).await, 400, "bad_query");
    }
}
