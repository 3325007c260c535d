//! Zombi's own client: requests that are tried again while that can help, cursors, server-sent events that
//! resume, and refusals as sentences. What is asked, and what is done with the answer, is the commands'.

mod pages;
mod refusal;
mod request;
mod retry;
pub mod sse;
mod tail;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Certificate, Client, Response, StatusCode, Url,
    header::{self, HeaderValue},
    redirect,
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use self::retry::Retry;
pub(super) use self::{
    pages::{LostOffsets, PageReader},
    refusal::Refusal,
    request::{ClientRequest, Repeat},
    retry::Patience,
    tail::{Follower, TailItem},
};
use super::output::StatusLine;
use contracts::error::with_causes;

/// The server that is asked if nobody says which.
const DEFAULT_URL: &str = "http://localhost:8080";
/// How long a connection may take; one to an address that swallows packets would take minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is kept in memory. A page of the server has 8 MiB unless its settings say more.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// The longest file of a token or of certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The server cannot be reached, or breaks off.
    #[error("{server}: {why}")]
    Unreachable {
        /// Where it should be.
        server: String,
        /// What happened, with its causes.
        why: String,
    },
    /// The server says no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// What came is not what Zombi answers.
    #[error("{server} does not answer as Zombi does: {why}")]
    Strange {
        /// Who it came from.
        server: String,
        /// What is wrong with it.
        why: String,
    },
    /// The token cannot be read.
    #[error("{0}")]
    Token(String),
}

impl ClientError {
    /// The refusal, if it is one.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// Where the server is, and what is needed to reach it.
#[derive(Debug)]
pub(super) struct Access {
    /// Its address, and what gave it; the usual one if left out.
    pub(super) url: Option<(String, &'static str)>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) patience: Patience,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct ServerAnswer {
    pub(super) body: Bytes,
}

/// A server, as a client sees it.
#[derive(Debug)]
pub(super) struct ServerClient {
    http: Client,
    base: Url,
    token_file: Option<PathBuf>,
    patience: Patience,
    /// Whether it has ever answered.
    has_answered: AtomicBool,
    /// Where it is said that something is tried again.
    status: StatusLine,
}

impl ServerClient {
    /// Checks what is needed; connects only with the first request.
    ///
    /// # Errors
    /// What cannot be used, as a sentence.
    pub(super) fn new(access: Access, status: StatusLine) -> Result<Self, String> {
        let Access { url, token_file, ca_file, patience } = access;
        let base = match url {
            Some((url, given_by)) => parse_base(&url, given_by)?,
            None => parse_base(DEFAULT_URL, "--url")?,
        };
        let connect = patience.attempt.min(CONNECT_TIMEOUT);
        // A redirect would take the token elsewhere.
        let http = Client::builder().redirect(redirect::Policy::none()).connect_timeout(connect);
        let http = http.user_agent(concat!("zombi/", env!("CARGO_PKG_VERSION")));
        let http = match &ca_file {
            Some(path) => {
                let pem = read_file(path)?;
                let of_file = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
                let certificates =
                    Certificate::from_pem_bundle(&pem).map_err(|error| of_file(&with_causes(&error)))?;
                if certificates.is_empty() {
                    return Err(of_file(&"it holds no certificate"));
                }
                http.tls_certs_only(certificates)
            }
            // Without TLS it must work on a system that has no certificates, too.
            None if base.scheme() == "http" => http.tls_certs_only([]),
            None => http,
        };
        let http = http.build().map_err(|error| with_causes(&error))?;
        let client = Self { http, base, token_file, patience, has_answered: AtomicBool::new(false), status };
        client.token().map_err(|error| error.to_string())?;
        Ok(client)
    }

    /// Sends a request, again while that can help; the whole answer.
    ///
    /// # Errors
    /// [`ClientError`] once nothing helps any more, or patience ends.
    pub(super) async fn ask(&self, request: &ClientRequest) -> Result<ServerAnswer, ClientError> {
        self.again(request, async |token| self.once_with(request, token).await).await
    }

    /// Sends a request once; the whole answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) async fn once(&self, request: &ClientRequest) -> Result<ServerAnswer, ClientError> {
        self.once_with(request, self.token()?).await
    }

    async fn once_with(
        &self,
        request: &ClientRequest,
        token: Option<HeaderValue>,
    ) -> Result<ServerAnswer, ClientError> {
        let limit = self.patience.attempt;
        let answered = timeout(limit, async { self.whole(self.attempt(request, token).await?).await }).await;
        answered.unwrap_or_else(|_| Err(self.too_slow(limit)))
    }

    /// Asks, and takes the answer for JSON of the form that Zombi answers with.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) async fn ask_json<T: DeserializeOwned>(
        &self,
        request: &ClientRequest,
    ) -> Result<T, ClientError> {
        let answer = self.ask(request).await?;
        self.parse(&answer)
    }

