//! A server that takes the tokens of an issuer, and the issuer's key server. The ServiceAccount
//! `shop/checkout` may do everything.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    answered::{AuthAnswer, decided},
    minted::{ISSUER, usual},
    secured::{entry, policy, token, tokens_file},
};
use testing::{
    TestServer,
    certificates::CertifiedServer,
    jwks::{JwksAnswer, JwksServer},
    server::{TestRequest, eventually},
};

/// Both.
pub(super) struct Federated {
    pub(super) z: TestServer,
    pub(super) jwks: JwksServer,
    directory: TempDir,
}

impl Federated {
    /// With the usual keys, and ready.
    pub(super) async fn start() -> Self {
        Self::start_with(usual(), &[]).await
    }

    /// With any keys and settings, and ready.
    pub(super) async fn start_with(answer: JwksAnswer, settings: &[(&str, &str)]) -> Self {
        let mut federated = Self::prepare(JwksServer::start(answer));
        for (key, value) in settings {
            federated.z.set(key, value);
        }
        federated.run().await;
        federated
    }

    /// Not started yet.
    pub(super) fn prepare(jwks: JwksServer) -> Self {
        let mut federated = Self::prepare_without_url(jwks);
        let ca = federated.file("authority.pem", &CertifiedServer::shared().authority.cert_pem);
        federated.z.set("auth.oidc.jwks_url", &federated.jwks.url());
        federated.z.set("auth.oidc.ca_file", &ca);
        federated
    }

    /// The same, and the server is not told where the keys are.
    pub(super) fn prepare_without_url(jwks: JwksServer) -> Self {
        let mut federated = Self::prepare_without_issuer(jwks);
        federated.z.set("auth.oidc.issuer", ISSUER);
        federated
    }

    /// The same, and it knows no issuer.
    pub(super) fn prepare_without_issuer(jwks: JwksServer) -> Self {
        let subjects = ["sa:shop/checkout", "sa:a/b", "oidc:alice", "token:ci"];
        let binding = json!({"subjects": subjects, "role": "owner", "tables": ["*"], "groups": ["*"]});
        let mut federated = Self { z: TestServer::hot(&[]), jwks, directory: TempDir::new().unwrap() };
        let policy = federated.file("policy.yaml", &policy(&[binding]));
        let tokens = federated.file("tokens.yaml", &tokens_file(&[entry("ci", &token("ci"))]));
        for (key, value) in [
            ("auth.mode", "required"),
            ("auth.policy_file", policy.as_str()),
            ("auth.tokens_file", tokens.as_str()),
        ] {
            federated.z.set(key, value);
        }
        federated
    }

    /// Puts a file in place, from one moment to the next; its path.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let (path, new) = (self.directory.path().join(name), self.directory.path().join("new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, &path).unwrap();
        path.display().to_string()
    }

    /// Starts it and waits until it is ready, the keys included.
    pub(super) async fn run(&mut self) {
        self.z.run().await;
        self.until_ready().await;
    }

    /// Starts it and waits until its store is open, whether it has keys or not.
    pub(super) async fn begin(&mut self) {
        self.z.begin("").await.unwrap();
        self.z.until("listening on the main port").await.unwrap();
        let static_token = token("ci");
        eventually("static tokens work", || async { self.decision(&static_token).await == "201" }).await;
    }

    /// Waits until the readiness probe is content.
    pub(super) async fn until_ready(&self) {
        eventually("it is ready", || async { self.readiness().await.0 == 200 }).await;
    }

    /// The status of the readiness probe, and its check `auth`; null if there is none.
    pub(super) async fn readiness(&self) -> (u16, Value) {
        let answer = decided(self.z.client.get(self.z.admin_url("/readyz?verbose"))).await;
        let checks = answer.body["checks"].as_array().cloned().unwrap_or_default();
        let check = checks.into_iter().find(|check| check["name"] == "auth");
        (answer.status, check.unwrap_or_default())
    }

    /// A write, without a credential.
    pub(super) fn append(&self) -> TestRequest {
        self.z.request(Method::POST, "/tables/t").json(&json!({"payload": 1}))
    }

    /// A write with a token.
    pub(super) async fn write(&self, token: &str) -> AuthAnswer {
        decided(self.append().header("authorization", format!("Bearer {token}"))).await
    }

    /// What is decided about a write with a token.
    pub(super) async fn decision(&self, token: &str) -> String {
        self.write(token).await.decision()
    }

    /// A write with a token must be decided so.
    pub(super) async fn expect(&self, what: &str, token: &str, due: &str) {
        self.write(token).await.expect(what, due);
    }

    /// A metric, the sum over its labels.
    pub(super) async fn metric(&self, name: &str) -> f64 {
        self.z.admin_metric(name).await
    }
}
