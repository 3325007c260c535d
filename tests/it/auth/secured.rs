//! A server that lets in only who has a token. Its policy and its tokens are mounted as a kubelet does it,
//! and everybody is called by name: each name stands for a token.

use std::{fmt::Display, fs, os::unix::fs::symlink, path::PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use flate2::Crc;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::timeout;

use contracts::hex::hex;
use testing::{
    TestServer,
    process::Start,
    server::{PATIENCE, TestRequest, answer},
};

/// Who sends no credential.
pub(crate) const NO_ONE: &str = "";
/// Counts files that could not be taken.
pub(crate) const FAILURES: &str = "zombi_auth_reload_failures_total";

/// What came for a request: its status and its JSON.
pub(crate) type StatusAndBody = (StatusCode, Value);

/// The token that a name stands for, the same each time.
pub(crate) fn token(name: &str) -> String {
    with_checksum(&URL_SAFE_NO_PAD.encode(Sha256::digest(name)))
}

/// The token that has these 43 characters.
pub(crate) fn with_checksum(secret: &str) -> String {
    let mut crc = Crc::new();
    crc.update(secret.as_bytes());
    format!("zmb_{secret}{}", base62(crc.sum()))
}

/// Six digits, with zeros in front.
fn base62(mut number: u32) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = [b'0'; 6];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[(number % 62) as usize];
        number /= 62;
    }
    String::from_utf8(text.to_vec()).unwrap()
}

/// What a tokens file says of a token instead of the token.
pub(crate) fn digest_of(token: &str) -> String {
    hex(&Sha256::digest(token))
}

/// An entry of a tokens file.
pub(crate) fn entry(name: &str, token: &str) -> Value {
    json!({"name": name, "sha256": digest_of(token)})
}

/// A tokens file. JSON is YAML.
pub(crate) fn tokens_file(entries: &[Value]) -> String {
    json!({"version": 1, "tokens": entries}).to_string()
}

/// What a name may do, by its role.
pub(crate) fn binding(name: &str, role: &str, tables: &[&str], groups: &[&str]) -> Value {
    let mut binding = json!({"subjects": [format!("token:{name}")], "role": role, "tables": tables});
    if !groups.is_empty() {
        binding["groups"] = json!(groups);
    }
    binding
}

/// A policy without quotas. JSON is YAML.
pub(crate) fn policy(bindings: &[Value]) -> String {
    json!({"version": 1, "bindings": bindings}).to_string()
}

/// A file as a kubelet mounts it: its name leads over `..data` to a directory that is replaced as a whole.
pub(crate) struct Mount {
    directory: TempDir,
    name: &'static str,
    turn: u32,
}

impl Mount {
    fn new(name: &'static str, text: &str) -> Self {
        let mut mount = Self { directory: TempDir::new().unwrap(), name, turn: 0 };
        mount.swap(text);
        symlink(format!("..data/{name}"), mount.path()).unwrap();
        mount
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(self.name)
    }

