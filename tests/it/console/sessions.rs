//! Signing in and out.

use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use super::{Browser, POLICY, session_of};
use crate::auth::secured::{Secured, binding, entry, policy, token, tokens_file};
use testing::server::{PATIENCE, eventually};

async fn secured() -> Secured {
    let bindings = [binding("reader", "owner", &["t"], &["g"])];
    let s = Secured::start(&policy(&bindings), &["reader", "other"], &[]).await;
    assert_eq!(s.post("reader", "/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    s
}

#[tokio::test]
async fn whoever_is_not_known_is_asked_to_sign_in_and_comes_back() {
    let s = secured().await;
    let mut browser = Browser::at(&s.z);
    let page = browser.get("/").await;
    assert_eq!((page.status, page.header("location")), (StatusCode::SEE_OTHER, "/console"));
    let page = browser.get("/console/events?table=t&key=a%26b").await;
    assert_eq!(page.status, StatusCode::SEE_OTHER);
    let way = page.header("location").to_owned();
    assert_eq!(way, "/console/sign-in?next=/console/events%3Ftable%3Dt%26key%3Da%2526b");
    assert_eq!(page.header("content-security-policy"), POLICY);
    let form = browser.get(&way).await;
    assert_eq!(form.status, StatusCode::OK);
    assert!(form.shows("type=\"password\"") && form.shows("value=\"/console/events?table=t&amp;key=a%26b\""));

    let page = browser.sign_in(&token("reader")).await;
    assert_eq!((page.status, page.header("location")), (StatusCode::SEE_OTHER, "/console/tables"));
    let cookie = page.header("set-cookie");
    for part in ["; Path=/console", "; HttpOnly", "; SameSite=Strict", "; Max-Age=28"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "there is no TLS");
    assert!(!cookie.contains(&token("reader")[4..20]), "the token is in no cookie");
    assert_eq!(browser.get("/console/tables").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_in_an_address_is_refused_and_not_repeated() {
    let s = secured().await;
    for path in ["/console/tables?access_token=zmb_secret", "/console/sign-in?next=/console&token=zmb_secret"]
    {
        let answer = s.z.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        assert!(answer.headers().get("location").is_none(), "{path}");
        assert!(!answer.text().await.unwrap().contains("zmb_secret"), "{path}");
    }
}

#[tokio::test]
async fn behind_tls_the_cookie_goes_over_tls_only() {
    let s = secured().await;
    let browser = Browser::at(&s.z);
    let headers = [("x-forwarded-proto", "https"), ("sec-fetch-site", "same-origin")];
    let page = browser.post_from("/console/sign-in", &format!("token={}", token("reader")), &headers).await;
    assert!(page.header("set-cookie").ends_with("; Secure"), "{}", page.header("set-cookie"));
}

#[tokio::test]
async fn a_wrong_token_signs_nobody_in() {
    let s = secured().await;
    let browser = Browser::at(&s.z);
    let unknown = token("unknown");
    for wrong in [&*unknown, "", "zmb_x", "a.b.c", "%3Cscript%3E", "a%20b"] {
        let page = browser.post("/console/sign-in", &format!("token={wrong}")).await;
        assert_eq!(page.status, StatusCode::UNAUTHORIZED, "{wrong}: {}", page.text);
        assert!(page.shows("is not accepted") && !page.headers.contains_key("set-cookie"), "{}", page.text);
        assert!(!page.shows(&unknown) && !page.shows("<script>"), "{}", page.text);
    }
    let page = browser.post("/console/sign-in", &format!("token={}", "x".repeat(20_000))).await;
    assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_session_counts_below_the_console_only() {
    let s = secured().await;
    let mut browser = Browser::at(&s.z);
    browser.sign_in(&token("reader")).await;
    assert_eq!(browser.get("/console/api/tables/t").await.status, StatusCode::OK);
    for path in ["/tables/t", "/tables", "/consumers", "/stats"] {
        assert_eq!(browser.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let write = browser.request(Method::POST, "/tables/t").body(r#"{"payload":1}"#);
    assert_eq!(write.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let id = browser.cookie.clone().unwrap();
    let as_bearer = s.z.request(Method::GET, "/tables/t").bearer_auth(&id).send().await.unwrap();
    assert_eq!(as_bearer.status(), StatusCode::UNAUTHORIZED, "an id is no token");
    browser.cookie = Some(id.chars().rev().collect());
    assert_eq!(browser.get("/console/api/tables/t").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn signing_out_ends_the_session_and_what_is_live_by_it() {
    let s = secured().await;
    let mut browser = Browser::at(&s.z);
    browser.sign_in(&token("reader")).await;
    let request = browser.request(Method::GET, "/console/api/tables/t").header("accept", "text/event-stream");
    let mut live = request.send().await.unwrap().bytes_stream();
    let first = timeout(PATIENCE, live.next()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("\"payload\":1"));
    let page = browser.post("/console/sign-out", "").await;
    assert_eq!((page.status, page.header("location")), (StatusCode::SEE_OTHER, "/console/sign-in"));
    assert!(page.header("set-cookie").contains("Max-Age=0") && session_of(&page).is_none());
    let end = async { while live.next().await.is_some_and(|piece| piece.is_ok()) {} };
    timeout(PATIENCE, end).await.expect("the stream ends");
    assert_eq!(
        browser.get("/console/tables").await.status,
        StatusCode::SEE_OTHER,
        "the old cookie is worth nothing"
    );
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let mut s = secured().await;
    let mut browser = Browser::at(&s.z);
    browser.sign_in(&token("reader")).await;
    assert_eq!(browser.get("/console/tables").await.status, StatusCode::OK);
    s.tokens.swap(&tokens_file(&[entry("other", &token("other"))]));
    eventually("the token is no longer good", async || {
        s.get("reader", "/tables/t").await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(browser.get("/console/tables").await.status, StatusCode::SEE_OTHER, "so the session ends");
    s.tokens.swap(&tokens_file(&[entry("reader", &token("reader"))]));
    eventually("the token is good again", async || s.get("reader", "/tables/t").await.0 == StatusCode::OK)
        .await;
    assert_eq!(browser.get("/console/tables").await.status, StatusCode::SEE_OTHER, "but its session is over");
}

#[tokio::test]
async fn without_identity_there_is_nothing_to_sign_in_to() {
    let z = testing::TestServer::start().await;
    let browser = Browser::at(&z);
    for page in [browser.get("/console/sign-in").await, browser.post("/console/sign-in", "token=x").await] {
        assert_eq!((page.status, page.header("location")), (StatusCode::SEE_OTHER, "/console"));
        assert!(!page.headers.contains_key("set-cookie"));
    }
}
