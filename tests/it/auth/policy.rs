//! Rights are decided on the name that the handler works with: no spelling of a path, no table in a body and
//! no alias goes round them, and a refusal says nothing of what there is.

use std::fmt::Display;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::secured::{NO_ONE, Secured, StatusAndBody, ask, binding, expect, policy, token};
use testing::raw;

/// Whether somebody was let through, whatever came of it then.
fn is_let_in(what: impl Display, (status, body): &StatusAndBody) -> bool {
    match status.as_u16() {
        403 => {
            assert_eq!(body["code"], "forbidden", "{what}: {body}");
            false
        }
        status => {
            assert!(status != 401 && status < 500, "{what}: {body}");
            true
        }
    }
}

/// Nobody was let through: the principal, the verb and the resource are named.
fn forbids(what: impl Display, answer: &StatusAndBody, principal: &str, verb: &str, name: &str) {
    expect(&what, answer, 403, "forbidden");
    let body = &answer.1;
    assert_eq!((&body["principal"], &body["verb"]), (&json!(principal), &json!(verb)), "{what}: {body}");
    assert!(body["resource"].to_string().contains(name), "{what}: {name} is not named in {body}");
}

#[tokio::test]
async fn a_pattern_is_a_name_or_a_beginning_and_case_counts() {
    let bindings = [
        binding("exact", "consumer", &["orders"], &["billing", "billing-*"]),
        binding("beginning", "consumer", &["ord*"], &["*"]),
        binding("dotted", "consumer", &["payments.*", "refunds"], &["b*"]),
        binding("every", "consumer", &["*"], &["billing"]),
    ];
    let s = Secured::start(&policy(&bindings), &["exact", "beginning", "dotted", "every"], &[]).await;
    // Nothing is there: who is let in gets a 404.
    let tables: [(&str, &[&str], &[&str]); 4] = [
        ("exact", &["orders"], &["ORDERS", "Orders", "orders.x", "order", "orders2", "orders-"]),
        ("beginning", &["ord", "orders", "ord.x", "ord-", "ordORD"], &["or", "ORD", "Ord", "xord", "o"]),
        (
            "dotted",
            &["payments.eu", "payments.", "payments.a.b", "refunds"],
            &["payments", "paymentsX", "refunds2"],
        ),
        ("every", &["orders", "ORDERS", "_", "9", "a.b-c"], &[]),
    ];
    for (who, allowed, denied) in tables {
        for (names, wanted) in [(allowed, true), (denied, false)] {
            for name in names {
                let what = format!("{who} at {name}");
                let answer = s.get(who, &format!("/tables/{name}")).await;
                assert_eq!(is_let_in(&what, &answer), wanted, "{what}: {}", answer.1);
                assert!([403, 404].contains(&answer.0.as_u16()), "{what}: {}", answer.1);
            }
        }
    }
    let groups: [(&str, &[&str], &[&str]); 3] = [
        ("exact", &["billing", "billing-", "billing-eu"], &["Billing", "billing2", "billing.eu", "bill"]),
        ("dotted", &["b", "billing"], &["a", "B"]),
        ("every", &["billing"], &["billing-eu", "other"]),
    ];
    for (who, allowed, denied) in groups {
        for (names, wanted) in [(allowed, true), (denied, false)] {
            for name in names {
                let (what, answer) =
                    (format!("{who} in {name}"), s.get(who, &format!("/consumers/{name}")).await);
                assert_eq!(is_let_in(&what, &answer), wanted, "{what}: {}", answer.1);
            }
        }
    }
}

/// Paths to a table that may not be read, or that might be taken for one that may.
const SPELLINGS: [&str; 20] = [
    "/tables/secret",
    "/tables/%73ecret",
    "/tables/%73%65%63%72%65%74",
    "/tables/orders%2Fbulk",
    "/tables/orders%2fbulk",
    "/tables/orders%2f..%2fsecret",
    "/tables/orders/../secret",
    "/tables/orders/%2e%2e/secret",
    "/tables/%2e%2e",
    "/tables/..",
    "/tables/.",
    "/tables//secret",
    "//tables/secret",
    "/tables/./secret",
    "/tables/secret/",
    "/tables/secret%00",
    "/tables/ORDERS",
    "/tables/orders.x",
    "/tables/orders%20",
    "/tables/orders%252Fbulk",
];

