//! Clients that are known by their certificate, where nobody is let in whom the policy does not name.

use std::fs;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Site;
use crate::auth::secured::{entry, token, tokens_file};
use testing::{certificates::Certified, tls::TlsClient};

const ONCALL: &str = "spiffe://corp/ns/ops/sa/oncall";

#[tokio::test]
async fn a_certificate_is_a_principal_that_the_policy_names_and_a_token_counts_before_it() {
    let Some(site) = Site::new().await else { return };
    let write = |name: &str, text: String| {
        let path = site.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let bindings = json!([{"subjects": [format!("cert:{ONCALL}")], "role": "owner", "tables": ["orders"]}]);
    let policy = write("policy.yaml", json!({"version": 1, "bindings": bindings}).to_string());
    let tokens = write("tokens.yaml", tokens_file(&[entry("ci", &token("ci"))]));
    let authorities = site.authority.own.cert.display().to_string();
    let settings = [
        ("tls.client_auth", "required"),
        ("tls.client_ca_file", authorities.as_str()),
        ("auth.mode", "required"),
        ("auth.policy_file", policy.as_str()),
        ("auth.tokens_file", tokens.as_str()),
    ];
    let z = site.serve(&settings).await;
    let named = |name: &str, says: String| site.authority.sign(name, &says);
    let oncall = named("oncall", format!("subjectAltName = URI:{ONCALL}"));
    let other = named("other", "subjectAltName = URI:spiffe://corp/ns/shop/sa/other".to_owned());
    let nameless = named("nameless", "subjectAltName = DNS:oncall".to_owned());
    let both = named("both", format!("subjectAltName = URI:{ONCALL}, URI:spiffe://corp/ns/shop/sa/other"));
    let (ci, unknown) = (token("ci"), token("unknown"));
    type CallerCase<'a> = (&'a Certified, Option<&'a str>, &'a str, u16, Value);
    let forbidden = |who: &str, table: &str| {
        let resource = format!("table {table}");
        json!({"code": "forbidden", "principal": who, "verb": "append", "resource": resource})
    };
    let unauthenticated = |reason: Value| json!({"code": "unauthenticated", "reason": reason});
    let cases: [CallerCase<'_>; 8] = [
        (&oncall, None, "orders", 201, json!({})),
        (&oncall, None, "secret", 403, forbidden(&format!("cert:{ONCALL}"), "secret")),
        (&other, None, "orders", 403, forbidden("cert:spiffe://corp/ns/shop/sa/other", "orders")),
        (&nameless, None, "orders", 401, unauthenticated(json!(null))),
        (&both, None, "orders", 401, unauthenticated(json!(null))),
        (&oncall, Some(&ci), "orders", 403, forbidden("token:ci", "orders")),
        (&oncall, Some(&unknown), "orders", 401, unauthenticated(json!("unknown_token"))),
        (&oncall, Some("zmb_x"), "orders", 401, unauthenticated(json!("malformed"))),
    ];
    for protocol in ["http/1.1", "h2"] {
        for (shown, token, table, status, said) in &cases {
            let client = TlsClient::showing(shown, &site.authority);
            let mut connection = client.open(z.address(), protocol).await.unwrap();
            if let Some(token) = token {
                connection = connection.with_token(token);
            }
            let answer = connection.post(&format!("/tables/{table}"), &json!({"payload": 1})).await.unwrap();
            let what = format!("{:?} with {token:?} at {table}, {protocol}", shown.cert);
            assert_eq!(answer.status().as_u16(), *status, "{what}: {}", answer.body());
            for (name, value) in said.as_object().unwrap() {
                assert_eq!(&answer.body()[name.as_str()], value, "{what}: {}", answer.body());
            }
        }
    }
    let client = TlsClient::showing(&oncall, &site.authority);
    let page = client.open(z.address(), "h2").await.unwrap().get("/tables/orders").await.unwrap();
    assert_eq!((page.status(), &page.body()["count"]), (StatusCode::OK, &json!(2)), "{}", page.body());
}
