//! What it costs to know who sends an append, and what a principal at its limit costs others.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::sleep};

use super::{in_turn, send};
use crate::{
    BenchOptions,
    client::KeptConnection,
    data,
    process::Zombi,
    report::{Goal, Report},
};
use contracts::clock::{Clock, SystemClock};
use testing::jwks::Issuer;
use zombi::auth::tokens::{NewToken, new_token};

const ISSUER: &str = "https://issuer.example";
/// What the production overlay gives to each principal.
const LIMIT: u64 = 500;
/// Connections of whoever is at its limit, and what each of them waits after a refusal.
const GREEDY: usize = 16;
const PAUSE: Duration = Duration::from_millis(10);

/// Files of a server that lets in only whom they name, and its settings.
struct IdentityFiles {
    _directory: TempDir,
    settings: Vec<String>,
}

impl IdentityFiles {
    fn new(options: &BenchOptions, policy: &Value, tokens: &[&NewToken]) -> Self {
        let directory = TempDir::new_in(&options.dir).unwrap();
        let at = |name: &str| fs::canonicalize(directory.path()).unwrap().join(name);
        let write = |path: &Path, text: String| fs::write(path, text).unwrap();
        let lines = match tokens {
            [] => "  []\n".to_owned(),
            tokens => tokens.iter().map(|token| format!("{}\n", token.line)).collect(),
        };
        write(&at("policy.yaml"), policy.to_string());
        write(&at("tokens.yaml"), format!("version: 1\ntokens:\n{lines}"));
        write(&at("jwks.json"), json!({"keys": [Issuer::shared().jwk("rsa")]}).to_string());
        let settings = vec![
            "auth.mode=required".to_owned(),
            format!("auth.policy_file={}", at("policy.yaml").display()),
            format!("auth.tokens_file={}", at("tokens.yaml").display()),
            format!("auth.oidc.issuer={ISSUER}"),
            format!("auth.oidc.jwks_file={}", at("jwks.json").display()),
        ];
        Self { _directory: directory, settings }
    }

    fn start(&self, options: &BenchOptions) -> Zombi {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        Zombi::start(options, &settings)
    }
}

/// A token of the issuer for a pod, by RS256, which costs most to verify.
fn issued() -> String {
    let now = SystemClock.now_ms() / 1000;
    let claims = json!({
        "iss": ISSUER, "aud": ["zombi"], "sub": "system:serviceaccount:bench:client",
        "iat": now - 60, "nbf": now - 60, "exp": now + 6 * 3600,
    });
    let issuer = Issuer::shared();
    issuer.sign("rsa", issuer.header("rsa"), claims)
}

/// Appends of JSON records, with a token or without.
fn appends(table: &str, token: Option<&str>) -> Vec<Vec<u8>> {
    let authorization = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let one = |number| {
        let body = data::json_record(number, 4, None);
        format!(
            "POST /tables/{table} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
             {authorization}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    (0..1024).map(one).collect()
}

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    with_a_token(options, report).await;
    beside_a_greedy_one(options, report).await;
}

async fn with_a_token(options: &BenchOptions, report: &mut Report) {
    let name = "append JSON, 64 connections, with a token that is known";
    if !report.wants(name) {
        return;
    }
    let bindings = json!([{"subjects": ["sa:bench/client"], "role": "producer", "tables": ["t"]}]);
    let files = IdentityFiles::new(options, &json!({"version": 1, "bindings": bindings}), &[]);
    let (asks, asks_nobody) = (files.start(options), Zombi::start(options, &[]));
    let (with, without) = (appends("t", Some(&issued())), appends("t", None));
    // From then on the token is known, and both have written.
    send(asks.address, options.turn(), None, &with).await;
    send(asks_nobody.address, options.turn(), None, &without).await;
    let rounds = in_turn(
        options.rounds(),
        async |_| send(asks.address, options.turn(), None, &with).await.rate(),
        async |_| send(asks_nobody.address, options.turn(), None, &without).await.rate(),
    );
    report.ratio(name, "requests/s", Goal::AtLeast(0.97), rounds.await);
}

async fn beside_a_greedy_one(options: &BenchOptions, report: &mut Report) {
    let name = "append p99 at half load, beside a principal at its limit";
    if !report.wants(name) {
        return;
    }
    let (calm, greedy) = (new_token("calm").unwrap(), new_token("greedy").unwrap());
    let policy = json!({
        "version": 1,
        "bindings": [{"subjects": ["token:calm", "token:greedy"], "role": "producer", "tables": ["*"]}],
        "quotas": {"bindings": [{"subjects": ["token:greedy"], "requests_per_sec": LIMIT}]},
    });
    let files = IdentityFiles::new(options, &policy, &[&calm, &greedy]);
    let zombi = files.start(options);
    let (ours, theirs) = (appends("t", Some(&calm.plain)), appends("other", Some(&greedy.plain)));
    let half = send(zombi.address, options.turn(), None, &ours).await.rate() / 2.0;
    let paced = async || send(zombi.address, options.turn() * 2, Some(half), &ours).await.p99();
    let rounds = in_turn(
        options.rounds(),
        async |_| {
            let pressing = press(zombi.address, &theirs).await;
            let p99 = paced().await;
            drop(pressing);
            p99
        },
        async |_| paced().await,
    )
    .await;
    report.ratio(name, "us", Goal::AtMost(1.2), rounds);
}

/// Sends as much as is let in and more, until what is returned is dropped; each client has sent once by then.
async fn press(address: SocketAddr, ready: &[Vec<u8>]) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for request in ready.iter().take(GREEDY) {
        let request = request.clone();
        let mut connection = KeptConnection::open(address).await;
        connection.drain(&request).await;
        clients.spawn(async move {
            loop {
                let status = connection.drain(&request).await.status;
                assert!(matches!(status, 200..300 | 429), "status {status}");
                if status == 429 {
                    sleep(PAUSE).await;
                }
            }
        });
    }
    clients
}
