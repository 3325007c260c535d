//! Static tokens: only the right one opens, for as long as its file has it, and a file that cannot be read
//! changes nothing.

use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::secured::{
    FAILURES, NO_ONE, Secured, ask, binding, comes, digest_of, ends, entry, expect, policy, start_with_files,
    token, tokens_file, with_checksum,
};
use testing::{
    raw,
    server::{TestRequest, answer, eventually},
};

/// What `writer` may do in these tests, and nobody else anything.
fn writers_policy() -> String {
    policy(&[binding("writer", "owner", &["orders"], &[])])
}

/// An event.
fn record() -> Value {
    json!({"payload": 1})
}

/// A write with a credential of its own.
fn write_with(s: &Secured, authorization: &str) -> TestRequest {
    let request = s.request(NO_ONE, Method::POST, "/tables/orders").json(&record());
    request.header("authorization", authorization)
}

/// Its credential must be refused: the challenge, and the problem.
async fn refused(what: &str, request: TestRequest) -> (String, Value) {
    let response = request.send().await.unwrap();
    let challenge = response.headers().get("www-authenticate").cloned();
    let answer = answer(response).await;
    expect(what, &answer, 401, "unauthenticated");
    let challenge = challenge.unwrap_or_else(|| panic!("{what}: no WWW-Authenticate"));
    (challenge.to_str().unwrap().to_owned(), answer.1)
}

/// The token with one bit of one character turned over.
fn one_bit_off(token: &str, at: usize) -> String {
    let mut bytes = token.as_bytes().to_vec();
    bytes[at] ^= 1;
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_right_token_is_taken_and_one_that_is_nearly_right_is_not() {
    let s = Secured::start(&writers_policy(), &["writer"], &[]).await;
    let right = token("writer");
    assert_eq!(right.len(), 53);
    let written = ask(write_with(&s, &format!("Bearer {right}"))).await;
    assert_eq!(written.0, StatusCode::CREATED, "{}", written.1);

    let mut wrong: Vec<String> = (0..right.len()).map(|at| one_bit_off(&right, at)).collect();
    wrong.extend([1, 4, 20, 47, right.len() - 1].map(|length| right[..length].to_owned()));
    wrong.extend([right[4..].to_owned(), right[4..47].to_owned(), right.to_uppercase()]);
    wrong.extend([format!("{right}A"), format!("{right}{right}"), digest_of(&right)]);
    for wrong in &wrong {
        let (challenge, problem) = refused(wrong, write_with(&s, &format!("Bearer {wrong}"))).await;
        assert!(
            challenge.starts_with("Bearer") && challenge.contains("error=\"invalid_token\""),
            "{challenge}"
        );
        assert!(["malformed", "unknown_token"].contains(&problem["reason"].as_str().unwrap()), "{problem}");
        assert_eq!(problem["outcome"], "not_written", "{problem}");
        assert!(wrong.len() < 20 || !problem.to_string().contains(wrong), "the token is in {problem}");
    }
    // Its form and its checksum are right; nobody has it.
    let cut = format!("{}A", &right[4..46]);
    for other in [token("stranger"), with_checksum(&cut)] {
        let (_, problem) = refused(&other, write_with(&s, &format!("Bearer {other}"))).await;
        assert_eq!(problem["reason"], "unknown_token", "{problem}");
    }
    assert_eq!(s.payloads("writer", "orders").await.len(), 1, "nothing else was written");
}

#[tokio::test]
async fn without_a_credential_the_answer_says_how_to_bring_one() {
    let s = Secured::start(&writers_policy(), &["writer"], &[]).await;
    for (method, path) in [
        (Method::POST, "/tables/orders"),
        (Method::GET, "/tables/orders"),
        (Method::GET, "/tables"),
        (Method::DELETE, "/consumers/g"),
        (Method::POST, "/flush"),
    ] {
        let request = s.request(NO_ONE, method.clone(), path).json(&record());
        let (challenge, problem) = refused(path, request).await;
        assert_eq!(challenge, "Bearer realm=\"zombi\"", "{method} {path}");
        assert_eq!(problem["reason"], Value::Null, "there is no bad credential: {problem}");
    }
    assert!(s.payloads("writer", "orders").await.is_empty());
    assert_eq!(s.metric("zombi_auth_enabled").await, 1.0);
}

#[tokio::test]
async fn the_authorization_header_is_the_only_place_and_stands_once() {
    let s = Secured::start(&writers_policy(), &["writer"], &[]).await;
    let right = token("writer");
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let written = ask(write_with(&s, &format!("{scheme} {right}"))).await;
        assert_eq!(written.0, StatusCode::CREATED, "{scheme}: {}", written.1);
    }
    let other = token("stranger");
    for second in [&right, &other] {
        let twice = write_with(&s, &format!("Bearer {right}"));
        refused("two headers", twice.header("authorization", format!("Bearer {second}"))).await;
        let twice = write_with(&s, &format!("Bearer {second}"));
        refused("two headers", twice.header("authorization", format!("Bearer {right}"))).await;
    }
    for wrong in ["Bearer", "Basic d3JpdGVyOng=", "Token x", "Bearer x y", &right, &format!("Basic {right}")]
    {
        refused(wrong, write_with(&s, wrong)).await;
    }
    refused("9 KiB", write_with(&s, &format!("Bearer {}", "x".repeat(9 << 10)))).await;
    for elsewhere in ["access_token", "token", "authorization"] {
        let path = format!("/tables/orders?{elsewhere}={right}");
        let (status, problem) = s.post(NO_ONE, &path, &record()).await;
        assert!([400, 401].contains(&status.as_u16()), "{elsewhere}: {problem}");
        assert!(!problem.to_string().contains(&right), "the token is in {problem}");
        let cookie = s.request(NO_ONE, Method::POST, "/tables/orders").json(&record());
        refused(elsewhere, cookie.header("cookie", format!("{elsewhere}={right}"))).await;
        let cookie = s.request(NO_ONE, Method::POST, "/tables/orders").json(&record());
        refused(elsewhere, cookie.header("x-access-token", &right)).await;
    }
    assert_eq!(s.payloads("writer", "orders").await.len(), 3);
}

