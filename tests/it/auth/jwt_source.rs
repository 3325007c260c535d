//! Where the keys come from: a server that may be away, slow or somebody else's, the set that was kept, or a
//! file. Without keys the start goes on, and only tokens of the issuer wait.

use std::{fs, os::unix::fs::PermissionsExt};

use futures_util::future::join_all;
use reqwest::{Client, Method, redirect::Policy};
use serde_json::json;
use tempfile::TempDir;

use super::{
    answered::decided,
    federated::Federated,
    minted::{ISSUER, claims, good, signed_by, usual},
    secured::{FAILURES, comes, ends, policy, token},
};
use testing::{
    certificates::CertifiedServer,
    jwks::{JwksAnswer, JwksServer, KIDS},
    process::Start,
    server::{answer, eventually},
};

const AWAY: &str = "503 auth_unavailable";

/// There are no keys: what that means for each who asks.
async fn expect_no_keys(federated: &Federated, what: &str) {
    federated.expect(what, &good(), AWAY).await;
    federated.expect(what, &token("ci"), "201").await;
    federated.expect(what, &token("nobody"), "401 unknown_token").await;
    decided(federated.append()).await.expect(what, "401");
    let (status, check) = federated.readiness().await;
    assert_eq!((status, &check["status"]), (503, &json!("unavailable")), "{what}: {check}");
    for path in ["/livez", "/startupz"] {
        let probe = federated.z.client.get(federated.z.admin_url(path)).send().await.unwrap();
        assert_eq!(probe.status(), 200, "{what}: {path}");
    }
}

/// There are keys now.
async fn expect_keys(federated: &Federated, what: &str) {
    federated.until_ready().await;
    federated.expect(what, &good(), "201").await;
    federated.expect(what, &token("ci"), "201").await;
}

#[tokio::test]
async fn a_start_without_keys_goes_on_and_ends_when_they_come() {
    let mut federated = Federated::prepare(JwksServer::away(usual()));
    federated.begin().await;
    expect_no_keys(&federated, "away at the start").await;
    federated.jwks.resume();
    expect_keys(&federated, "there").await;
    federated.jwks.stop().await;
    federated.expect("away again, and the set is known", &good(), "201").await;
    assert_eq!(federated.readiness().await.0, 200);
}

#[tokio::test]
async fn the_set_that_was_kept_is_enough_for_a_start() {
    let mut federated = Federated::start().await;
    let kept = federated.z.data_dir().join("auth").join("jwks.json");
    eventually("the set is kept", || async { kept.is_file() }).await;
    let mode = fs::metadata(&kept).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    federated.jwks.stop().await;
    for _ in 0..2 {
        federated.z.kill().await;
        federated.run().await;
        for key in KIDS {
            federated.expect(key, &signed_by(key, &claims()), "201").await;
        }
        federated.expect("an unknown key", &signed_by("rsa-next", &claims()), "401 unknown_key").await;
    }
    // It is not kept against the issuer.
    federated.jwks.answer(JwksAnswer::keys(&["rsa-next"]));
    federated.jwks.resume();
    let new = signed_by("rsa-next", &claims());
    eventually("the new key is taken", || async { federated.decision(&new).await == "201" }).await;
    federated.expect("the old key", &good(), "401 unknown_key").await;
    let text = || fs::read_to_string(&kept).unwrap_or_default();
    eventually("the new set is kept", || async { text().contains("rsa-next") }).await;
    federated.jwks.stop().await;
    federated.z.kill().await;
    federated.run().await;
    federated.expect("the new key after a start", &new, "201").await;
    federated.expect("the old key after a start", &good(), "401 unknown_key").await;
}

