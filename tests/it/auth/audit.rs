//! The audit log: one JSON object a line on standard error, whatever becomes of the other lines. It says who
//! did what, and never with which token.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::secured::{NO_ONE, Secured, ask, binding, comes, ends, policy, token};

/// Denials of one kind are said once in this time.
const TURN: Duration = Duration::from_secs(10);

/// A line of the audit log.
#[derive(Debug)]
pub(super) struct AuditSeen(Value);

impl AuditSeen {
    /// The line, if it is one of the audit log.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["target"] == "zombi::audit").then_some(Self(line))
    }

    /// A field, wherever the form of a line has its fields.
    pub(super) fn field(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or_else(|| &self.0["fields"][name])
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.field(name).as_str().unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }

    /// The status as a number.
    pub(super) fn status(&self) -> u64 {
        let status = self.field("status");
        let number = status.as_u64().or_else(|| status.as_str()?.parse().ok());
        number.unwrap_or_else(|| panic!("no status in {}", self.0))
    }

    /// How many denials it stands for.
    pub(super) fn count(&self) -> u64 {
        self.field("count").as_u64().unwrap_or(1)
    }
}

/// `reader` and `writer` of `orders`, who may do no more, `boss`, and `nobody`.
pub(super) async fn start(settings: &[(&str, &str)]) -> Secured {
    let bindings = [
        binding("reader", "consumer", &["orders"], &["billing"]),
        binding("writer", "producer", &["orders"], &[]),
        binding("boss", "operator", &["*"], &["*"]),
    ];
    Secured::start(&policy(&bindings), &["reader", "writer", "boss", "nobody"], settings).await
}

/// The next line of the audit log.
pub(super) async fn next(s: &mut Secured) -> AuditSeen {
    loop {
        let line = s.z.log_line("").await;
        if let Some(seen) = AuditSeen::parse(&line) {
            return seen;
        }
    }
}

/// The lines of the audit log up to one of a verb, and this one.
async fn until(s: &mut Secured, verb: &str) -> Vec<AuditSeen> {
    let mut all = Vec::new();
    loop {
        let seen = next(s).await;
        let is_last = seen.field("verb") == verb;
        all.push(seen);
        if is_last {
            return all;
        }
    }
}