#[tokio::test]
async fn no_spelling_of_a_path_goes_round_a_right() {
    let bindings = [binding("clerk", "owner", &["orders"], &[]), binding("boss", "operator", &["*"], &["*"])];
    let s = Secured::start(&policy(&bindings), &["clerk", "boss"], &[]).await;
    for table in ["orders", "secret"] {
        let path = format!("/tables/{table}");
        assert_eq!(s.post("boss", &path, &json!({"payload": "classified"})).await.0, StatusCode::CREATED);
    }
    let body = r#"{"payload":1}"#;
    let bulk = r#"{"records":[{"payload":1}]}"#;
    let credential = format!("authorization: Bearer {}\r\nconnection: close\r\n", token("clerk"));
    for path in SPELLINGS {
        let slash = if path.ends_with('/') { "" } else { "/" };
        for (method, path, body) in [
            ("GET", path.to_owned(), ""),
            ("GET", format!("{path}{slash}partitions"), ""),
            ("POST", path.to_owned(), body),
            ("POST", format!("{path}{slash}bulk"), bulk),
            ("PUT", format!("{path}{slash}config"), "{}"),
            ("DELETE", path.to_owned(), ""),
        ] {
            let head = format!("{method} {path} HTTP/1.1\r\nhost: z\r\n{credential}");
            let head =
                format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            let mut socket = raw::send(s.z.address(), head + body).await;
            let answer = raw::read_to_end(&mut socket).await;
            // Some are no paths, or no names.
            assert!([400, 403, 404].contains(&raw::status(&answer)), "{method} {path}: {answer}");
            assert!(!answer.contains("classified"), "{method} {path}: {answer}");
        }
    }
    // One that is only spelled differently is the same table.
    assert_eq!(s.get("clerk", "/tables/%6frders").await.1["count"], 1);
    let tables = s.get("boss", "/tables").await.1;
    let names: Vec<_> = tables["tables"].as_array().unwrap().iter().map(|table| &table["table"]).collect();
    assert_eq!(names, ["orders", "secret"], "nothing was made and nothing is gone");
    assert_eq!(s.payloads("boss", "secret").await, ["classified"]);
    assert_eq!(s.payloads("boss", "orders").await, ["classified"]);
}

#[tokio::test]
async fn a_table_may_be_called_as_the_end_of_a_path_is() {
    let names = ["orders", "bulk", "config", "partitions", "flush"];
    let bindings = names.map(|name| binding(name, "owner", &[name], &[]));
    let s = Secured::start(&policy(&bindings), &names, &[]).await;
    let (record, bulk) = (json!({"payload": 1}), json!({"records": [{"payload": 1}]}));
    for who in names {
        for table in names {
            let answers = [
                s.post(who, &format!("/tables/{table}"), &record).await,
                s.post(who, &format!("/tables/{table}/bulk"), &bulk).await,
                s.put(who, &format!("/tables/{table}/config"), &json!({})).await,
                s.get(who, &format!("/tables/{table}/config")).await,
                s.get(who, &format!("/tables/{table}/partitions")).await,
                s.get(who, &format!("/tables/{table}")).await,
                s.post(who, &format!("/tables/{table}/flush"), &json!(null)).await,
            ];
            for (at, answer) in answers.iter().enumerate() {
                let what = format!("{who} at {table}, request {at}");
                assert_eq!(is_let_in(&what, answer), who == table, "{what}: {}", answer.1);
            }
        }
    }
    for name in names {
        assert_eq!(s.payloads(name, name).await.len(), 2, "{name}");
    }
}

const CLOUD_EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"paid","data":1}"#;

