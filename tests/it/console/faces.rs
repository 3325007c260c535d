//! What pages show where something is missing, wrong or lost, and where there is much of it.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Browser, BrowserPage, POLICY, fill};
use crate::auth::secured::{NO_ONE, Secured, binding, policy, token, tokens_file};
use testing::{TestServer, server::eventually};

#[tokio::test]
async fn below_the_console_errors_are_pages() {
    let z =
        TestServer::start_with(&[("console.writes", "true"), ("http.hosts", "127.0.0.1,localhost")]).await;
    fill(&z).await;
    let browser = Browser::at(&z);
    let reset = "/console/consumers/billing/reset";
    for (method, path, headers, status, code) in [
        (Method::GET, "/console/nothing", &[][..], 404, "unknown_route"),
        (Method::POST, "/console/nothing/at/all", &[], 404, "unknown_route"),
        (Method::GET, "/console/assets/console-0.js", &[], 404, "unknown_route"),
        (Method::POST, "/console/tables", &[], 405, "method_not_allowed"),
        (Method::DELETE, "/console", &[], 405, "method_not_allowed"),
        (Method::GET, "/console", &[("host", "elsewhere.example")], 421, "wrong_host"),
        (Method::POST, reset, &[("origin", "https://elsewhere.example")], 403, "cross_origin"),
        (Method::POST, reset, &[("sec-fetch-site", "same-origin")], 415, "unsupported_media_type"),
    ] {
        let request =
            browser.request(method.clone(), path).body("{}").header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let page = BrowserPage::of(request.send().await.unwrap()).await;
        assert_eq!(page.status.as_u16(), status, "{method} {path}: {}", page.text);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8", "{method} {path}");
        assert_eq!(page.header("content-security-policy"), POLICY, "{method} {path}");
        assert!(page.shows("<main ") && page.shows(code), "{method} {path}: {}", page.text);
        assert!(!page.header("x-request-id").is_empty(), "{method} {path}");
        assert_eq!(page.headers.contains_key("allow"), status == 405, "{method} {path}");
    }
    let request = browser.request(Method::POST, reset).header("sec-fetch-site", "same-origin");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body("a b");
    let broken = BrowserPage::of(request.send().await.unwrap()).await;
    assert_eq!((broken.status, broken.shows("<main ")), (StatusCode::BAD_REQUEST, true), "{}", broken.text);
    for (method, path) in [
        (Method::GET, "/console/api/nothing"),
        (Method::POST, "/console/api/tables/orders"),
        (Method::GET, "/console/api/tables/nothing"),
        (Method::GET, "/nothing"),
    ] {
        let page = BrowserPage::of(browser.request(method.clone(), path).send().await.unwrap()).await;
        assert_eq!(page.header("content-type"), "application/problem+json", "{method} {path}");
    }
}

#[tokio::test]
async fn a_server_without_anything_says_how_to_begin_with_this_one() {
    let z = TestServer::start().await;
    let browser = Browser::at(&z);
    let command = format!("curl -s '{}/tables/events' --json", z.url(""));
    for path in ["/", "/console", "/console/tables", "/console/events"] {
        let page = browser.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        assert!(page.shows("There is no table yet") && page.shows(&command), "{path}: {}", page.text);
    }
    assert!(browser.get("/console/consumers").await.shows("There is no consumer group yet"));
    assert!(browser.get("/console/health").await.shows("No bucket is configured."));
}

#[tokio::test]
async fn pages_ask_for_no_more_than_the_settings_allow() {
    let z = TestServer::start_with(&[("limits.page_records", "7")]).await;
    fill(&z).await;
    let browser = Browser::at(&z);
    let page = browser.get("/console/events?table=orders").await;
    assert!(page.status == StatusCode::OK && page.shows("2 events"), "{}", page.text);
    assert!(page.shows("last=7") && page.shows("limit=7"), "what follows, too: {}", page.text);
    assert_eq!(browser.get("/console/tables/orders").await.status, StatusCode::OK);
    let more = browser.get("/console/events?table=orders&limit=50").await;
    assert!(more.shows("limit=50 is not from 1 to 7"), "{}", more.text);
}

#[tokio::test]
async fn what_is_live_has_its_command_beside_the_others() {
    let z = TestServer::start().await;
    fill(&z).await;
    let browser = Browser::at(&z);
    let page = browser.get("/console/events?table=orders&key=k1").await;
    let command =
        format!("curl -sN -H 'Accept: text/event-stream' '{}/tables/orders?key=k1&amp;last=50'", z.url(""));
    assert!(page.shows(&command) && page.shows("Copy as curl"), "{}", page.text);
    assert!(!browser.get("/console/tables").await.shows("text/event-stream"));
}

#[tokio::test]
async fn a_search_looks_beyond_the_first_page() {
    let z = TestServer::start().await;
    for number in 0..520 {
        let path = format!("/tables/table-{number:03}/config");
        assert_eq!(z.put(&path, &json!({})).await.0, StatusCode::CREATED, "{path}");
    }
    let page = Browser::at(&z).get("/console/tables?name=519").await;
    assert!(page.shows(">table-519<") && !page.shows(">table-518<"), "{}", page.text);
    assert!(!page.shows("More tables"), "{}", page.text);
}