    /// An answer, as JSON of the form that Zombi answers with.
    ///
    /// # Errors
    /// [`ClientError::Strange`].
    pub(super) fn parse<T: DeserializeOwned>(&self, answer: &ServerAnswer) -> Result<T, ClientError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.strange(&error))
    }

    /// Sends a request whose answer goes on; its head.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(super) async fn open(&self, request: &ClientRequest) -> Result<Response, ClientError> {
        self.again(request, async |token| {
            let limit = self.patience.attempt;
            let opened = timeout(limit, self.attempt(request, token)).await;
            opened.unwrap_or_else(|_| Err(self.too_slow(limit)))
        })
        .await
    }

    /// Attempts until one succeeds or no other can, each with the token that there is then.
    async fn again<T>(
        &self,
        request: &ClientRequest,
        mut attempt: impl AsyncFnMut(Option<HeaderValue>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut retry = Retry::new(self.patience, request.repeat);
        loop {
            let token = self.token()?;
            let error = match attempt(token.clone()).await {
                Ok(answer) => {
                    retry.succeeded(&self.status);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let is_401 = error.refusal().is_some_and(|refusal| refusal.status == StatusCode::UNAUTHORIZED);
            if is_401 && self.token()? != token {
                continue; // the token was exchanged meanwhile
            }
            let Some(pause) = retry.pause(&error, self.has_answered()) else { return Err(error) };
            retry.say(&self.status, &error);
            sleep(pause).await;
        }
    }

    /// Sends a request once.
    async fn attempt(
        &self,
        request: &ClientRequest,
        token: Option<HeaderValue>,
    ) -> Result<Response, ClientError> {
        let mut sending = self.http.request(request.method.clone(), request.url(&self.base));
        if let Some(token) = token {
            sending = sending.header(header::AUTHORIZATION, token);
        }
        sending = sending.headers(request.headers.clone());
        if let Some(body) = &request.body {
            sending = sending.body(body.clone());
        }
        let response = sending.send().await.map_err(|error| self.unreachable(error))?;
        self.has_answered.store(true, Ordering::Relaxed);
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let headers = response.headers().clone();
        let ServerAnswer { body } = self.whole(response).await?;
        Err(ClientError::Refused(Box::new(Refusal::read(status, &headers, &body))))
    }

    /// Reads an answer to its end.
    async fn whole(&self, mut response: Response) -> Result<ServerAnswer, ClientError> {
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(self.strange(&format!("it is over {MAX_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(ServerAnswer { body: body.freeze() })
    }

    /// The header with the token. Its file is read each time: kubelets exchange it.
    fn token(&self) -> Result<Option<HeaderValue>, ClientError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text = read_file(path).map_err(ClientError::Token)?;
        let token = text.trim_ascii();
        match HeaderValue::from_bytes(&[&b"Bearer "[..], token].concat()) {
            Ok(mut value) if !token.is_empty() => {
                value.set_sensitive(true);
                Ok(Some(value))
            }
            _ => Err(ClientError::Token(format!("{}: it does not hold a token", path.display()))),
        }
    }

    fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// An error of the transport.
    fn unreachable(&self, error: reqwest::Error) -> ClientError {
        let what = if error.is_connect() || error.is_dns() { "cannot be reached" } else { "broke off" };
        let why = format!("{what}: {}", with_causes(&error.without_url()));
        ClientError::Unreachable { server: self.base.to_string(), why }
    }

    fn too_slow(&self, limit: Duration) -> ClientError {
        let why = format!("there was no answer within {limit:?}");
        ClientError::Unreachable { server: self.base.to_string(), why }
    }

    /// An answer that is none of Zombi's.
    pub(super) fn strange(&self, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Strange { server: self.base.to_string(), why: why.to_string() }
    }
}

/// The address of a server: scheme, host, port, and a path if it stands behind one. An error names what gave
/// it.
fn parse_base(text: &str, given_by: &str) -> Result<Url, String> {
    let wrong = |why: &str| format!("{given_by} {text:?}: {why}");
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" => {}
        _ => return Err(wrong("it must begin with http:// or https://")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must hold no user and no password; a token goes into --token-file"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it must end with the path"));
    }
    Ok(url)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let bytes = fs::metadata(path).map_err(|error| wrong(&error))?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(wrong(&format!("its {bytes} bytes are too many; the limit is {MAX_FILE_BYTES}")));
    }
    fs::read(path).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_and_holds_no_secret() {
        for text in ["http://localhost:8080", "https://zombi.example/behind/a/path", "http://[::1]:8080/"] {
            assert!(parse_base(text, "--url").is_ok(), "{text}");
        }
        for (text, why) in [
            ("localhost:8080", "http://"),
            ("zombi", "relative URL"),
            ("ftp://zombi", "http://"),
            ("http://user:secret@zombi", "--token-file"),
            ("http://zombi/?a=b", "path"),
            ("http://", "host"),
        ] {
            let said = parse_base(text, "ZOMBI_URL").unwrap_err();
            assert!(said.starts_with("ZOMBI_URL ") && said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let patience = Patience::asking(Duration::from_secs(1));
        let open = |token_file: Option<PathBuf>, ca_file: Option<PathBuf>| {
            ServerClient::new(Access { url: None, token_file, ca_file, patience }, StatusLine::none())
        };
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        assert!(open(file("token", "secret\n"), None).is_ok());
        for (token_file, ca_file, why) in [
            (file("empty", "\n"), None, "empty: it does not hold a token"),
            (file("two", "a\nb"), None, "two: it does not hold a token"),
            (Some(directory.path().join("nowhere")), None, "nowhere: "),
            (None, file("ca", "no certificate"), "ca: it holds no certificate"),
            (None, Some(directory.path().join("no-ca")), "no-ca: "),
        ] {
            let said = open(token_file, ca_file).unwrap_err();
            assert!(said.contains(why) && !said.contains("secret"), "{said}");
        }
    }
}
