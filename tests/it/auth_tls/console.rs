//! A session of the console over TLS.

use reqwest::{Certificate, Client, StatusCode, redirect::Policy};
use serde_json::json;

use super::Site;
use crate::auth::secured::{Secured, binding, policy, token};
use testing::server::PATIENCE;

#[tokio::test]
async fn a_session_over_tls_goes_over_tls_only() {
    let Some(site) = Site::new().await else { return };
    let (cert, key) = (site.server.cert.display().to_string(), site.server.key.display().to_string());
    let tls = [("tls.cert_file", cert.as_str()), ("tls.key_file", key.as_str())];
    let bindings = [binding("owner", "owner", &["t"], &["g"])];
    let s = Secured::start(&policy(&bindings), &["owner"], &tls).await;
    let authority = std::fs::read(&site.authority.own.cert).unwrap();
    let client = Client::builder()
        .tls_certs_only([Certificate::from_pem(&authority).unwrap()])
        .redirect(Policy::none())
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let base = format!("https://{}", s.z.address());
    let written = client.post(format!("{base}/tables/t")).bearer_auth(token("owner"));
    assert_eq!(written.json(&json!({"payload": "kept"})).send().await.unwrap().status(), StatusCode::CREATED);

    let form = client.post(format!("{base}/console/sign-in")).header("origin", &base);
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    let answer = form.body(format!("token={}", token("owner"))).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
    let (pair, _) = cookie.split_once(';').unwrap();

    let page = client.get(format!("{base}/console/events?table=t")).header("cookie", pair);
    let page = page.send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let text = page.text().await.unwrap();
    assert!(text.contains("kept") && text.contains("token:owner"), "{text}");
    assert!(text.contains(&format!("curl -s '{base}/tables/t")), "the command at the foot: {text}");
    let out = client.post(format!("{base}/console/sign-out")).header("origin", &base).header("cookie", pair);
    assert_eq!(out.send().await.unwrap().status(), StatusCode::SEE_OTHER);
    let after = client.get(format!("{base}/console/tables")).header("cookie", pair).send().await.unwrap();
    assert_eq!(after.status(), StatusCode::SEE_OTHER);
}
