//! Any page may make a browser send: one from elsewhere must not write, and a name that is not ours must not
//! lead here.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{JsonAnswer, ask, count, expect_problem};
use testing::TestServer;

async fn send(
    z: &TestServer,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> JsonAnswer {
    let request =
        headers.iter().fold(z.request(method, path), |request, (name, value)| request.header(*name, *value));
    ask(request.header("content-type", "application/json").body(body)).await
}

/// Requests that change something.
const WRITES: &[(Method, &str, &str)] = &[
    (Method::POST, "/tables/t", r#"{"payload":1}"#),
    (Method::POST, "/tables/t/bulk", r#"{"records":[{"payload":1}]}"#),
    (Method::POST, "/consumers/g/commit", r#"{"table":"t","offset":1}"#),
    (Method::POST, "/consumers/g/commit", r#"{"table":"t","offset":0,"force":true}"#),
    (Method::PUT, "/tables/t/config", r#"{"retention_secs":1}"#),
    (Method::DELETE, "/consumers/kept", ""),
    (Method::DELETE, "/tables/t", ""),
    (Method::POST, "/flush", ""),
    (Method::POST, "/tables/t/flush", ""),
];

#[tokio::test]
async fn a_page_from_elsewhere_changes_nothing() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 0})).await;
    z.post("/consumers/kept/commit", &json!({"table": "t", "offset": 1})).await;
    let ours = z.url("");
    let elsewhere: [&[(&str, &str)]; 8] = [
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://elsewhere.example")],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1:1")],
        &[
            ("origin", "https://elsewhere.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
        ],
        &[("origin", "http://127.0.0.1.elsewhere.example"), ("sec-fetch-site", "same-site")],
        // What the browser says of the page counts more than a name that may lead anywhere.
        &[("origin", &ours), ("sec-fetch-site", "cross-site")],
    ];
    for headers in elsewhere {
        for (method, path, body) in WRITES {
            let answer = send(&z, method.clone(), path, headers, body).await;
            let problem =
                expect_problem(format!("{method} {path} {headers:?}"), &answer, 403, "cross_origin");
            if path.starts_with("/tables/t") && *method == Method::POST && !path.ends_with("flush") {
                problem.with("outcome", "not_written");
            }
        }
        for path in ["/tables/t", "/tables", "/livez", "/docs/errors"] {
            let request = headers
                .iter()
                .fold(z.request(Method::GET, path), |request, (name, value)| request.header(*name, *value));
            assert_eq!(
                request.send().await.unwrap().status(),
                StatusCode::OK,
                "reading {path} changes nothing: {headers:?}"
            );
        }
    }
    // What a form of a page, or a script without leave, may send.
    for content_type in ["application/x-www-form-urlencoded", "text/plain", ""] {
        let request = z
            .request(Method::POST, "/tables/t")
            .header("sec-fetch-site", "cross-site")
            .header("content-type", content_type);
        expect_problem(content_type, &ask(request.body(r#"{"payload":1}"#)).await, 403, "cross_origin");
    }
    assert_eq!(count(&z, "t").await, 1);
    assert_eq!(z.get("/consumers").await.1, json!({"groups": ["kept"]}));
    assert_eq!(z.get("/tables/t/config").await.1["retention_secs"], json!(null));
}

#[tokio::test]
async fn our_own_pages_and_programs_write() {
    let z = TestServer::start_with(&[("http.origins", "https://console.example,https://other.example:8443")])
        .await;
    let ours = z.url("");
    let host = ours.trim_start_matches("http://");
    let behind_tls = format!("https://{host}");
    let allowed: [&[(&str, &str)]; 11] = [
        &[],
        &[("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
        &[("origin", &ours)],
        &[("origin", &behind_tls)],
        &[("origin", &ours), ("sec-fetch-site", "same-origin")],
        // A proxy may have another name than the page was loaded from.
        &[("origin", "https://events.example"), ("sec-fetch-site", "same-origin")],
        &[("origin", "https://console.example")],
        &[("origin", "https://console.example"), ("sec-fetch-site", "cross-site")],
        &[("origin", "https://other.example:8443"), ("sec-fetch-site", "same-site")],
        &[("referer", "https://elsewhere.example/")],
    ];
    for headers in allowed {
        let answer = send(&z, Method::POST, "/tables/t", headers, r#"{"payload":1}"#).await;
        assert_eq!(answer.0, StatusCode::CREATED, "{headers:?}: {}", answer.1);
    }
    for origin in [
        "http://console.example",
        "https://console.example:8443",
        "https://other.example",
        "https://console.example.elsewhere.example",
    ] {
        let answer = send(&z, Method::POST, "/tables/t", &[("origin", origin)], r#"{"payload":1}"#).await;
        expect_problem(origin, &answer, 403, "cross_origin");
    }
    assert_eq!(count(&z, "t").await, allowed.len());
}

#[tokio::test]
async fn only_the_names_that_are_listed_lead_here() {
    let z = TestServer::start_with(&[("http.hosts", "zombi,zombi.events.svc,events.example")]).await;
    let record = r#"{"payload":1}"#;
    for host in
        ["zombi", "zombi:8080", "ZOMBI", "zombi.events.svc:80", "Events.Example:443", "events.example"]
    {
        let answer = send(&z, Method::POST, "/tables/t", &[("host", host)], record).await;
        assert_eq!(answer.0, StatusCode::CREATED, "{host}: {}", answer.1);
        assert_eq!(
            send(&z, Method::GET, "/tables/t", &[("host", host)], "").await.0,
            StatusCode::OK,
            "{host}"
        );
    }
    for host in [
        "elsewhere.example",
        "127.0.0.1",
        "localhost:8080",
        "zombi.elsewhere.example",
        "xzombi",
        "events.example.org",
        "[::1]:8080",
    ] {
        for (method, path) in [
            (Method::POST, "/tables/t"),
            (Method::GET, "/tables/t"),
            (Method::DELETE, "/tables/t"),
            (Method::GET, "/tables"),
        ] {
            let answer = send(&z, method.clone(), path, &[("host", host)], record).await;
            expect_problem(format!("{method} {path} at {host}"), &answer, 421, "wrong_host")
                .saying("http.hosts");
        }
        // Those who probe know an address only.
        for path in ["/livez", "/readyz", "/startupz", "/health", "/healthz"] {
            assert_eq!(
                send(&z, Method::GET, path, &[("host", host)], "").await.0,
                StatusCode::OK,
                "{path} at {host}"
            );
        }
        let request = z.client.get(z.admin_url("/metrics")).header("host", host);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK, "the admin port at {host}");
    }
    // An origin that is the name itself proves nothing where the name is not ours.
    let headers = [("host", "elsewhere.example"), ("origin", "http://elsewhere.example")];
    expect_problem(
        "rebound",
        &send(&z, Method::POST, "/tables/t", &headers, record).await,
        421,
        "wrong_host",
    );
    let (_, page) = ask(z.request(Method::GET, "/tables/t").header("host", "zombi")).await;
    assert_eq!(page["count"], 6);
}

/// With DNS rebinding a page's name leads here. Its GETs have no `Origin`, and to `http://` no `Sec-Fetch-*`.
#[tokio::test]
async fn a_page_that_was_led_here_by_its_own_name_reads_nothing() {
    let z = TestServer::start_with(&[]).await;
    let record = r#"{"payload":1}"#;
    assert_eq!(send(&z, Method::POST, "/tables/t", &[], record).await.0, StatusCode::CREATED);
    let name = ("host", "rebound.example.com:8080");
    let of_a_browser = [name, ("accept", "*/*"), ("accept-language", "de-DE,de;q=0.9")];
    for path in ["/tables/t", "/tables", "/stats", "/metrics"] {
        let answer = send(&z, Method::GET, path, &of_a_browser, "").await;
        expect_problem(path, &answer, 421, "wrong_host");
        // Programs may use any name.
        assert_eq!(send(&z, Method::GET, path, &[name], "").await.0, StatusCode::OK, "{path}");
        let ours = [("accept-language", "de-DE,de;q=0.9")];
        assert_eq!(send(&z, Method::GET, path, &ours, "").await.0, StatusCode::OK, "{path}");
    }
}

/// The admin port has no list of names, and what is sent from a page of elsewhere changes nothing there
/// either.
#[tokio::test]
async fn the_admin_port_is_asked_by_any_name_and_written_to_by_no_foreign_page() {
    let z = TestServer::start_with(&[("http.hosts", "zombi")]).await;
    let ask_admin = async |method: Method, path: &str, origin: Option<&str>| {
        let request = z.client.request(method, z.admin_url(path)).header("host", "ops.example.com");
        let request = request.header("accept-language", "en").json(&json!({"level": "info"}));
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        ask(request).await
    };
    for path in ["/readyz", "/log/level"] {
        assert_eq!(ask_admin(Method::GET, path, None).await.0, StatusCode::OK, "{path}");
    }
    let same = ask_admin(Method::PUT, "/log/level", Some("http://ops.example.com")).await;
    assert_eq!(same.0, StatusCode::OK, "{}", same.1);
    let foreign = ask_admin(Method::PUT, "/log/level", Some("https://elsewhere.example.com")).await;
    expect_problem("a foreign page", &foreign, 403, "cross_origin");
}