#[tokio::test]
async fn the_groups_that_are_furthest_behind_come_first() {
    let z = TestServer::start().await;
    let records = json!({"records": (0..60).map(|n| json!({"payload": n})).collect::<Vec<_>>()});
    assert_eq!(z.post("/tables/t/bulk", &records).await.0, StatusCode::CREATED);
    for group in 0..60 {
        // The last by name is the furthest behind.
        let commit = json!({"table": "t", "offset": 60 - group});
        let (status, _) = z.post(&format!("/consumers/group-{group:02}/commit"), &commit).await;
        assert_eq!(status, StatusCode::OK);
    }
    let browser = Browser::at(&z);
    let page = browser.get("/console/consumers").await;
    assert!(page.shows(">group-59<") && !page.shows(">group-00<"), "{}", page.text);
    assert!(page.text.find(">group-59<") < page.text.find(">group-58<"), "{}", page.text);
    assert!(page.shows("10 groups that are behind less"), "{}", page.text);
    assert!(browser.get("/console/consumers?all=1").await.shows(">group-00<"));
}

#[tokio::test]
async fn what_was_lost_is_said_and_where() {
    let mut z = TestServer::start_tiered(&[]).await;
    fill(&z).await;
    z.flush_and_evict().await;
    let health = Browser::at(&z).get("/console/health").await;
    assert!(health.shows("Last manifest") && health.shows("number "), "{}", health.text);
    assert_eq!(z.post("/tables/orders", &json!({"payload": "gone"})).await.0, StatusCode::CREATED);
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    assert_eq!(z.post("/tables/orders", &json!({"payload": "after"})).await.0, StatusCode::CREATED);
    let lost = z.partition("orders", 0).await["lost"][0].clone();
    let (start, end) = (lost["start"].as_u64().unwrap(), lost["end"].as_u64().unwrap());
    assert_eq!(start, 2);
    let browser = Browser::at(&z);
    let table = browser.get("/console/tables/orders").await;
    assert!(table.shows("Lost with a volume") && table.shows("2 – "), "{}", table.text);
    assert!(end > start);
    eventually("the overview says so", async || {
        let page = browser.get("/console").await;
        page.shows("events were lost") && page.shows("data-verdict=\"warn\"")
    })
    .await;
    let (_, numbers) = z.get("/console/numbers").await;
    assert_eq!(numbers["verdict"]["first"], json!("Ready, but events were lost"), "{numbers}");
    assert!(numbers["stats"]["totals"]["lost_offsets"].as_u64().unwrap() > 0, "{numbers}");
    // What was flushed before this start is known after it.
    let overview = browser.get("/console").await;
    assert!(!overview.shows("none yet"), "{}", overview.text);
}

#[tokio::test]
async fn whoever_is_let_in_without_a_name_may_sign_in() {
    let open = json!({"subjects": ["*"], "anonymous": true, "role": "consumer", "tables": ["public"]});
    let bindings = [open, binding("boss", "operator", &["*"], &["*"])];
    let s = Secured::start(&policy(&bindings), &["boss"], &[]).await;
    for table in ["public", "secret"] {
        let path = format!("/tables/{table}");
        assert_eq!(s.post("boss", &path, &json!({"payload": 1})).await.0, StatusCode::CREATED);
    }
    assert_eq!(s.get(NO_ONE, "/tables/public").await.0, StatusCode::OK);
    let mut browser = Browser::at(&s.z);
    let page = browser.get("/console/tables").await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    assert!(page.shows(">public<") && !page.shows("secret"), "{}", page.text);
    assert!(page.shows("href=\"/console/sign-in?next=/console/tables\""), "{}", page.text);
    let form = browser.get("/console/sign-in?next=/console/tables").await;
    assert!(form.shows("type=\"password\"") && !form.shows("data-go") && !form.shows("kbd"), "{}", form.text);
    browser.sign_in(&token("boss")).await;
    let page = browser.get("/console/tables").await;
    assert!(page.shows(">secret<") && page.shows("Sign out") && !page.shows("/sign-in?"), "{}", page.text);
}

#[tokio::test]
async fn a_session_that_ends_after_a_preview_leads_back_to_it() {
    let bindings = [binding("owner", "owner", &["orders"], &["billing"])];
    let settings = [("console.writes", "true")];
    let mut s = Secured::start(&policy(&bindings), &["owner"], &settings).await;
    assert_eq!(s.post("owner", "/tables/orders", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    let mut browser = Browser::at(&s.z);
    browser.sign_in(&token("owner")).await;
    let preview = "/console/consumers/billing/reset?table=orders&to=offset&value=1&partition=0";
    assert_eq!(browser.get(preview).await.status, StatusCode::OK);
    s.tokens.swap(&tokens_file(&[]));
    eventually("the session ends", async || browser.get(preview).await.status == StatusCode::SEE_OTHER).await;
    let form = preview.split_once('?').unwrap().1;
    let page = browser.post("/console/consumers/billing/reset", form).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.text);
    let way = page.header("location").to_owned();
    let next = format!("value=\"{}\"", preview.replace('&', "&amp;"));
    assert!(way.starts_with("/console/sign-in?next="), "{way}");
    assert!(browser.get(&way).await.shows(&next), "{way} does not lead to {preview}");
}
