//! What changes something: only where the settings allow it, only from our own pages, only with the right.

use reqwest::StatusCode;
use serde_json::json;

use super::{Browser, fill};
use crate::auth::secured::{Secured, binding, policy, token};
use testing::TestServer;

const FORM: &str = "table=orders&to=earliest";

/// Where the group is.
async fn offset(z: &TestServer) -> u64 {
    let (_, shown) = z.get("/consumers/billing/offset?table=orders&partition=0").await;
    shown["offset"].as_u64().unwrap()
}

#[tokio::test]
async fn a_preview_shows_what_would_be_done_and_does_nothing() {
    let z = TestServer::start_with(&[("console.writes", "true")]).await;
    fill(&z).await;
    let browser = Browser::at(&z);
    let page = browser.get("/console/consumers/billing/reset?table=orders&to=earliest").await;
    assert!(page.shows("1 event to read again") && page.shows("Move the group now"), "{}", page.text);
    assert!(page.shows("To the first event that is there."), "{}", page.text);
    let (_, foot) = page.text.split_once("<footer").unwrap();
    assert!(foot.contains("&quot;dry_run&quot;:true"), "the same from a shell changes nothing: {foot}");
    let page = browser.get("/console/consumers/billing/reset?table=orders&to=latest").await;
    assert!(page.shows("1 event skipped"), "{}", page.text);
    let page = browser.get("/console/consumers/billing/reset?table=orders&to=time&value=17").await;
    let moment = "1970-01-01 00:00:00.017 UTC";
    assert!(page.shows("1 event to read again") && page.shows(moment), "{}", page.text);
    let page = browser.get("/console/consumers/billing/reset?table=orders&to=time&value=-1h").await;
    assert!(page.shows("1 event to read again") && page.shows("<time datetime="), "{}", page.text);
    let page = browser.get("/console/consumers/billing/reset?table=orders&to=offset&value=9").await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", page.text);
    for wrong in
        ["", "table=orders", "table=orders&to=time", "table=orders&to=x", "table=orders&to=offset&value=x"]
    {
        let page = browser.get(&format!("/console/consumers/billing/reset?{wrong}")).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{wrong}: {}", page.text);
    }
    assert_eq!(offset(&z).await, 1);
}

#[tokio::test]
async fn a_group_is_moved_from_our_own_page_only() {
    let z =
        TestServer::start_with(&[("console.writes", "true"), ("http.origins", "https://console.example")])
            .await;
    fill(&z).await;
    let browser = Browser::at(&z);
    let ours = z.url("");
    let elsewhere: [&[(&str, &str)]; 7] = [
        &[],
        &[("origin", "https://elsewhere.example")],
        &[("origin", "null")],
        &[("origin", "https://console.example")],
        &[("origin", &ours), ("sec-fetch-site", "cross-site")],
        &[("origin", &ours), ("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
    ];
    for headers in elsewhere {
        let page = browser.post_from("/console/consumers/billing/reset", FORM, headers).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{headers:?}: {}", page.text);
        assert!(page.shows("cross_origin"), "{headers:?}: {}", page.text);
    }
    assert_eq!(offset(&z).await, 1);
    let page = browser.post("/console/consumers/billing/reset", FORM).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.text);
    assert_eq!(page.header("location"), "/console/consumers/billing?moved=orders");
    assert_eq!(offset(&z).await, 0);
}

#[tokio::test]
async fn without_the_setting_nothing_is_changed() {
    let z = TestServer::start().await;
    fill(&z).await;
    let browser = Browser::at(&z);
    let preview = browser.get("/console/consumers/billing/reset?table=orders&to=earliest").await;
    assert!(preview.shows("console.writes") && !preview.shows("Move the group now"), "{}", preview.text);
    let (main, _) = preview.text.split_once("<footer").unwrap();
    assert!(main.contains("--json"), "the command that does it: {main}");
    assert!(!main.contains("dry_run"), "{main}");
    let page = browser.post("/console/consumers/billing/reset", FORM).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(page.shows("console.writes"), "{}", page.text);
    assert_eq!(offset(&z).await, 1);
}

#[tokio::test]
async fn who_may_commit_sees_the_preview_and_who_may_rewind_moves() {
    let bindings = [
        binding("reader", "consumer", &["orders"], &["billing"]),
        binding("owner", "owner", &["orders"], &["billing"]),
    ];
    let s = Secured::start(&policy(&bindings), &["reader", "owner"], &[("console.writes", "true")]).await;
    assert_eq!(s.post("owner", "/tables/orders", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    let commit = json!({"table": "orders", "offset": 1});
    assert_eq!(s.post("owner", "/consumers/billing/commit", &commit).await.0, StatusCode::OK);
    let mut browser = Browser::at(&s.z);
    let page = browser.post("/console/consumers/billing/reset", FORM).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "whoever is not known signs in: {}", page.text);
    assert!(page.header("location").starts_with("/console/sign-in"));
    browser.sign_in(&token("reader")).await;
    let preview = browser.get("/console/consumers/billing/reset?table=orders&to=earliest").await;
    assert!(preview.shows("1 event to read again"), "{}", preview.text);
    let page = browser.post("/console/consumers/billing/reset", FORM).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN, "{}", page.text);
    browser.sign_in(&token("owner")).await;
    let page = browser.post("/console/consumers/billing/reset", FORM).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.text);
    let (_, shown) = s.get("owner", "/consumers/billing/offset?table=orders").await;
    assert_eq!(shown["offset"], json!(0));
}