#[tokio::test]
async fn a_write_that_is_refused_writes_nothing_in_any_encoding() {
    let bindings =
        [binding("clerk", "producer", &["orders"], &[]), binding("boss", "operator", &["*"], &["*"])];
    let s = Secured::start(&policy(&bindings), &["clerk", "boss"], &[]).await;
    let (lines, batch) = ("{\"payload\":1}\n".repeat(10_000), format!("[{CLOUD_EVENT}]"));
    let bodies = [
        ("", "application/json", r#"{"payload":1}"#),
        ("", "application/x-ndjson", lines.as_str()),
        ("", "application/x-protobuf", "\n\u{1}x"),
        ("/bulk", "application/json", r#"{"records":[{"payload":1},{"payload":2}]}"#),
        ("/raw", "text/plain", "x"),
        ("", "application/cloudevents+json", CLOUD_EVENT),
        ("", "application/cloudevents-batch+json", batch.as_str()),
    ];
    for (end, content_type, body) in bodies {
        let send = |who: &str, table: &str| {
            let request = s.request(who, Method::POST, &format!("/tables/{table}{end}"));
            ask(request.header("content-type", content_type).body(body.to_owned()))
        };
        let refused = send("clerk", "secret").await;
        forbids(content_type, &refused, "token:clerk", "append", "secret");
        assert_eq!(refused.1["outcome"], "not_written", "{}", refused.1);
        let written = send("clerk", "orders").await;
        assert!(written.0.is_success(), "{content_type}: {} {}", written.0, written.1);
    }
    assert_eq!(s.get("boss", "/tables/secret").await.0, StatusCode::NOT_FOUND, "it was not even made");
    // Who may append may not read.
    forbids("a read", &s.get("clerk", "/tables/orders").await, "token:clerk", "read", "orders");
}

/// `clerk` may commit for `billing` what it reads of `orders`; `boss` may everything.
async fn with_commits() -> Secured {
    let mut all = json!({"version": 1, "roles": {"committer": ["commit"]}});
    all["bindings"] = json!([
        binding("clerk", "consumer", &["orders"], &["billing"]),
        binding("owner", "owner", &["orders"], &["billing"]),
        binding("blind", "committer", &["orders"], &["billing"]),
        binding("boss", "operator", &["*"], &["*"]),
    ]);
    let s = Secured::start(&all.to_string(), &["clerk", "owner", "blind", "boss"], &[]).await;
    for table in ["orders", "secret"] {
        for payload in 0..3 {
            s.post("boss", &format!("/tables/{table}"), &json!({"payload": payload})).await;
        }
    }
    s
}

const COMMIT: &str = "/consumers/billing/commit";

#[tokio::test]
async fn commits_of_several_tables_are_refused_whole_if_one_may_not_be_read() {
    let s = with_commits().await;
    let both = |first: &str, second: &str| {
        json!({"commits": [
            {"table": first, "offset": 1},
            {"topic": second, "offset": 1},
        ]})
    };
    for commit in [
        both("orders", "secret"),
        both("secret", "orders"),
        both("orders", "missing"),
        json!({"table": "secret", "offset": 1}),
        json!({"topic": "secret", "offset": 1}),
        json!({"topic": "missing", "offset": 1}),
    ] {
        let name = if commit.to_string().contains("secret") { "secret" } else { "missing" };
        forbids(&commit, &s.post("clerk", COMMIT, &commit).await, "token:clerk", "read", name);
    }
    assert_eq!(s.get("boss", "/consumers").await.1, json!({"groups": []}), "nothing was committed");
    let commit = json!({"topic": "orders", "offset": 1});
    forbids(
        "group",
        &s.post("clerk", "/consumers/other/commit", &commit).await,
        "token:clerk",
        "commit",
        "other",
    );
    forbids("blind", &s.post("blind", COMMIT, &commit).await, "token:blind", "read", "orders");
    assert_eq!(s.get("boss", "/consumers").await.1, json!({"groups": []}), "nothing was committed");
    assert_eq!(s.post("clerk", COMMIT, &commit).await.0, StatusCode::OK);
    for name in ["table", "topic"] {
        let path = |table: &str| format!("/consumers/billing/offset?{name}={table}");
        assert_eq!(s.get("clerk", &path("orders")).await.1["offset"], 1, "{name}");
        for table in ["secret", "missing"] {
            forbids(name, &s.get("clerk", &path(table)).await, "token:clerk", "read", table);
        }
    }
    let elsewhere = s.get("clerk", "/consumers/other/offset?table=orders").await;
    forbids("group", &elsewhere, "token:clerk", "commit", "other");
}

#[tokio::test]
async fn stepping_back_wants_another_right_than_stepping_on() {
    let s = with_commits().await;
    let commit = |offset: u64, force: bool| json!({"table": "orders", "offset": offset, "force": force});
    assert_eq!(s.post("clerk", COMMIT, &commit(2, false)).await.0, StatusCode::OK);
    // Wherever it leads to.
    for offset in [1, 2, 3] {
        let refused = s.post("clerk", COMMIT, &commit(offset, true)).await;
        forbids("force", &refused, "token:clerk", "rewind", "billing");
    }
    let listed = json!({"commits": [{"table": "orders", "offset": 1}], "force": true});
    forbids("force", &s.post("clerk", COMMIT, &listed).await, "token:clerk", "rewind", "billing");
    forbids("delete", &s.delete("clerk", "/consumers/billing").await, "token:clerk", "rewind", "billing");
    assert_eq!(s.get("clerk", "/consumers/billing/offset?table=orders").await.1["offset"], 2);
    assert_eq!(s.post("clerk", COMMIT, &commit(1, false)).await.0, StatusCode::CONFLICT, "as without rights");
    assert_eq!(s.post("owner", COMMIT, &commit(1, true)).await.0, StatusCode::OK);
    assert_eq!(s.get("clerk", "/consumers/billing/offset?table=orders").await.1["offset"], 1);
    assert_eq!(s.delete("owner", "/consumers/billing").await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_group_shows_only_what_may_be_read_of_it() {
    let s = with_commits().await;
    let commits = json!({"commits": [{"table": "orders", "offset": 1}, {"table": "secret", "offset": 1}]});
    assert_eq!(s.post("boss", COMMIT, &commits).await.0, StatusCode::OK);
    let (status, shown) = s.get("clerk", "/consumers/billing").await;
    assert_eq!(status, StatusCode::OK, "{shown}");
    assert!(!shown.to_string().contains("secret"), "{shown}");
    assert_eq!(shown["tables"], json!([{"table": "orders", "lag": 2}]), "{shown}");
    assert_eq!((shown["offsets"].as_array().unwrap().len(), &shown["lag"]), (1, &json!(2)), "{shown}");
    let shown = s.get("boss", "/consumers/billing").await.1;
    assert_eq!((shown["offsets"].as_array().unwrap().len(), &shown["lag"]), (2, &json!(4)), "{shown}");
}

#[tokio::test]
async fn a_refusal_is_the_same_whether_the_table_is_there_or_not() {
    let bindings =
        [binding("clerk", "owner", &["orders"], &["billing"]), binding("boss", "operator", &["*"], &["*"])];
    let s = Secured::start(&policy(&bindings), &["clerk", "boss"], &[]).await;
    s.post("boss", "/tables/orders", &json!({"payload": 1})).await;
    let refusals = async || {
        let mut all: Vec<(String, StatusAndBody)> = Vec::new();
        for (method, path, body) in [
            (Method::GET, "/tables/secret", json!(null)),
            (Method::GET, "/tables/secret/partitions", json!(null)),
            (Method::GET, "/tables/secret/config", json!(null)),
            (Method::GET, "/tables/secret/segments", json!(null)),
            (Method::POST, "/tables/secret", json!({"payload": 1})),
            (Method::POST, "/tables/secret/raw", json!({"payload": 1})),
            (Method::POST, "/tables/secret/bulk", json!({"records": [{"payload": 1}]})),
            (Method::PUT, "/tables/secret/config", json!({"retention_secs": 1})),
            (Method::POST, "/tables/secret/flush", json!(null)),
            (Method::POST, "/tables/secret/erase", json!({"offsets": [0]})),
            (Method::GET, "/tables/secret/erase/00000000-0000-4000-8000-000000000000", json!(null)),
            (Method::DELETE, "/tables/secret", json!(null)),
            (Method::GET, "/consumers/billing/offset?table=secret", json!(null)),
            (Method::POST, COMMIT, json!({"table": "secret", "offset": 9})),
            (Method::POST, "/consumers/billing/reset", json!({"table": "secret", "to": "earliest"})),
            (Method::GET, "/consumers/hidden", json!(null)),
            (Method::DELETE, "/consumers/hidden", json!(null)),
        ] {
            let what = format!("{method} {path}");
            let request = s.request("clerk", method, path).header("x-request-id", "the-same").json(&body);
            let answer = ask(request).await;
            assert!(!is_let_in(&what, &answer), "{what}: {}", answer.1);
            all.push((what, answer));
        }
        all
    };
    let missing = refusals().await;
    assert_eq!(s.post("boss", "/tables/secret", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    let commit = json!({"table": "secret", "offset": 1});
    assert_eq!(s.post("boss", "/consumers/hidden/commit", &commit).await.0, StatusCode::OK);
    assert_eq!(refusals().await, missing);
    assert_eq!(s.payloads("boss", "secret").await, [json!(1)]);
}

#[tokio::test]
async fn what_everybody_may_is_for_those_without_a_credential_too() {
    let open = json!({"subjects": ["*"], "anonymous": true, "role": "consumer", "tables": ["public"]});
    let team = json!({"subjects": ["token:team-*"], "role": "producer", "tables": ["public"]});
    let bindings: [Value; 3] = [open, team, binding("boss", "operator", &["*"], &["*"])];
    let s = Secured::start(&policy(&bindings), &["nobody", "team-a", "teams", "boss"], &[]).await;
    for table in ["public", "secret"] {
        assert_eq!(
            s.post("boss", &format!("/tables/{table}"), &json!({"payload": 1})).await.0,
            StatusCode::CREATED
        );
    }
    for who in [NO_ONE, "nobody", "team-a", "boss"] {
        assert_eq!(s.get(who, "/tables/public").await.1["count"], 1, "{who:?}");
    }
    expect("no credential", &s.get(NO_ONE, "/tables/secret").await, 401, "unauthenticated");
    let write = json!({"payload": 2});
    expect("no credential", &s.post(NO_ONE, "/tables/public", &write).await, 401, "unauthenticated");
    forbids("nobody", &s.get("nobody", "/tables/secret").await, "token:nobody", "read", "secret");
    assert_eq!(s.post("team-a", "/tables/public", &write).await.0, StatusCode::CREATED);
    let refused = s.post("teams", "/tables/public", &write).await;
    expect("one who is not of the team and has no right", &refused, 403, "forbidden");
    // A bad credential is not as good as none.
    expect("a bad one", &s.get("stranger", "/tables/public").await, 401, "unauthenticated");
    let listed = s.get(NO_ONE, "/tables").await.1;
    assert_eq!(listed["tables"].as_array().unwrap().len(), 1, "{listed}");
}
