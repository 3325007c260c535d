//! A token is a secret: it is in no log, whatever is logged, in no trace, no metric, no answer and no file.

use std::path::{Path, PathBuf};

use reqwest::Client;
use serde_json::json;

use super::{
    answered::decided,
    federated::Federated,
    minted::{claims, claims_of, claims_with, good, minted, signed_by, usual},
};
use crate::telemetry::collector;
use testing::{
    jwks::{Issuer, JwksServer, base64url},
    server::{TestClient, TestRequest},
};

/// Where a client put it, and the request.
type Carried = (&'static str, TestRequest);

/// All ways in which it may come, right and wrong.
fn carried(client: &TestClient, federated: &Federated, token: &str) -> Vec<Carried> {
    let path = |path: &str| client.post(federated.z.url(path)).json(&json!({"payload": 1}));
    let with = |name: &str, value: String| path("/tables/t").header(name, value);
    let bearer = format!("Bearer {token}");
    let form = client.post(federated.z.url("/tables/t"));
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    vec![
        ("as it should", with("authorization", bearer.clone())),
        ("twice", with("authorization", bearer.clone()).header("authorization", bearer.clone())),
        ("as Basic", with("authorization", format!("Basic {token}"))),
        ("as the password", with("authorization", format!("Basic {}", base64url(format!("x:{token}"))))),
        ("without a scheme", with("authorization", token.to_owned())),
        ("cut", with("authorization", bearer[..bearer.len() - 4].to_owned())),
        ("9 KiB", with("authorization", format!("{bearer}{}", "A".repeat(9 << 10)))),
        ("in a cookie", with("cookie", format!("access_token={token}"))),
        ("in the query", path(&format!("/tables/t?access_token={token}"))),
        ("in the query, beside a right one", path(&format!("/tables/t?token={token}")).bearer_auth(good())),
        ("in a form", form.body(format!("access_token={token}"))),
        ("reading", client.get(federated.z.url("/tables/t")).header("authorization", bearer.clone())),
        (
            "on the admin port",
            client.get(federated.z.admin_url("/log/level")).header("authorization", bearer),
        ),
    ]
}

/// A token of each kind: let in, without rights, refused for this and that.
fn tokens() -> Vec<String> {
    let issuer = Issuer::shared();
    vec![
        good(),
        signed_by("ed25519", &claims()),
        minted(&claims_of("billing", "export")),
        minted(&claims_with(&json!({"exp": claims()["iat"]}))),
        minted(&claims_with(&json!({"aud": "elsewhere"}))),
        minted(&claims_with(&json!({"sub": 1}))),
        issuer.sign("rsa-next", issuer.header("rsa"), claims()),
        issuer.sign("rsa", json!({"alg": "RS256", "kid": "unknown"}), claims()),
        issuer.sign("rsa", json!({"alg": "none"}), claims()),
        issuer.sign("rsa", issuer.header("rsa"), "no JSON, and a secret nevertheless"),
    ]
}

/// The parts of a token that nobody else should have, and what they are as a password.
fn secrets(token: &str) -> Vec<String> {
    let mut secrets: Vec<String> = token.split('.').skip(1).map(str::to_owned).collect();
    secrets.push(base64url(format!("x:{token}")));
    secrets
}

fn files(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, all) } else { all.push(path) }
    }
}

/// Where a secret is found; nowhere, it is to be hoped.
fn holds(bytes: &[u8], secrets: &[String]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    secrets.iter().any(|secret| text.contains(secret))
}

#[tokio::test]
async fn a_token_is_in_no_log_trace_metric_answer_or_file() {
    let (endpoint, mut collected) = collector().await;
    let mut federated = Federated::prepare(JwksServer::start(usual()));
    federated.z.set("log.level", "trace");
    federated.z.environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint));
    federated.run().await;
    let http2 = Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let http1 = &federated.z.client;
    let (clients, tokens) = ([http1.clone(), http1.beside(http2)], tokens());
    let secrets: Vec<String> = tokens.iter().flat_map(|token| secrets(token)).collect();
    let mut refused = Vec::new();
    for (number, (client, token)) in
        clients.iter().flat_map(|client| tokens.iter().map(move |token| (client, token))).enumerate()
    {
        for (place, (what, request)) in carried(client, &federated, token).into_iter().enumerate() {
            let id = format!("secret-{number}-{place}-end");
            let answer = decided(request.header("x-request-id", &id)).await;
            assert!(!holds(answer.text().as_bytes(), &secrets), "{what}: {}", answer.text());
            assert!(answer.status < 500, "{what}: {}", answer.body);
            if answer.status >= 400 && what != "on the admin port" {
                refused.push(id);
            }
        }
    }
    assert!(!holds(federated.z.admin_metrics().await.as_bytes(), &secrets), "it is in the metrics");
    assert_eq!(federated.metric("zombi_log_lines_dropped_total").await, 0.0);
    let (code, log) = federated.z.terminate_with_log().await;
    assert_eq!(code, Some(0));
    for line in log.lines() {
        assert!(!holds(line.as_bytes(), &secrets), "it is in the log: {line}");
    }
    // The log is whole: it has a line of every request that was refused.
    assert!(log.contains("TRACE") && !refused.is_empty());
    for id in refused {
        assert!(log.contains(&id), "nothing is logged of {id}");
    }
    let mut traces = 0;
    while let Ok(body) = collected.try_recv() {
        assert!(!holds(&body, &secrets), "it is in the traces");
        traces += 1;
    }
    assert!(traces > 0, "traces were sent");
    let mut kept = Vec::new();
    files(federated.z.volume.path(), &mut kept);
    for path in kept {
        assert!(!holds(&std::fs::read(&path).unwrap(), &secrets), "it is in {}", path.display());
    }
}