/// Changes the level of the other lines, as an operator.
async fn set_level(s: &Secured, level: &str) {
    let (status, body) = ask(s.admin("boss", Method::PUT, "/log/level").json(&json!({"level": level}))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

#[tokio::test]
async fn a_change_is_said_with_who_made_it_in_either_format_of_the_log() {
    for format in ["text", "json"] {
        let mut s = start(&[("log.format", format)]).await;
        // By itself an append or a read is no change of anything that is run.
        assert_eq!(s.post("writer", "/tables/orders", &json!({"payload": 1})).await.0, StatusCode::CREATED);
        assert_eq!(s.get("reader", "/tables/orders").await.0, StatusCode::OK);
        let change = s.request("boss", Method::PUT, "/tables/orders/config").header("x-request-id", "mine-1");
        let change = change.header("x-forwarded-for", "203.0.113.9");
        assert_eq!(ask(change.json(&json!({"retention_secs": 60}))).await.0, StatusCode::OK);

        let said = next(&mut s).await;
        let texts = ["request_id", "principal", "verb", "table"].map(|name| said.text(name));
        assert_eq!(texts, ["mine-1", "token:boss", "manage", "orders"], "{format}: {said:?}");
        assert_eq!(said.status(), 200, "{format}: {said:?}");
        assert!(said.text("peer").contains("127.0.0.1"), "nobody is believed a peer: {said:?}");
        assert!(!said.field("binding").is_null(), "which binding let it in: {said:?}");
        let allowed = said.text("decision").to_owned();

        let denied = s.request("nobody", Method::DELETE, "/tables/orders").header("x-request-id", "mine-2");
        assert_eq!(ask(denied).await.0, StatusCode::FORBIDDEN);
        let said = next(&mut s).await;
        let texts = ["request_id", "principal", "verb", "table"].map(|name| said.text(name));
        assert_eq!(texts, ["mine-2", "token:nobody", "manage", "orders"], "{format}: {said:?}");
        assert_eq!(said.status(), 403, "{format}: {said:?}");
        assert!(said.text("peer").contains("127.0.0.1"), "{format}: {said:?}");
        assert_ne!(said.text("decision"), allowed, "{format}: {said:?}");

        assert_eq!(s.delete("boss", "/tables/orders").await.0, StatusCode::NO_CONTENT);
        let said = next(&mut s).await;
        assert_eq!((said.text("verb"), said.status()), ("manage", 204), "{format}: {said:?}");
        set_level(&s, "info").await;
        assert_eq!(next(&mut s).await.text("verb"), "operate", "{format}");
    }
}

/// Beside the audit log, in which it is one of many.
#[tokio::test]
async fn the_line_about_a_change_names_who_made_it_too() {
    let mut s = start(&[("log.format", "json"), ("audit.log", "off")]).await;
    assert_eq!(s.post("writer", "/tables/orders", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    set_level(&s, "off").await;
    let change = s.request("boss", Method::PUT, "/tables/orders/config").json(&json!({"retention_secs": 60}));
    assert_eq!(ask(change).await.0, StatusCode::OK);
    let line: Value = serde_json::from_str(&s.z.log_line("settings changed").await).unwrap();
    let said = ["table", "principal", "peer"].map(|name| &line[name]);
    assert_eq!(said, ["orders", "token:boss", "127.0.0.1"], "{line}");
}

#[tokio::test]
async fn a_denial_is_said_at_once_whatever_is_asked_for() {
    let mut s = start(&[]).await;
    // One of each reason: those of one kind are counted together.
    let no_credential = s.request(NO_ONE, Method::GET, "/tables/orders");
    assert_eq!(ask(no_credential).await.0, StatusCode::UNAUTHORIZED);
    let said = next(&mut s).await;
    assert_eq!((said.status(), said.text("verb")), (401, "read"), "{said:?}");
    let unknown = s.request("stranger", Method::GET, "/tables/orders");
    assert_eq!(ask(unknown).await.0, StatusCode::UNAUTHORIZED);
    let said = next(&mut s).await;
    assert_eq!(said.status(), 401, "{said:?}");
    let forbidden = s.request("reader", Method::DELETE, "/consumers/billing");
    assert_eq!(ask(forbidden).await.0, StatusCode::FORBIDDEN);
    let said = next(&mut s).await;
    assert_eq!(
        (said.status(), said.text("verb"), said.text("group")),
        (403, "rewind", "billing"),
        "{said:?}"
    );
}

#[tokio::test]
async fn the_level_of_the_log_does_not_silence_it() {
    for level in ["off", "error"] {
        let mut s = start(&[("audit.log", "all")]).await;
        set_level(&s, level).await;
        until(&mut s, "operate").await;
        assert_eq!(s.put("boss", "/tables/orders/config", &json!({})).await.0, StatusCode::CREATED);
        assert_eq!(until(&mut s, "manage").await.len(), 1, "{level}");
        assert_eq!(s.post("writer", "/tables/orders", &json!({"payload": 1})).await.0, StatusCode::CREATED);
        until(&mut s, "append").await;
        assert_eq!(s.get("nobody", "/tables/orders").await.0, StatusCode::FORBIDDEN);
        assert_eq!(next(&mut s).await.status(), 403, "{level}");
    }
}

#[tokio::test]
async fn all_that_is_done_is_said_where_that_is_asked_for() {
    let mut s = start(&[("audit.log", "all")]).await;
    let records = json!({"records": [{"payload": "abc"}, {"payload": "def"}, {"payload": 1}]});
    assert_eq!(s.post("writer", "/tables/orders/bulk", &records).await.0, StatusCode::CREATED);
    let said = next(&mut s).await;
    let texts = ["principal", "verb", "table"].map(|name| said.text(name));
    assert_eq!(texts, ["token:writer", "append", "orders"], "{said:?}");
    assert_eq!((said.status(), said.field("records").as_u64()), (201, Some(3)), "{said:?}");
    assert!(said.field("bytes").as_u64().is_some_and(|bytes| bytes > 0), "{said:?}");

    assert_eq!(s.get("reader", "/tables/orders").await.0, StatusCode::OK);
    let said = next(&mut s).await;
    let texts = ["principal", "verb", "table"].map(|name| said.text(name));
    assert_eq!(texts, ["token:reader", "read", "orders"], "{said:?}");

    let commit = json!({"table": "orders", "offset": 1});
    assert_eq!(s.post("reader", "/consumers/billing/commit", &commit).await.0, StatusCode::OK);
    let said = next(&mut s).await;
    let texts = ["principal", "verb", "group"].map(|name| said.text(name));
    assert_eq!(texts, ["token:reader", "commit", "billing"], "{said:?}");
}

#[tokio::test]
async fn what_was_moved_is_said_once_all_of_it_was() {
    let mut s = start(&[("audit.log", "all")]).await;
    let lines = "{\"payload\":\"abc\"}\n".repeat(3);
    let write = s.request("writer", Method::POST, "/tables/orders");
    let write = write.header("content-type", "application/x-ndjson").body(lines.clone());
    assert_eq!(ask(write).await.0, StatusCode::CREATED);
    let moved = |said: &AuditSeen| (said.field("records").as_u64(), said.field("bytes").as_u64());
    assert_eq!(moved(&next(&mut s).await), (Some(3), Some(lines.len() as u64)), "as many as it brought");

    for accept in ["application/json", "application/x-protobuf", "application/x-ndjson"] {
        let read = s.request("reader", Method::GET, "/tables/orders").header("accept", accept);
        let body = read.send().await.unwrap().bytes().await.unwrap();
        let said = next(&mut s).await;
        assert_eq!(moved(&said), (Some(3), Some(body.len() as u64)), "{accept}: {said:?}");
        assert_eq!((said.text("table"), said.status()), ("orders", 200), "{accept}: {said:?}");
    }
    // What has no end is said when it ends.
    let mut tail = s.tail("reader", "orders?limit=4").await;
    comes(&mut tail, "id:").await;
    assert_eq!(
        s.post("writer", "/tables/orders", &json!({"payload": "the last"})).await.0,
        StatusCode::CREATED
    );
    ends(tail).await;
    // Whichever is told first: the tail may end before the write is answered.
    let both = [next(&mut s).await, next(&mut s).await];
    let said = both.iter().find(|said| said.text("verb") == "read").expect("the tail is said, too");
    assert_eq!(said.field("records").as_u64(), Some(4), "{said:?}");
    assert!(said.field("bytes").as_u64().is_some_and(|bytes| bytes > 50), "{said:?}");
    // A list, which is sent piece by piece, too.
    let listed = s.request("reader", Method::GET, "/tables").send().await.unwrap().bytes().await.unwrap();
    let said = next(&mut s).await;
    assert_eq!(said.field("bytes").as_u64(), Some(listed.len() as u64), "{said:?}");
}

#[tokio::test]
async fn whoever_is_denied_is_named_once_that_is_known() {
    let mut s = start(&[]).await;
    for path in ["/stats", "/metrics", "/log/level"] {
        let denied = s.request("reader", Method::GET, path).header("x-request-id", "mine");
        assert_eq!(ask(denied).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    let said = next(&mut s).await;
    assert_eq!([said.text("principal"), said.text("verb")], ["token:reader", "operate"], "{said:?}");
    assert_eq!((said.text("reason"), said.text("request_id")), ("forbidden", "mine"), "{said:?}");
}

#[tokio::test]
async fn denials_that_were_counted_are_said_when_the_server_stops() {
    let mut s = start(&[]).await;
    deny(&s, "stranger", 60).await;
    let (code, log) = s.z.terminate_with_log().await;
    assert_eq!(code, Some(0));
    let said: u64 = log.lines().filter_map(AuditSeen::parse).map(|seen| seen.count()).sum();
    assert_eq!(said, 60, "{log}");
}

/// All lines up to the one that says that the level was changed.
async fn lines_until_level(s: &mut Secured) -> Vec<String> {
    set_level(s, "info").await;
    let mut lines = Vec::new();
    loop {
        let line = s.z.log_line("").await;
        let is_last = line.contains("log level changed");
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}

#[tokio::test]
async fn nothing_is_said_where_it_is_off() {
    let mut s = start(&[("audit.log", "off")]).await;
    s.post("writer", "/tables/orders", &json!({"payload": 1})).await;
    s.delete("boss", "/tables/orders").await;
    assert_eq!(s.get("nobody", "/tables/orders").await.0, StatusCode::FORBIDDEN);
    assert_eq!(s.get("stranger", "/tables/orders").await.0, StatusCode::UNAUTHORIZED);
    for line in lines_until_level(&mut s).await {
        assert!(!line.contains("zombi::audit"), "{line}");
    }
}

/// As many requests at once as may be, all of which are denied.
async fn deny(s: &Secured, who: &str, count: usize) {
    for _ in 0..count / 20 {
        for response in join_all((0..20).map(|_| s.request(who, Method::GET, "/tables/secret").send())).await
        {
            let status = response.unwrap().status();
            assert!([401, 403].contains(&status.as_u16()), "{status}");
        }
    }
}

#[tokio::test]
async fn many_denials_are_few_lines() {
    for who in ["nobody", "stranger", NO_ONE] {
        let mut s = start(&[]).await;
        let began = Instant::now();
        deny(&s, who, 200).await;
        let took = began.elapsed();
        let (mut lines, mut sum, mut last) = (0, 0, 0);
        // The last line may say how many came since the one before, or how many there were.
        while sum < 200 && last < 200 {
            let said = next(&mut s).await;
            assert!([401, 403].contains(&said.status()), "{said:?}");
            last = said.count();
            (lines, sum) = (lines + 1, sum + last);
        }
        // Where it takes longer to send them, there are more turns.
        let most = 3 + took.as_secs() / TURN.as_secs();
        assert!(lines <= most, "{lines} lines for 200 denials of {who:?} in {took:?}");
        assert!(sum <= 201, "{sum} denials of {who:?} are said");
    }
}

#[tokio::test]
async fn denials_of_another_kind_are_not_hidden_by_many_of_one() {
    let mut s = start(&[]).await;
    deny(&s, "stranger", 100).await;
    assert_eq!(s.get("nobody", "/tables/secret").await.0, StatusCode::FORBIDDEN);
    // Lines of the first kind may come before and behind it.
    while next(&mut s).await.status() != 403 {}
}

#[tokio::test]
async fn a_peer_behind_a_trusted_proxy_is_named() {
    let mut s = start(&[("http.trusted_proxies", "127.0.0.0/8")]).await;
    let change = s.request("boss", Method::PUT, "/tables/orders/config");
    let change = change.header("x-forwarded-for", "203.0.113.9").json(&json!({}));
    assert_eq!(ask(change).await.0, StatusCode::CREATED);
    let said = next(&mut s).await;
    assert!(said.text("peer").contains("203.0.113.9"), "{said:?}");
}

#[tokio::test]
async fn no_line_of_any_level_and_no_metric_has_a_token() {
    let mut s = start(&[("log.level", "trace"), ("audit.log", "all")]).await;
    let secrets = ["writer", "reader", "boss", "nobody", "stranger"].map(token);
    s.post("writer", "/tables/orders", &json!({"payload": 1})).await;
    s.get("reader", "/tables/orders").await;
    for secret in &secrets {
        let path = format!("/tables/orders?access_token={secret}");
        for answer in
            [s.get(NO_ONE, &path).await, s.get("reader", &path).await, s.get("stranger", &path).await]
        {
            assert!(answer.0.is_client_error(), "{}", answer.1);
            assert!(!answer.1.to_string().contains(secret), "{}", answer.1);
        }
        for (name, value) in [
            ("cookie", format!("token={secret}")),
            ("authorization", format!("Basic {secret}")),
            ("authorization", format!("Bearer {secret}x")),
            ("authorization", secret.clone()),
        ] {
            let (status, problem) =
                ask(s.request(NO_ONE, Method::GET, "/tables/orders").header(name, value)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{name}: {problem}");
            assert!(!problem.to_string().contains(secret), "{problem}");
        }
    }
    let metrics = s.z.admin_metrics().await;
    let mut lines = lines_until_level(&mut s).await;
    lines.extend(metrics.lines().map(str::to_owned));
    for secret in &secrets {
        // A third of it is too much, too.
        let part = &secret[..20];
        if let Some(line) = lines.iter().find(|line| line.contains(part)) {
            panic!("a token is said: {line}");
        }
    }
    assert!(lines.iter().any(|line| AuditSeen::parse(line).is_some()), "there were lines of the audit log");
}
