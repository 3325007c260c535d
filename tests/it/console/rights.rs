//! Each page shows what its visitor may see.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Browser, BrowserPage};
use crate::auth::secured::{NO_ONE, Secured, binding, policy, token};

/// Somebody who reads one table of two, and somebody who operates the server.
async fn secured() -> Secured {
    let bindings =
        [binding("reader", "consumer", &["mine"], &["mine-*"]), binding("boss", "operator", &["*"], &["*"])];
    let s = Secured::start(&policy(&bindings), &["reader", "boss", "nobody"], &[]).await;
    for table in ["mine", "theirs"] {
        let path = format!("/tables/{table}");
        assert_eq!(
            s.post("boss", &path, &json!({"payload": format!("of-{table}")})).await.0,
            StatusCode::CREATED
        );
        let commit = json!({"table": table, "offset": 1});
        let path = format!("/consumers/{table}-group/commit");
        assert_eq!(s.post("boss", &path, &commit).await.0, StatusCode::OK);
    }
    s
}

#[tokio::test]
async fn a_reader_sees_its_tables_and_groups_only() {
    let s = secured().await;
    let mut browser = Browser::at(&s.z);
    browser.sign_in(&token("reader")).await;
    for path in ["/console", "/console/tables", "/console/events", "/console/consumers", "/console/health"] {
        let page = browser.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(!page.shows("theirs"), "{path}: {}", page.text);
    }
    assert!(browser.get("/console/tables").await.shows(">mine<"));
    assert!(browser.get("/console/events?table=mine").await.shows("of-mine"));
    assert!(browser.get("/console").await.shows("need the right to"), "the numbers of the whole server");
    assert!(browser.get("/console").await.shows("token:reader"), "who one is");
    let forbidden = [
        "/console/tables/theirs",
        "/console/tables/missing",
        "/console/events?table=theirs",
        "/console/event?table=theirs&partition=0&offset=0",
        "/console/consumers/theirs-group",
        "/console/consumers/theirs-group/reset?table=theirs&to=earliest",
        "/console/numbers",
    ];
    for path in forbidden {
        let page = browser.get(path).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{path}: {}", page.text);
        assert!(!page.shows("of-theirs"), "{path}");
    }
    for path in ["/console/api/tables/theirs", "/console/api/stats", "/console/api/settings"] {
        assert_eq!(browser.get(path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(browser.get("/console/api/tables/mine").await.status, StatusCode::OK);
    let nobody = Browser::at(&s.z).get("/console/numbers").await;
    assert_eq!(nobody.status, StatusCode::SEE_OTHER, "{}", nobody.text);
}

#[tokio::test]
async fn an_operator_sees_all_and_who_has_no_right_sees_nothing() {
    let s = secured().await;
    let mut boss = Browser::at(&s.z);
    boss.sign_in(&token("boss")).await;
    let page = boss.get("/console").await;
    assert!(page.shows(">theirs<") && page.shows("Append p99"), "{}", page.text);
    assert!(boss.get("/console/health").await.shows("auth.mode"));
    let mut nobody = Browser::at(&s.z);
    nobody.sign_in(&token("nobody")).await;
    for path in ["/console", "/console/tables", "/console/events", "/console/consumers"] {
        let page = nobody.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(!page.shows("mine") && !page.shows("theirs"), "{path}: {}", page.text);
    }
}

#[tokio::test]
async fn a_bearer_token_works_as_everywhere() {
    let s = secured().await;
    let browser = Browser::at(&s.z);
    let request = browser.request(Method::GET, "/console/events?table=mine").bearer_auth(token("reader"));
    let page = BrowserPage::of(request.send().await.unwrap()).await;
    assert!(page.status == StatusCode::OK && page.shows("of-mine"), "{}", page.text);
    let request = browser.request(Method::GET, "/console/tables").bearer_auth("zmb_wrong");
    let page = BrowserPage::of(request.send().await.unwrap()).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{}", page.text);
}

#[tokio::test]
async fn each_page_is_for_each_role_that_may_ask_for_what_it_shows() {
    let roles = ["producer", "consumer", "owner", "operator"];
    let bindings = roles.map(|role| binding(role, role, &["t"], &["g"]));
    let everybody = [&roles[..], &["nobody"]].concat();
    let s = Secured::start(&policy(&bindings), &everybody, &[("console.writes", "true")]).await;
    assert_eq!(s.post("owner", "/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    let commit = json!({"table": "t", "offset": 1});
    assert_eq!(s.post("owner", "/consumers/g/commit", &commit).await.0, StatusCode::OK);
    let browser = Browser::at(&s.z);
    let as_who = |who: &str, method: Method, path: &str| {
        let request = browser.request(method, path).header("sec-fetch-site", "same-origin");
        if who == NO_ONE { request } else { request.bearer_auth(token(who)) }
    };
    let readers = ["consumer", "owner", "operator"];
    for path in [
        "/console/tables/t",
        "/console/events?table=t",
        "/console/event?table=t&partition=0&offset=0",
        "/console/consumers/g",
        "/console/consumers/g/reset?table=t&to=earliest",
    ] {
        for who in &everybody {
            let status = as_who(who, Method::GET, path).send().await.unwrap().status();
            let due = if readers.contains(who) { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(status, due, "{who} at {path}");
        }
        let status = as_who(NO_ONE, Method::GET, path).send().await.unwrap().status();
        assert_eq!(status, StatusCode::SEE_OTHER, "{path}: whoever is not known signs in");
    }
    for who in everybody {
        let form = as_who(who, Method::POST, "/console/consumers/g/reset");
        let form = form.header("content-type", "application/x-www-form-urlencoded");
        let status = form.body("table=t&to=earliest").send().await.unwrap().status();
        let may = ["owner", "operator"].contains(&who);
        let due = if may { StatusCode::SEE_OTHER } else { StatusCode::FORBIDDEN };
        assert_eq!(status, due, "{who} moves the group");
    }
}