    /// Puts another text in its place, from one moment to the next. The file's own link stays as it is.
    pub(crate) fn swap(&mut self, text: &str) {
        let root = self.directory.path();
        let (old, new) = (format!("..turn_{}", self.turn), format!("..turn_{}", self.turn + 1));
        fs::create_dir(root.join(&new)).unwrap();
        fs::write(root.join(&new).join(self.name), text).unwrap();
        symlink(&new, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        if self.turn > 0 {
            fs::remove_dir_all(root.join(old)).unwrap();
        }
        self.turn += 1;
    }

    /// Writes into the file that is there, as an editor does, or a copy that is not done yet.
    pub(crate) fn overwrite(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }
}

/// A server with `auth.mode = required`.
pub(crate) struct Secured {
    pub(crate) z: TestServer,
    pub(crate) policy: Mount,
    pub(crate) tokens: Mount,
}

/// The two files; each of these names has its token.
fn mounts(policy: &str, names: &[&str]) -> (Mount, Mount) {
    let entries: Vec<Value> = names.iter().map(|name| entry(name, &token(name))).collect();
    (Mount::new("policy.yaml", policy), Mount::new("tokens.yaml", &tokens_file(&entries)))
}

fn required(policy: &Mount, tokens: &Mount) -> [(&'static str, String); 3] {
    [
        ("auth.mode", "required".to_owned()),
        ("auth.policy_file", policy.path().display().to_string()),
        ("auth.tokens_file", tokens.path().display().to_string()),
    ]
}

impl Secured {
    /// Hot only, with a policy, a token for each of the names, and settings.
    pub(crate) async fn start(policy: &str, names: &[&str], settings: &[(&str, &str)]) -> Self {
        let (policy, tokens) = mounts(policy, names);
        let required = required(&policy, &tokens);
        let mut all: Vec<(&str, &str)> = required.iter().map(|(key, value)| (*key, value.as_str())).collect();
        all.extend_from_slice(settings);
        let z = TestServer::start_with(&all).await;
        Self { z, policy, tokens }
    }

    /// With a bucket; flushes on request only.
    pub(crate) async fn start_tiered(policy: &str, names: &[&str]) -> Self {
        let (policy, tokens) = mounts(policy, names);
        let mut z = TestServer::tiered(&[]).await;
        for (key, value) in required(&policy, &tokens) {
            z.set(key, &value);
        }
        z.run().await;
        Self { z, policy, tokens }
    }

    /// Somebody's request on the main port.
    pub(crate) fn request(&self, who: &str, method: Method, path: &str) -> TestRequest {
        with_credential(self.z.request(method, path), who)
    }

    /// Somebody's request on the admin port.
    pub(crate) fn admin(&self, who: &str, method: Method, path: &str) -> TestRequest {
        with_credential(self.z.client.request(method, self.z.admin_url(path)), who)
    }

    /// GET: status and JSON.
    pub(crate) async fn get(&self, who: &str, path: &str) -> StatusAndBody {
        ask(self.request(who, Method::GET, path)).await
    }

    /// POST of JSON: status and JSON.
    pub(crate) async fn post(&self, who: &str, path: &str, body: &Value) -> StatusAndBody {
        ask(self.request(who, Method::POST, path).json(body)).await
    }

    /// PUT of JSON: status and JSON.
    pub(crate) async fn put(&self, who: &str, path: &str, body: &Value) -> StatusAndBody {
        ask(self.request(who, Method::PUT, path).json(body)).await
    }

    /// DELETE: status and JSON.
    pub(crate) async fn delete(&self, who: &str, path: &str) -> StatusAndBody {
        ask(self.request(who, Method::DELETE, path)).await
    }

    /// The payloads of a table of at most 10,000 events; none if it is not there.
    pub(crate) async fn payloads(&self, who: &str, table: &str) -> Vec<Value> {
        let (status, page) = self.get(who, &format!("/tables/{table}?limit=10000")).await;
        if status == StatusCode::NOT_FOUND {
            return Vec::new();
        }
        assert_eq!((status, &page["has_more"]), (StatusCode::OK, &json!(false)), "{page}");
        let records = page["records"].as_array().unwrap();
        records.iter().map(|record| record["payload"].clone()).collect()
    }

    /// A metric, as the admin port shows it to everybody: the sum over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.z.admin_metric(name).await
    }

    /// Opens a stream of a table's events.
    pub(crate) async fn tail(&self, who: &str, table: &str) -> Response {
        let request = self.request(who, Method::GET, &format!("/tables/{table}"));
        let response = request.header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{who} at {table}");
        response
    }
}

fn with_credential(request: TestRequest, who: &str) -> TestRequest {
    if who == NO_ONE { request } else { request.bearer_auth(token(who)) }
}

/// Sends a request.
pub(crate) async fn ask(request: TestRequest) -> StatusAndBody {
    answer(request.send().await.unwrap()).await
}

/// An answer must be this problem, for what was sent.
pub(crate) fn expect(sent: impl Display, (status, body): &StatusAndBody, wanted: u16, code: &str) {
    assert_eq!((status.as_u16(), &body["code"]), (wanted, &json!(code)), "{sent}: {body}");
}

/// Reads a stream on until a text has come.
pub(crate) async fn comes(stream: &mut Response, text: &str) {
    let mut came = String::new();
    while !came.contains(text) {
        let piece = timeout(PATIENCE, stream.chunk()).await.expect("it comes in time").unwrap();
        let piece = piece.unwrap_or_else(|| panic!("it has ended before {text:?} came, behind {came}"));
        came.push_str(&String::from_utf8_lossy(&piece));
    }
}

/// Reads a stream on until the server ends it, cleanly or not.
pub(crate) async fn ends(mut stream: Response) {
    loop {
        match timeout(PATIENCE, stream.chunk()).await.expect("it goes on, or ends") {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => {
                // The client has lost its patience: the server has not ended it.
                assert!(!error.is_timeout(), "the stream does not end");
                return;
            }
        }
    }
}

/// A start with these two files; they and its volume are in the directory.
pub(crate) fn start_with_files(policy: &str, tokens: &str) -> (Start, TempDir) {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (policy, tokens) = (write("policy.yaml", policy), write("tokens.yaml", tokens));
    let start = Start::serve(&directory.path().join("db")).set("host", "127.0.0.1");
    let start = start.set("auth.mode", "required");
    (start.set("auth.policy_file", &policy).set("auth.tokens_file", &tokens), directory)
}
