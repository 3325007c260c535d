//! A client that speaks TLS, with the certificates that a test gives it.

use std::{error::Error, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, SupportedProtocolVersion,
    client::{Resumption, WantsClientCert},
    crypto::aws_lc_rs,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::certificates::{Authority, Certified};

/// Why something did not come about.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Whom it trusts, and what it shows of itself.
#[derive(Debug, Clone)]
pub struct TlsClient(ClientConfig);

impl TlsClient {
    /// Shows nothing.
    pub fn trusting(authority: &Authority) -> Self {
        Self::new(config(authority, &[&TLS13, &TLS12]).with_no_client_auth())
    }

    /// Shows nothing, and knows no TLS after 1.2.
    pub fn of_old(authority: &Authority) -> Self {
        Self::new(config(authority, &[&TLS12]).with_no_client_auth())
    }

    /// Shows a certificate.
    pub fn showing(certified: &Certified, authority: &Authority) -> Self {
        let (chain, key) = (vec![certified.certificate()], certified.private_key());
        let config = config(authority, &[&TLS13, &TLS12]).with_client_auth_cert(chain, key);
        Self::new(config.unwrap())
    }

    /// Every handshake is a whole one, so that it sees the certificate of now.
    fn new(mut config: ClientConfig) -> Self {
        config.resumption = Resumption::disabled();
        Self(config)
    }

    /// A handshake on a connected socket, in which `protocol` is agreed on.
    pub async fn shake(&self, socket: TcpStream, protocol: &str) -> Result<TlsStream<TcpStream>, Failure> {
        let server = ServerName::from(socket.peer_addr()?.ip());
        let mut config = self.0.clone();
        config.alpn_protocols = vec![protocol.into()];
        let stream = TlsConnector::from(Arc::new(config)).connect(server, socket).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        Ok(stream)
    }

    /// Connects, to send requests of `h2` or `http/1.1`.
    pub async fn open(&self, address: SocketAddr, protocol: &str) -> Result<HttpsConnection, Failure> {
        let stream = self.shake(TcpStream::connect(address).await?, protocol).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.expect("a server has a certificate").clone();
        let (authority, io) = (address.to_string(), TokioIo::new(stream));
        let sender = if protocol == "h2" {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Ok(HttpsConnection { certificate, authority, token: None, sender })
    }
}

fn config(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.own.certificate()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots)
}

/// A connection for requests, one after the other.
pub struct HttpsConnection {
    /// What the server has shown.
    pub certificate: CertificateDer<'static>,
    authority: String,
    token: Option<String>,
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl HttpsConnection {
    /// Shows this token with everything from now on.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// GET: the answer, its body as JSON, or as a string of JSON if it is none.
    pub async fn get(&mut self, path: &str) -> Result<Response<Value>, Failure> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// POST of JSON: likewise.
    pub async fn post(&mut self, path: &str, body: &Value) -> Result<Response<Value>, Failure> {
        self.send(Method::POST, path, body.to_string().into()).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Value>, Failure> {
        let request = Request::builder().method(method).header(header::CONTENT_TYPE, "application/json");
        let request = match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let request = request.uri(path).header(header::HOST, &self.authority);
                sender.ready().await?;
                sender.send_request(request.body(Full::new(body))?).await?
            }
            Sender::Http2(sender) => {
                let request = request.uri(format!("https://{}{path}", self.authority));
                sender.ready().await?;
                sender.send_request(request.body(Full::new(body))?).await?
            }
        };
        let (head, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Ok(Response::from_parts(head, value))
    }
}
