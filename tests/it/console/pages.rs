//! What pages show and load, without identity.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Browser, POLICY, fill};
use testing::{TestServer, server::answer};

/// The pages that there are for what `fill` makes.
const PAGES: [&str; 12] = [
    "/",
    "/console",
    "/console/tables",
    "/console/tables/orders",
    "/console/events",
    "/console/events?table=orders",
    "/console/event?table=orders&partition=0&offset=1",
    "/console/consumers",
    "/console/consumers/billing",
    "/console/consumers/billing/reset?table=orders&to=earliest",
    "/console/health?all=1",
    "/console/shards",
];

#[tokio::test]
async fn every_page_says_what_it_may_load_and_loads_nothing_else() {
    let z = TestServer::start().await;
    fill(&z).await;
    let browser = Browser::at(&z);
    for path in PAGES {
        let page = browser.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert_eq!(page.header("content-security-policy"), POLICY, "{path}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(page.header("cache-control"), "no-store", "{path}");
        assert_eq!(page.header("referrer-policy"), "same-origin", "{path}");
        assert!(!page.headers.contains_key("set-cookie"), "{path}");
        assert!(page.shows("<!DOCTYPE html>") && page.shows("<main "), "{path}: {}", page.text);
        for word in [" style=", "<style", " onclick=", "javascript:", "<script>"] {
            assert!(!page.shows(word), "{path} has {word}");
        }
        for attribute in [" src=\"", " href=\""] {
            for target in page.text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(target.starts_with('/') || target.starts_with('#'), "{path} leads to {target}");
            }
        }
    }
}

