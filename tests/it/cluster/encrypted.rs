//! Between pods it is HTTPS as soon as the main port has a certificate.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::{
    TestCluster,
    certificates::{Authority, Certified},
    process::has,
    server::eventually,
    tls::{Failure, TlsClient},
};

/// A cluster whose pods have one certificate for all their addresses.
struct Encrypted {
    directory: TempDir,
    authority: Authority,
    pods: Certified,
    cluster: TestCluster,
}

impl Encrypted {
    /// `None` where there is no openssl. `trusted` is whom pods believe, if not who vouches for them.
    async fn start(trusted: Option<&Authority>, more: &[(&str, &str)]) -> Option<Self> {
        if !has("openssl").await {
            return None;
        }
        let directory = TempDir::new().unwrap();
        let authority = Authority::new(directory.path(), "authority");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (cert, key) = (path("pods.pem"), path("pods.key"));
        let own = authority.own.cert.display().to_string();
        let ca = trusted.unwrap_or(&authority).own.cert.display().to_string();
        let settings = [
            ("tls.cert_file", cert.as_str()),
            ("tls.key_file", key.as_str()),
            ("cluster.ca_file", ca.as_str()),
        ];
        let mut settings = [&settings[..], more].concat();
        if more.contains(&("tls.client_auth", "required")) {
            settings.push(("tls.client_ca_file", own.as_str()));
        }
        let mut cluster = TestCluster::stopped(&settings).await;
        let pods = authority.sign("pods", &names_of(&cluster));
        cluster.run().await;
        Some(Self { directory, authority, pods, cluster })
    }

    /// Another authority takes the place of the one before, in the same files, and vouches for other
    /// certificates.
    fn exchange(&mut self) {
        self.authority = Authority::new(self.directory.path(), "authority");
        self.pods = self.authority.sign("pods", &names_of(&self.cluster));
    }

    /// The status of a write, if there is an answer.
    async fn try_post(&self, pod: usize, path: &str, body: &Value) -> Result<StatusCode, Failure> {
        let client = TlsClient::showing(&self.pods, &self.authority);
        let mut connection = client.open(self.cluster.pods[pod].address(), "http/1.1").await?;
        Ok(connection.post(path, body).await?.status())
    }

    /// Asks a pod on a connection of its own, with the pods' certificate, for one that wants to see one.
    async fn post(&self, pod: usize, path: &str, body: &Value) -> (StatusCode, Value) {
        let client = TlsClient::showing(&self.pods, &self.authority);
        let mut connection = client.open(self.cluster.pods[pod].address(), "h2").await.unwrap();
        let answer = connection.post(path, body).await.unwrap();
        (answer.status(), answer.into_body())
    }

    async fn get(&self, pod: usize, path: &str) -> (StatusCode, Value) {
        let client = TlsClient::showing(&self.pods, &self.authority);
        let mut connection = client.open(self.cluster.pods[pod].address(), "http/1.1").await.unwrap();
        let answer = connection.get(path).await.unwrap();
        (answer.status(), answer.into_body())
    }
}

/// What the certificate of all pods says of them.
fn names_of(cluster: &TestCluster) -> String {
    let hosts = cluster.pods.iter().map(|pod| format!("IP:{}", pod.setting("host").unwrap()));
    format!("subjectAltName = {}", hosts.collect::<Vec<_>>().join(", "))
}

#[tokio::test]
async fn pods_believe_each_other_by_the_certificates_that_are_there_now() {
    let Some(mut site) = Encrypted::start(None, &[("tls.client_auth", "required")]).await else { return };
    let path = format!("/tables/{}", site.cluster.table_of(1));
    let body = json!({"payload": "x"});
    assert_eq!(site.post(0, &path, &body).await.0, StatusCode::CREATED);
    site.exchange();
    eventually("all pods use the new files", async || {
        let mut all = true;
        for pod in 0..3 {
            all &= site.try_post(pod, &path, &body).await.is_ok_and(|status| status == StatusCode::CREATED);
        }
        all
    })
    .await;
}

#[tokio::test]
async fn pods_speak_tls_with_each_other_and_show_a_certificate_where_one_is_asked_for() {
    for client_auth in ["none", "required"] {
        let Some(site) = Encrypted::start(None, &[("tls.client_auth", client_auth)]).await else { return };
        let table = site.cluster.table_of(1);
        for pod in 0..3 {
            let path = format!("/tables/{table}");
            let (status, body) = site.post(pod, &path, &json!({"payload": pod})).await;
            assert_eq!(status, StatusCode::CREATED, "{client_auth}: {body}");
        }
        for pod in 0..3 {
            let (_, page) = site.get(pod, &format!("/tables/{table}")).await;
            assert_eq!(page["count"], 3, "{client_auth}: {page}");
            let (status, list) = site.get(pod, "/tables").await;
            assert_eq!((status.as_u16(), &list["tables"][0]["table"]), (200, &json!(table)), "{list}");
        }
        let (status, report) = site.post(2, "/flush", &Value::Null).await;
        assert_eq!((status.as_u16(), &report["events"]), (200, &json!(3)), "{client_auth}: {report}");
    }
}

#[tokio::test]
async fn a_pod_that_nobody_vouches_for_is_asked_nothing() {
    if !has("openssl").await {
        return;
    }
    let directory = TempDir::new().unwrap();
    let stranger = Authority::new(directory.path(), "stranger");
    let Some(site) = Encrypted::start(Some(&stranger), &[]).await else { return };
    let of = |pod: usize| format!("/tables/{}", site.cluster.table_of(pod));
    let body = json!({"payload": "x"});
    let (status, answer) = site.post(0, &of(0), &body).await;
    assert_eq!(status, StatusCode::CREATED, "its own table needs no other pod: {answer}");
    let (status, problem) = site.post(0, &of(1), &body).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("forward_failed")), "{problem}");
    assert_eq!((&problem["outcome"], &problem["pod"]), (&json!("not_written"), &json!("zombi-1")));
}