#[tokio::test]
async fn a_kept_set_that_cannot_be_read_is_none() {
    let mut federated = Federated::start().await;
    let kept = federated.z.data_dir().join("auth").join("jwks.json");
    eventually("the set is kept", || async { kept.is_file() }).await;
    federated.jwks.stop().await;
    let whole = fs::read_to_string(&kept).unwrap();
    for text in ["", "{", "[]", "<html>", &whole[..whole.len() / 2]] {
        federated.z.kill().await;
        fs::write(&kept, text).unwrap();
        federated.begin().await;
        expect_no_keys(&federated, &format!("{text:.20?} was kept")).await;
    }
    federated.jwks.resume();
    expect_keys(&federated, "there").await;
}

/// What is no set.
fn no_sets(jwks: &JwksServer) -> Vec<(&'static str, JwksAnswer)> {
    let keys = |status: u16| match usual() {
        JwksAnswer::Body { text, content_type, .. } => JwksAnswer::text(status, content_type, text),
        other => other,
    };
    vec![
        ("HTML", JwksAnswer::text(200, "text/html", "<html><body>Please log in</body></html>")),
        ("nothing", JwksAnswer::text(200, "application/json", "")),
        ("half a set", JwksAnswer::text(200, "application/json", r#"{"keys":[{"kty":"RSA","#)),
        ("another object", JwksAnswer::text(200, "application/json", r#"{"kind":"Status","code":403}"#)),
        ("1 MiB", JwksAnswer::huge(true)),
        ("1 MiB without a length", JwksAnswer::huge(false)),
        ("403", keys(403)),
        ("404", keys(404)),
        ("500", keys(500)),
        ("elsewhere on the server", JwksAnswer::Redirect(jwks.url_elsewhere())),
        ("no answer", JwksAnswer::Hang),
        ("an answer without an end", JwksAnswer::Drip),
    ]
}

/// The server starts with this answer, and later there is a set.
async fn starts_without(number: usize) {
    let jwks = JwksServer::start(usual());
    let (what, answer) = no_sets(&jwks).swap_remove(number);
    jwks.answer(answer);
    let mut federated = Federated::prepare(jwks);
    federated.begin().await;
    eventually(what, || async { federated.jwks.requests() > 0 }).await;
    expect_no_keys(&federated, what).await;
    federated.jwks.answer(usual());
    expect_keys(&federated, what).await;
    let strayed = federated.jwks.strayed();
    assert!(strayed.is_empty(), "{what}: {strayed:?}");
}

#[tokio::test]
async fn what_is_no_set_is_not_taken_for_one() {
    let count = no_sets(&JwksServer::away(usual())).len();
    for numbers in (0..count).collect::<Vec<_>>().chunks(6) {
        join_all(numbers.iter().map(|number| starts_without(*number))).await;
    }
}

/// A server that has a set gets this answer when it asks for the next one.
async fn keeps_its_set(number: usize) {
    let federated = Federated::start().await;
    let (what, answer) = no_sets(&federated.jwks).swap_remove(number);
    federated.jwks.answer(answer);
    let (before, unknown) = (federated.jwks.requests(), signed_by("rsa-next", &claims()));
    eventually(what, || async {
        federated.expect(what, &unknown, "401 unknown_key").await;
        federated.jwks.requests() > before
    })
    .await;
    federated.expect(what, &unknown, "401 unknown_key").await;
    expect_keys(&federated, what).await;
    let strayed = federated.jwks.strayed();
    assert!(strayed.is_empty(), "{what}: {strayed:?}");
}

#[tokio::test]
async fn the_last_good_set_stays_whatever_comes_after_it() {
    let count = no_sets(&JwksServer::away(usual())).len();
    for numbers in (0..count).collect::<Vec<_>>().chunks(6) {
        join_all(numbers.iter().map(|number| keeps_its_set(*number))).await;
    }
}

#[tokio::test]
async fn a_server_that_the_authority_does_not_vouch_for_is_not_asked() {
    let mut federated = Federated::prepare(JwksServer::start(usual()));
    let others = CertifiedServer::make();
    federated.file("authority.pem", &others.authority.cert_pem);
    federated.begin().await;
    eventually("it has tried", || async { federated.jwks.connections() > 0 }).await;
    expect_no_keys(&federated, "another authority").await;
    assert_eq!(federated.jwks.requests(), 0, "it was trusted without its authority");
    // The file is read again at each fetch.
    federated.file("authority.pem", &CertifiedServer::shared().authority.cert_pem);
    expect_keys(&federated, "the right authority").await;
}

#[tokio::test]
async fn the_bearer_for_the_key_server_goes_there_only_and_is_read_anew() {
    let elsewhere = JwksServer::start(usual());
    let mut federated = Federated::prepare(JwksServer::start(JwksAnswer::Redirect(elsewhere.url())));
    let path = federated.file("bearer", "first-bearer\n");
    federated.z.set("auth.oidc.token_file", &path);
    federated.z.set("log.level", "trace");
    federated.begin().await;
    eventually("it has asked", || async { federated.jwks.requests() > 0 }).await;
    assert_eq!(federated.jwks.seen()[0].authorization, "Bearer first-bearer");
    expect_no_keys(&federated, "redirected").await;
    assert_eq!(elsewhere.connections(), 0);

    federated.file("bearer", "second-bearer\n");
    federated.jwks.answer(usual());
    expect_keys(&federated, "answered").await;
    assert_eq!(federated.jwks.seen().last().unwrap().authorization, "Bearer second-bearer");
    assert_eq!(elsewhere.connections(), 0);
    let metrics = federated.z.admin_metrics().await;
    let (code, log) = federated.z.terminate_with_log().await;
    assert_eq!(code, Some(0));
    assert!(log.contains("TRACE"), "the whole log was asked for");
    for secret in ["first-bearer", "second-bearer"] {
        assert!(!log.contains(secret), "{secret} is in the log");
        assert!(!metrics.contains(secret), "{secret} is in the metrics");
    }
}

/// The text of a set.
fn set_of(kids: &[&str]) -> String {
    match JwksAnswer::keys(kids) {
        JwksAnswer::Body { text, .. } => text,
        other => panic!("{other:?} is no set"),
    }
}

#[tokio::test]
async fn a_set_in_a_file_is_read_again_when_it_changes_and_a_bad_one_is_not_taken() {
    let mut federated = Federated::prepare_without_url(JwksServer::away(usual()));
    let path = federated.file("jwks.json", &set_of(&["rsa"]));
    federated.z.set("auth.oidc.jwks_file", &path);
    federated.run().await;
    let (rsa, p256) = (good(), signed_by("p256", &claims()));
    federated.expect("a key in the file", &rsa, "201").await;
    federated.expect("another key", &p256, "401 unknown_key").await;

    federated.file("jwks.json", &set_of(&["p256"]));
    eventually("the other key is taken", || async { federated.decision(&p256).await == "201" }).await;
    federated.expect("the first key, and its token was known", &rsa, "401 unknown_key").await;

    let whole = set_of(&["rsa"]);
    for text in ["", "{", "<html></html>", &whole[..whole.len() / 2]] {
        let failures = federated.metric(FAILURES).await;
        federated.file("jwks.json", text);
        eventually("the bad file is counted", || async { federated.metric(FAILURES).await > failures }).await;
        federated.expect("the set of before", &p256, "201").await;
        assert_eq!(federated.readiness().await.0, 200);
    }
    fs::remove_file(&path).unwrap();
    federated.expect("the set of before, without a file", &p256, "201").await;
    federated.file("jwks.json", &whole);
    eventually("the next good file is taken", || async { federated.decision(&rsa).await == "201" }).await;
    federated.expect("the key of before", &p256, "401 unknown_key").await;
}

/// Its issuer has taken a key back: whoever has it could go on by what it opened.
#[tokio::test]
async fn what_was_opened_by_a_key_ends_when_the_key_leaves_the_set() {
    let mut federated = Federated::prepare_without_url(JwksServer::away(usual()));
    let path = federated.file("jwks.json", &set_of(&["rsa", "p256"]));
    federated.z.set("auth.oidc.jwks_file", &path);
    federated.z.set("limits.wait_secs", "3600");
    federated.run().await;
    let (gone, stays) = (good(), signed_by("p256", &claims()));
    federated.expect("an event", &gone, "201").await;
    let read = |token: &str, query: &str| {
        federated.z.request(Method::GET, &format!("/tables/t{query}")).bearer_auth(token)
    };
    let tail = async |token: &str| {
        let mut tail = read(token, "").header("accept", "text/event-stream").send().await.unwrap();
        comes(&mut tail, "payload").await;
        tail
    };
    let (_, page) = answer(read(&gone, "").send().await.unwrap()).await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let poll = tokio::spawn(read(&gone, &format!("?wait=3600&cursor={cursor}")).send());
    let (lost, mut kept) = (tail(&gone).await, tail(&stays).await);
    let browser = Client::builder().tls_certs_only([]).redirect(Policy::none()).build().unwrap();
    let form = browser.post(federated.z.url("/console/sign-in")).header("sec-fetch-site", "same-origin");
    let form = form.header("content-type", "application/x-www-form-urlencoded").body(format!("token={gone}"));
    let signed_in = form.send().await.unwrap();
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let by_session = || federated.z.request(Method::GET, "/console/api/tables/t").header("cookie", &cookie);
    assert_eq!(by_session().send().await.unwrap().status(), 200);

    federated.file("jwks.json", &set_of(&["p256"]));
    ends(lost).await;
    let (status, problem) = answer(poll.await.unwrap().unwrap()).await;
    assert_eq!((status.as_u16(), &problem["reason"]), (401, &json!("unknown_key")), "{problem}");
    assert_eq!(by_session().send().await.unwrap().status(), 401);
    federated.expect("another event", &stays, "201").await;
    comes(&mut kept, "payload").await;
}

#[tokio::test]
async fn settings_that_lead_to_no_keys_stop_the_start() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (policy, jwks) = (file("policy.yaml", &policy(&[])), file("jwks.json", &set_of(&["rsa"])));
    let url = "https://127.0.0.1:1/openid/v1/jwks";
    let start = Start::serve(&directory.path().join("db")).set("host", "127.0.0.1");
    let start = start.set("auth.mode", "required").set("auth.policy_file", &policy);
    let start = start.set("auth.oidc.issuer", ISSUER);
    type Added<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Added, &str); 7] = [
        ("no keys", &[], "auth.oidc.jwks_"),
        ("both", &[("auth.oidc.jwks_url", url), ("auth.oidc.jwks_file", jwks.as_str())], "auth.oidc.jwks_"),
        ("http", &[("auth.oidc.jwks_url", "http://127.0.0.1:1/jwks")], "auth.oidc.jwks_url"),
        ("a file's URL", &[("auth.oidc.jwks_url", "file:///etc/passwd")], "auth.oidc.jwks_url"),
        ("no URL", &[("auth.oidc.jwks_url", "kubernetes.default.svc")], "auth.oidc.jwks_url"),
        ("no kind", &[("auth.oidc.jwks_url", url), ("auth.oidc.kind", "saml")], "auth.oidc.kind"),
        ("no mode", &[("auth.oidc.jwks_url", url), ("auth.mode", "maybe")], "auth.mode"),
    ];
    for (what, settings, named) in cases {
        let start = settings.iter().fold(start.clone(), |start, (key, value)| start.set(key, value));
        let ended = start.ended().await;
        assert_eq!(ended.code, Some(2), "{what}: {}", ended.said);
        assert!(ended.said.contains(named), "{what}: {named} is not named:\n{}", ended.said);
    }
}

#[tokio::test]
async fn without_an_issuer_there_are_no_tokens_of_one() {
    let mut federated = Federated::prepare_without_issuer(JwksServer::away(usual()));
    federated.run().await;
    federated
        .expect("a token of an issuer", &good(), "401 unknown_token|401 malformed|401 wrong_issuer")
        .await;
    federated.expect("a static one", &token("ci"), "201").await;
}