#[tokio::test]
async fn what_pages_load_has_a_hash_in_its_name_and_is_kept() {
    let z = TestServer::start().await;
    let browser = Browser::at(&z);
    let page = browser.get("/console").await;
    let pieces = page.text.split('"').filter(|piece| piece.starts_with("/console/assets/"));
    let assets: std::collections::BTreeSet<_> = pieces.map(str::to_owned).collect();
    assert_eq!(assets.len(), 5, "{assets:?}");
    for path in assets {
        let asset = browser.get(&path).await;
        assert_eq!(asset.status, StatusCode::OK, "{path}");
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
        assert_eq!(asset.header("content-security-policy"), POLICY);
        assert_eq!(asset.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(browser.get("/console/assets/console-0.js").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_shown_can_be_asked_for_by_the_command_at_the_foot() {
    let z = TestServer::start().await;
    fill(&z).await;
    let browser = Browser::at(&z);
    let page = browser.get("/console/events?table=orders&key=k1&order=oldest").await;
    assert!(page.shows("<code>two</code>") || page.shows("two"), "{}", page.text);
    let path = "/tables/orders?key=k1&amp;limit=50";
    assert!(page.shows(&format!("curl -s '{}{path}'", z.url(""))), "{}", page.text);
    assert!(page.shows(&format!("{}/console/events?table=orders&amp;key=k1&amp;order=oldest", z.url(""))));
    let nothing = browser.get("/console/events?table=orders&key=other").await;
    assert!(nothing.shows("No event matches."), "{}", nothing.text);
    let group = browser.get("/console/consumers/billing").await;
    assert!(group.shows("1 event left to read"), "{}", group.text);
}

#[tokio::test]
async fn hostile_events_and_addresses_are_text() {
    let z = TestServer::start().await;
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    let records = [
        json!({"payload": evil, "key": evil, "headers": {"type": evil, "<b>": evil}}),
        json!({"payload": {evil: [evil, {"a": evil}]}}),
        json!({"payload_base64": "PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0PgD/"}),
    ];
    for record in records {
        assert_eq!(z.post("/tables/t", &record).await.0, StatusCode::CREATED);
    }
    let browser = Browser::at(&z);
    let coded = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%3E%3Cimg%20src%3Dx%3E";
    for path in [
        "/console/events?table=t".to_owned(),
        "/console/event?table=t&partition=0&offset=0".to_owned(),
        "/console/event?table=t&partition=0&offset=1".to_owned(),
        "/console/event?table=t&partition=0&offset=2".to_owned(),
        format!("/console/events?table=t&key={coded}&since={coded}&header={coded}"),
        format!("/console/events?table={coded}"),
        format!("/console/tables/{coded}"),
        format!("/console/tables?name={coded}"),
        format!("/console/consumers/{coded}"),
        format!("/console/consumers?name={coded}"),
        format!("/console/consumers/g/reset?table={coded}&to={coded}"),
        format!("/console/health?name={coded}"),
    ] {
        let page = browser.get(&path).await;
        assert!(page.shows("<main "), "{path}: {} {}", page.status, page.text);
        assert!(!page.shows("<script>") && !page.shows("<img src=x"), "{path}: {}", page.text);
        assert!(!page.shows("<b>\""), "{path}: {}", page.text);
        assert_eq!(page.header("content-security-policy"), POLICY, "{path}");
    }
    let page = browser.get("/console/event?table=t&partition=0&offset=0").await;
    assert!(page.shows("&lt;script&gt;alert(1)&lt;/script&gt;"), "{}", page.text);
}

#[tokio::test]
async fn the_api_of_the_console_only_reads() {
    let z = TestServer::start().await;
    fill(&z).await;
    for path in ["/tables", "/tables/orders", "/tables/orders/partitions", "/consumers/billing", "/readyz"] {
        let below = format!("/console/api{path}");
        assert_eq!(z.get(&below).await, z.get(path).await, "{path}");
    }
    for (method, path) in [
        (Method::POST, "/tables/orders"),
        (Method::DELETE, "/tables/orders"),
        (Method::PUT, "/tables/orders/config"),
        (Method::DELETE, "/consumers/billing"),
        (Method::PUT, "/log/level"),
    ] {
        let request = z.request(method.clone(), &format!("/console/api{path}")).body(r#"{"payload":1}"#);
        let (status, problem) = answer(request.send().await.unwrap()).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}: {problem}");
    }
    for path in ["/consumers/billing/reset", "/consumers/billing/commit", "/tables/orders/bulk", "/flush"] {
        let request = z.request(Method::POST, &format!("/console/api{path}")).body("{}");
        let (status, problem) = answer(request.send().await.unwrap()).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {problem}");
    }
    assert_eq!(z.get("/tables/orders").await.1["count"], json!(2));
}

#[tokio::test]
async fn the_console_can_be_switched_off() {
    let z = TestServer::start_with(&[("console.enabled", "false")]).await;
    for path in ["/", "/console", "/console/tables", "/console/api/tables", "/console/sign-in"] {
        let (status, problem) = z.get(path).await;
        assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("unknown_route")), "{path}");
    }
}

#[tokio::test]
async fn the_start_says_where_the_console_is() {
    let mut z = TestServer::hot(&[]);
    let log = z.try_run_log().await;
    let url = format!("url=http://localhost:{}/console", z.address().port());
    assert!(log.lines().any(|line| line.contains(" console ") && line.contains(&url)), "{log}");
}

#[tokio::test]
async fn settings_say_where_they_come_from() {
    let z = TestServer::start_with(&[("console.writes", "true")]).await;
    let (status, shown) = z.get("/settings").await;
    assert_eq!(status, StatusCode::OK, "{shown}");
    let of = |key: &str| shown["settings"].as_array().unwrap().iter().find(|one| one["key"] == key).cloned();
    let expected = json!({"key": "console.writes", "value": true, "source": "flags"});
    assert_eq!(of("console.writes"), Some(expected));
    let expected = json!({"key": "flush.interval_secs", "value": 5, "source": "default"});
    assert_eq!(of("flush.interval_secs"), Some(expected));
    let page = Browser::at(&z).get("/console/health").await;
    assert!(page.shows("console.writes") && !page.shows("flush.interval_secs"), "{}", page.text);
}

#[tokio::test]
async fn segments_and_the_state_of_s3_are_shown() {
    let z = TestServer::start_tiered(&[]).await;
    fill(&z).await;
    let browser = Browser::at(&z);
    let before = browser.get("/console").await;
    assert!(before.shows("On its way to S3"), "{}", before.text);
    z.flush_and_evict().await;
    let after = browser.get("/console").await;
    assert!(after.shows("Everything is in S3"), "{}", after.text);
    let table = browser.get("/console/tables/orders").await;
    assert!(table.shows("s3://events/"), "{}", table.text);
    let events = browser.get("/console/events?table=orders").await;
    assert!(events.shows("2 events"), "what is in S3 is read, too: {}", events.text);
}