#[tokio::test]
async fn who_may_not_write_is_not_asked_for_the_body() {
    let s = Secured::start(&writers_policy(), &["writer", "other"], &[]).await;
    let cases = [
        (String::new(), 401),
        (format!("authorization: Bearer {}\r\n", token("stranger")), 401),
        (format!("authorization: Bearer {}\r\n", token("other")), 403),
        (format!("authorization: Bearer {}\r\n", token("writer")), 100),
    ];
    for content_type in ["application/json", "application/x-ndjson", "application/x-protobuf"] {
        for (credential, status) in &cases {
            let headers = format!("{credential}content-length: 1000000\r\nexpect: 100-continue\r\n");
            let head = raw::post_head("/tables/orders", content_type, &headers);
            let mut socket = raw::send(s.z.address(), head).await;
            let came = raw::read_until(&mut socket, "\r\n\r\n").await;
            assert_eq!(raw::status(&came), *status, "{content_type}, {credential:?}: {came}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_taken_from_the_file_is_refused_and_its_stream_ends() {
    let both = policy(&[
        binding("reader", "consumer", &["orders"], &[]),
        binding("writer", "owner", &["orders"], &[]),
    ]);
    let mut s = Secured::start(&both, &["reader", "writer"], &[]).await;
    assert_eq!(s.post("writer", "/tables/orders", &json!({"payload": "first"})).await.0, StatusCode::CREATED);
    let (mut revoked, mut kept) = (s.tail("reader", "orders").await, s.tail("writer", "orders").await);
    comes(&mut revoked, "first").await;
    comes(&mut kept, "first").await;

    s.tokens.swap(&tokens_file(&[entry("writer", &token("writer"))]));
    eventually("the token is refused", || async {
        s.get("reader", "/tables/orders").await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    let (_, problem) = refused("revoked", s.request("reader", Method::GET, "/tables/orders")).await;
    assert_eq!(problem["reason"], "unknown_token", "{problem}");
    ends(revoked).await;

    assert_eq!(
        s.post("writer", "/tables/orders", &json!({"payload": "second"})).await.0,
        StatusCode::CREATED
    );
    comes(&mut kept, "second").await;
}

/// An entry that is good until so many seconds from now.
fn entry_until(name: &str, seconds: i64) -> Value {
    let mut entry = entry(name, &token(name));
    let expires = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
    entry["expires"] = json!(expires.to_string());
    entry
}

#[tokio::test]
async fn an_entry_opens_until_it_expires_and_its_stream_ends_with_it() {
    let bindings = ["past", "future", "writer"].map(|name| binding(name, "owner", &["orders"], &[]));
    let mut s = Secured::start(&policy(&bindings), &["writer"], &[]).await;
    let entries =
        [entry_until("past", -86_400), entry_until("future", 86_400), entry_until("writer", 86_400)];
    s.tokens.swap(&tokens_file(&entries));
    eventually("the file is taken", || async {
        s.post("future", "/tables/orders", &json!({"payload": "first"})).await.0 == StatusCode::CREATED
    })
    .await;
    let (challenge, problem) = refused("past", s.request("past", Method::GET, "/tables/orders")).await;
    assert!(challenge.contains("invalid_token"), "{challenge}");
    assert_eq!(problem["reason"], "expired", "{problem}");

    let mut expiring = s.tail("writer", "orders").await;
    comes(&mut expiring, "first").await;
    s.tokens.swap(&tokens_file(&[entry_until("future", 86_400), entry_until("writer", 3)]));
    eventually("the token has expired", || async {
        let (status, problem) = s.get("writer", "/tables/orders").await;
        status == StatusCode::UNAUTHORIZED && problem["reason"] == "expired"
    })
    .await;
    ends(expiring).await;
    assert_eq!(s.get("future", "/tables/orders").await.0, StatusCode::OK);
}

#[tokio::test]
async fn during_a_rotation_both_tokens_of_a_name_are_good() {
    let (old, new) = (entry("writer", &token("writer")), entry("writer", &token("writer's next")));
    let mut s = Secured::start(&writers_policy(), &["writer"], &[]).await;
    s.tokens.swap(&tokens_file(&[old, new.clone()]));
    eventually("the new one is taken", || async {
        s.post("writer's next", "/tables/orders", &record()).await.0 == StatusCode::CREATED
    })
    .await;
    assert_eq!(s.post("writer", "/tables/orders", &record()).await.0, StatusCode::CREATED);
    for who in ["writer", "writer's next"] {
        let (status, problem) = s.get(who, "/tables/other").await;
        assert_eq!(
            (status, &problem["principal"]),
            (StatusCode::FORBIDDEN, &json!("token:writer")),
            "{problem}"
        );
    }
    s.tokens.swap(&tokens_file(&[new]));
    eventually("the old one is refused", || async {
        s.post("writer", "/tables/orders", &record()).await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(s.post("writer's next", "/tables/orders", &record()).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_the_tokens_of_before_and_is_counted() {
    let mut s = Secured::start(&writers_policy(), &["writer"], &[]).await;
    assert_eq!(s.metric(FAILURES).await, 0.0);
    let good = tokens_file(&[entry("writer", &token("writer"))]);
    let plain = json!({"version": 1, "tokens": [{"name": "writer", "token": token("writer")}]}).to_string();
    let other_version = good.replace("\"version\":1", "\"version\":2");
    let short = good.replace(&digest_of(&token("writer")), "9f86d0");
    let bad = [&good[..good.len() / 2], "", "tokens: [", "<html></html>", &plain, &other_version, &short];
    for (turn, text) in bad.into_iter().enumerate() {
        let failures = s.metric(FAILURES).await;
        // A kubelet never shows half a file; whoever writes it in place does.
        if turn % 2 == 0 {
            s.tokens.overwrite(text);
        } else {
            s.tokens.swap(text);
        }
        eventually("the bad file is counted", || async { s.metric(FAILURES).await > failures }).await;
        let written = s.post("writer", "/tables/orders", &record()).await;
        assert_eq!(written.0, StatusCode::CREATED, "after {text:?}: {}", written.1);
        let next = format!("writer's {turn}");
        s.tokens.swap(&tokens_file(&[entry("writer", &token("writer")), entry("writer", &token(&next))]));
        eventually("the next good file is taken", || async {
            s.post(&next, "/tables/orders", &record()).await.0 == StatusCode::CREATED
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_does_not_start_with_tokens_that_it_cannot_use() {
    let plain = token("writer");
    let good = digest_of(&plain);
    let cases = [
        (json!({"version": 1, "tokens": [{"name": "a", "token": plain}]}), "token"),
        (json!({"version": 1, "tokens": [{"name": "a", "sha256": plain}]}), "sha256"),
        (json!({"version": 1, "tokens": [{"name": "a", "sha256": &good[1..]}]}), "sha256"),
        (json!({"version": 1, "tokens": [{"sha256": good}]}), "name"),
        (json!({"version": 1, "tokens": [{"name": "a", "sha256": good, "expires": "soon"}]}), "expires"),
        (json!({"version": 1, "tokens": [{"name": "a", "sha256": good, "colour": "red"}]}), "colour"),
        (json!({"version": 2, "tokens": [{"name": "a", "sha256": good}]}), "version"),
    ];
    for (tokens, named) in cases {
        let (start, _directory) = start_with_files(&writers_policy(), &tokens.to_string());
        let ended = start.ended().await;
        assert_eq!(ended.code, Some(2), "{tokens}: {}", ended.said);
        assert!(ended.said.contains(named), "{named} is not named:\n{}", ended.said);
        assert!(!ended.said.contains(&plain), "a token is said:\n{}", ended.said);
    }
    let (start, directory) = start_with_files(&writers_policy(), "tokens: [");
    assert_eq!(start.ended().await.code, Some(2), "no YAML");
    let missing = directory.path().join("nothing").display().to_string();
    let ended = start.set("auth.tokens_file", &missing).ended().await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains(&missing), "the file is not named:\n{}", ended.said);
}
