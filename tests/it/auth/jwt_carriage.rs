//! How a token is carried: in one `Authorization` header, and nowhere else. It is looked at before the body.

use reqwest::{Client, Method};
use serde_json::json;

use super::{
    answered::decided,
    federated::Federated,
    minted::{claims, claims_with, good, minted},
    secured::token,
};
use testing::{
    jwks::base64url,
    raw,
    server::{TestClient, TestRequest},
};

/// Credentials that are there, and are none: more than one, or of another scheme.
const NONE: &str = "400 bad_request|401 malformed";
/// What was brought may count as nothing.
const NOTHING: &str = "401|401 malformed";

/// A token that has so many bytes: the rest of them stands in a claim.
fn of_length(bytes: usize) -> String {
    let padded = |padding: usize| minted(&claims_with(&json!({"padding": "x".repeat(padding)})));
    // Three bytes of claims are four of the token.
    let mut padding = (bytes - padded(0).len()) / 4 * 3 + 8;
    while padded(padding).len() > bytes {
        padding -= 1;
    }
    padded(padding)
}

/// Both protocols: headers come to the server by different ways.
fn clients(federated: &Federated) -> [(&'static str, TestClient); 2] {
    let http2 = Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let http1 = &federated.z.client;
    [("HTTP/1.1", http1.clone()), ("HTTP/2", http1.beside(http2))]
}

/// A write with these headers.
fn write(client: &TestClient, federated: &Federated, headers: &[(&str, String)]) -> TestRequest {
    let request = client.post(federated.z.url("/tables/t")).json(&json!({"payload": 1}));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, value))
}

#[tokio::test]
async fn a_token_comes_in_one_authorization_header_of_the_scheme_bearer() {
    let federated = Federated::start().await;
    let right = good();
    let cases = [
        (format!("Bearer {right}"), "201"),
        (format!("bearer {right}"), "201"),
        (format!("BEARER {right}"), "201"),
        (format!("bEaReR {right}"), "201"),
        (format!("Bearer {}", of_length(8000)), "201"),
        (format!("Bearer {}", of_length(9 << 10)), "401 malformed"),
        (format!("Bearer {}", of_length(20 << 10)), "401 malformed"),
        (format!("Bearer {right}, Bearer {right}"), NONE),
        (format!("Bearer {right} {right}"), NONE),
        (format!("Bearer token={right}"), NONE),
        ("Bearer".to_owned(), NOTHING),
        ("Bearer ".to_owned(), NOTHING),
        (String::new(), NOTHING),
        (right.clone(), NOTHING),
        (format!("Bearer{right}"), NOTHING),
        (format!("Bearer:{right}"), NOTHING),
        (format!("Token {right}"), NOTHING),
        (format!("JWT {right}"), NOTHING),
        (format!("DPoP {right}"), NOTHING),
        (format!("Negotiate {right}"), NOTHING),
        (format!("Basic {right}"), NOTHING),
        (format!("Basic {}", base64url(format!("checkout:{right}"))), NOTHING),
        (format!("Digest username=\"checkout\", response=\"{right}\""), NOTHING),
    ];
    for (protocol, client) in clients(&federated) {
        for (value, due) in &cases {
            let answer = decided(write(&client, &federated, &[("authorization", value.clone())])).await;
            answer.expect(&format!("{protocol}, {value:.40}"), due);
            assert!(!answer.text().contains(&right), "the token is in {}", answer.text());
        }
    }
}

#[tokio::test]
async fn two_credentials_are_none() {
    let federated = Federated::start().await;
    let (right, basic) = (format!("Bearer {}", good()), "Basic Y2hlY2tvdXQ6eA==".to_owned());
    let expired = format!("Bearer {}", minted(&claims_with(&json!({"exp": claims()["iat"]}))));
    let fixed = format!("Bearer {}", token("ci"));
    for (protocol, client) in clients(&federated) {
        for other in [&right, &expired, &basic, &fixed, &String::new()] {
            for pair in [[&right, other], [other, &right]] {
                let headers = pair.map(|value| ("authorization", value.clone()));
                let answer = decided(write(&client, &federated, &headers)).await;
                answer.expect(&format!("{protocol}, {pair:.20?}"), NONE);
            }
        }
    }
}

#[tokio::test]
async fn a_token_anywhere_else_is_not_looked_at() {
    let federated = Federated::start().await;
    let right = good();
    let names = ["proxy-authorization", "x-authorization", "x-access-token", "x-forwarded-authorization"];
    for (protocol, client) in clients(&federated) {
        for name in names {
            let headers = [(name, format!("Bearer {right}"))];
            decided(write(&client, &federated, &headers)).await.expect(&format!("{protocol}, {name}"), "401");
        }
        for name in ["access_token", "token", "authorization", "zombi", "session", "__Host-zombi"] {
            let headers = [("cookie", format!("{name}={right}"))];
            decided(write(&client, &federated, &headers)).await.expect(&format!("cookie {name}"), "401");
            let url = federated.z.url(&format!("/tables/t?{name}={right}"));
            for method in [Method::POST, Method::GET] {
                let body = json!({"payload": 1});
                let answer = decided(client.request(method.clone(), &url).json(&body)).await;
                let decision = answer.decision();
                assert!(
                    ["401", "400 bad_query"].contains(&decision.as_str()),
                    "{method} ?{name}: {decision}"
                );
                assert!(!answer.text().contains(&right), "the token is in {}", answer.text());
            }
            let request = client.post(federated.z.url("/tables/t"));
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            let answer = decided(request.body(format!("{name}={right}"))).await;
            answer.expect(&format!("form {name}"), "401");
        }
        // Beside a right one it is a parameter that nobody knows.
        let url = federated.z.url(&format!("/tables/t?access_token={right}"));
        let answer = decided(client.get(url).bearer_auth(&right)).await;
        assert_eq!(answer.decision(), "400 bad_query", "{}", answer.body);
        assert!(!answer.text().contains(&right), "the token is in {}", answer.text());
    }
}

#[tokio::test]
async fn who_is_not_let_in_need_not_send_the_body() {
    let federated = Federated::start().await;
    let expired = minted(&claims_with(&json!({"exp": claims()["iat"]})));
    let cases = [
        (String::new(), 401),
        (format!("authorization: Bearer {expired}\r\n"), 401),
        (format!("authorization: Bearer {}\r\n", good()), 100),
    ];
    for content_type in ["application/json", "application/x-ndjson", "application/x-protobuf"] {
        for (credential, status) in &cases {
            let headers = format!("{credential}content-length: 1000000\r\nexpect: 100-continue\r\n");
            let head = raw::post_head("/tables/t", content_type, &headers);
            let mut socket = raw::send(federated.z.address(), head).await;
            let came = raw::read_until(&mut socket, "\r\n\r\n").await;
            assert_eq!(raw::status(&came), *status, "{content_type}: {came}");
        }
    }
}
