//! TLS on the main port: who is let in, certificates that change while requests run, and clients that stall.

mod admin;
mod clients;
mod console;
mod reload;
mod required;
mod stalls;
mod starts;

use std::{net::SocketAddr, path::Path};

use reqwest::{StatusCode, Version};
use serde_json::json;
use tempfile::TempDir;
use zombi::net::tls::settings::{ClientAuth, TlsSettings};

use testing::{
    TestServer,
    certificates::{Authority, Certified, THIS_MACHINE},
    process::has,
    tls::{Failure, TlsClient},
};

/// A server's certificate, and who vouches for it.
struct Site {
    directory: TempDir,
    authority: Authority,
    server: Certified,
}

impl Site {
    /// `None` where there is no openssl.
    async fn new() -> Option<Self> {
        if !has("openssl").await {
            return None;
        }
        let directory = TempDir::new().unwrap();
        let authority = Authority::new(directory.path(), "authority");
        let server = authority.sign("server", THIS_MACHINE);
        Some(Self { directory, authority, server })
    }

    /// A client that shows nothing.
    fn client(&self) -> TlsClient {
        TlsClient::trusting(&self.authority)
    }

    /// The settings of a certificate and its key.
    fn settings(&self) -> TlsSettings {
        TlsSettings {
            cert_file: Some(self.server.cert.clone()),
            key_file: Some(self.server.key.clone()),
            ..TlsSettings::default()
        }
    }

    /// The same settings, that ask clients for a certificate of the authority.
    fn asking(&self, client_auth: ClientAuth) -> TlsSettings {
        TlsSettings { client_ca_file: Some(self.authority.own.cert.clone()), client_auth, ..self.settings() }
    }

    /// A server with the certificate, and with more settings.
    async fn serve(&self, more: &[(&str, &str)]) -> TestServer {
        serve(&self.server.cert, &self.server.key, more).await
    }
}

async fn serve(cert: &Path, key: &Path, more: &[(&str, &str)]) -> TestServer {
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let pair = [("tls.cert_file", cert.as_str()), ("tls.key_file", key.as_str())];
    TestServer::start_with(&[&pair[..], more].concat()).await
}

/// One request on a connection of its own.
async fn ask(client: &TlsClient, address: SocketAddr) -> Result<StatusCode, Failure> {
    Ok(client.open(address, "http/1.1").await?.get("/livez").await?.status())
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_over_both_versions_of_tls() {
    let Some(site) = Site::new().await else { return };
    let z = site.serve(&[]).await;
    for client in [site.client(), TlsClient::of_old(&site.authority)] {
        for (protocol, version) in [("http/1.1", Version::HTTP_11), ("h2", Version::HTTP_2)] {
            let mut connection = client.open(z.address(), protocol).await.unwrap();
            let answer = connection.post("/tables/t", &json!({"payload": protocol})).await.unwrap();
            assert_eq!((answer.status(), answer.version()), (StatusCode::CREATED, version));
            let answer = connection.get("/tables/t").await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.body());
        }
    }
    let page = site.client().open(z.address(), "h2").await.unwrap().get("/tables/t").await.unwrap();
    assert_eq!(page.body()["count"], 4);
    let probe = z.client.get(z.admin_url("/readyz")).send().await.unwrap();
    assert_eq!(probe.status(), StatusCode::OK, "the admin port is plain");
}
