//! The audit log as it is written.

use std::{
    io, mem,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, LazyLock},
};

use serde_json::{Value, json};
use tokio::time::advance;
use tracing::{
    Dispatch,
    level_filters::LevelFilter,
    subscriber::{DefaultGuard, set_default},
};
use tracing_subscriber::{layer::SubscriberExt, registry};

use super::{
    denials::{MAX_TURNS, TURN},
    *,
};
use crate::auth::principal::Principal;

/// What was written.
#[derive(Debug, Clone)]
pub(crate) struct WrittenLines(Arc<Mutex<Vec<u8>>>);

impl WrittenLines {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        // While there is only one subscriber, an event that happens first on a thread without it is turned
        // off for all threads.
        static ANOTHER: LazyLock<Dispatch> =
            LazyLock::new(|| Dispatch::new(registry().with(LevelFilter::OFF)));
        LazyLock::force(&ANOTHER);
        Self(Arc::default())
    }

    /// What a layer writes to.
    pub(crate) fn writer(&self) -> impl Fn() -> Self + Send + Sync + 'static + use<> {
        let this = self.clone();
        move || this.clone()
    }

    /// Takes the lines that were written since the last time.
    pub(crate) fn take(&self) -> Vec<String> {
        let written = String::from_utf8(mem::take(&mut *self.0.lock())).unwrap();
        written.lines().map(str::to_owned).collect()
    }

    fn take_json(&self) -> Vec<Value> {
        self.take().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Takes the counts of the lines.
    fn take_counts(&self) -> Vec<Option<u64>> {
        self.take_json().iter().map(|line| line["count"].as_u64()).collect()
    }
}

impl io::Write for WrittenLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An audit log, and what it writes on this thread until the guard is dropped.
fn start(log: AuditLog) -> (AuditTrail, WrittenLines, DefaultGuard) {
    let lines = WrittenLines::new();
    let guard = set_default(registry().with(layer(lines.writer())));
    (AuditTrail::new(AuditSettings { log }), lines, guard)
}

/// A request from 10.1.2.3.
fn request(verb: Verb, outcome: AuditOutcome) -> AuditRecord<'static> {
    let status = if matches!(outcome, AuditOutcome::Denied { .. }) { 401 } else { 200 };
    AuditRecord {
        request_id: "mine-1",
        principal: None,
        peer: Ipv4Addr::new(10, 1, 2, 3).into(),
        verb,
        table: Some("orders"),
        group: None,
        outcome,
        status,
        records: None,
        bytes: 0,
    }
}

fn denied(reason: &'static str) -> AuditRecord<'static> {
    request(Verb::Read, AuditOutcome::Denied { reason })
}

#[test]
fn a_line_says_who_did_what() {
    let (audit, lines, _guard) = start(AuditLog::All);
    let principal = Principal::Token("ci".to_owned());
    audit.record(&AuditRecord {
        principal: Some(&principal),
        group: Some("billing"),
        status: 201,
        records: Some(3),
        bytes: 120,
        ..request(Verb::Append, AuditOutcome::Allowed { binding: Some(2) })
    });
    audit.record(&denied("unknown_token"));
    let mut said = lines.take_json();
    for line in &mut said {
        let timestamp = line.as_object_mut().unwrap().remove("timestamp");
        assert!(timestamp.is_some_and(|time| time.as_str().is_some_and(|time| time.ends_with('Z'))));
    }
    let allowed = json!({
        "level": "INFO", "target": "zombi::audit", "request_id": "mine-1", "principal": "token:ci",
        "peer": "10.1.2.3", "verb": "append", "table": "orders", "group": "billing", "decision": "allowed",
        "status": 201, "records": 3, "bytes": 120, "binding": 2,
    });
    let denied = json!({
        "level": "INFO", "target": "zombi::audit", "request_id": "mine-1", "peer": "10.1.2.3", "verb": "read",
        "table": "orders", "decision": "denied", "reason": "unknown_token", "status": 401, "bytes": 0,
    });
    assert_eq!(said, [allowed, denied]);
}

#[test]
fn the_setting_says_which_requests_are_in_it() {
    let off: &[&str] = &[];
    let changes: &[&str] = &["rewind", "manage", "operate"];
    let all: &[&str] = &["append", "read", "commit", "rewind", "manage", "operate"];
    for (log, wanted) in [(AuditLog::Off, off), (AuditLog::Changes, changes), (AuditLog::All, all)] {
        let (audit, lines, _guard) = start(log);
        for verb in
            [Verb::Append, Verb::Read, Verb::Commit, Verb::Rewind, Verb::Manage, Verb::Operate, Verb::Open]
        {
            audit.record(&request(verb, AuditOutcome::Allowed { binding: None }));
        }
        let said = lines.take_json();
        let verbs: Vec<&str> = said.iter().filter_map(|line| line["verb"].as_str()).collect();
        assert_eq!(verbs, wanted, "{log:?}");
        audit.record(&denied("expired"));
        assert_eq!(lines.take().len(), usize::from(log != AuditLog::Off), "{log:?}");
    }
}

#[test]
fn nothing_that_is_sent_can_make_a_line_or_a_field_of_its_own() {
    let (audit, lines, _guard) = start(AuditLog::All);
    let text = "a\"}\n{\"decision\":\"allowed\\\u{1b}[31m\u{2028}\r\0";
    let principal = Principal::Oidc(text.to_owned());
    let record = denied("forbidden");
    audit.record(&AuditRecord { request_id: text, principal: Some(&principal), table: Some(text), ..record });
    let said = lines.take();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(!said[0].contains(char::is_control), "{said:?}");
    let line: Value = serde_json::from_str(&said[0]).unwrap();
    assert_eq!(line["principal"], format!("oidc:{text}"));
    assert_eq!((&line["request_id"], &line["table"]), (&json!(text), &json!(text)));
    assert_eq!(line["decision"], "denied");
}

#[tokio::test(start_paused = true)]
async fn denials_are_said_at_once_and_then_once_in_ten_seconds() {
    let (audit, lines, _guard) = start(AuditLog::Changes);
    audit.record(&denied("expired"));
    assert_eq!(lines.take_counts(), [None]);
    for _ in 0..198 {
        audit.record(&denied("expired"));
    }
    advance(TURN - Duration::from_millis(1)).await;
    audit.flush(Instant::now());
    audit.record(&AuditRecord { request_id: "mine-2", ..denied("expired") });
    assert!(lines.take().is_empty());

    advance(Duration::from_millis(1)).await;
    audit.record(&denied("expired"));
    let said = lines.take_json();
    assert_eq!(said.len(), 1, "the last one counts for the next line: {said:?}");
    assert_eq!((&said[0]["count"], &said[0]["request_id"]), (&json!(199), &json!("mine-2")));
    assert_eq!((&said[0]["peer"], &said[0]["reason"]), (&json!("10.1.2.3"), &json!("expired")));
    advance(TURN).await;
    audit.flush(Instant::now());
    assert_eq!(lines.take_counts(), [Some(1)]);

    advance(TURN).await;
    audit.flush(Instant::now());
    assert!(lines.take().is_empty());
    audit.record(&denied("expired"));
    assert_eq!(lines.take_counts(), [None], "it was quiet for a turn");
}

#[tokio::test(start_paused = true)]
async fn one_kind_of_denial_does_not_hide_another() {
    let (audit, lines, _guard) = start(AuditLog::Changes);
    let elsewhere = AuditRecord { peer: Ipv4Addr::new(10, 1, 2, 4).into(), ..denied("expired") };
    for record in [denied("expired"), denied("forbidden"), elsewhere] {
        audit.record(&record);
        assert_eq!(lines.take_counts(), [None]);
        audit.record(&record);
        assert!(lines.take().is_empty());
    }
    let mapped =
        AuditRecord { peer: Ipv4Addr::new(10, 1, 2, 4).to_ipv6_mapped().into(), ..denied("expired") };
    audit.record(&mapped);
    assert!(lines.take().is_empty(), "it is the same peer");
    advance(TURN).await;
    audit.flush(Instant::now());
    let said = lines.take_json();
    let counts: Vec<Option<u64>> = said.iter().map(|line| line["count"].as_u64()).collect();
    assert_eq!(counts, [Some(1), Some(1), Some(2)]);
    assert_eq!(said[2]["peer"], "10.1.2.4");
}

#[tokio::test(start_paused = true)]
async fn a_network_of_64_bits_is_one_peer() {
    let (audit, lines, _guard) = start(AuditLog::Changes);
    for host in 0..100 {
        let peer = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host);
        audit.record(&AuditRecord { peer: peer.into(), ..denied("expired") });
    }
    assert_eq!(lines.take_counts(), [None]);
    let peer = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1);
    audit.record(&AuditRecord { peer: peer.into(), ..denied("expired") });
    assert_eq!(lines.take_counts(), [None]);
}

#[tokio::test(start_paused = true)]
async fn denials_of_very_many_peers_are_bounded_and_all_are_counted() {
    let (audit, lines, _guard) = start(AuditLog::Changes);
    for _ in 0..2 {
        for number in 0..3000u32 {
            let peer = Ipv4Addr::from_bits(0x0a00_0000 + number);
            audit.record(&AuditRecord { peer: peer.into(), ..denied("unknown_token") });
        }
    }
    let at_once = lines.take().len();
    assert_eq!(at_once, MAX_TURNS + 1);
    audit.record(&AuditRecord { peer: Ipv4Addr::LOCALHOST.into(), ..denied("forbidden") });
    let said = lines.take_json();
    assert_eq!((said.len(), &said[0]["peer"]), (1, &json!("127.0.0.1")), "another reason is said");

    advance(TURN).await;
    audit.flush(Instant::now());
    let said = lines.take_json();
    let counted: u64 = said.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!((said.len(), at_once as u64 + counted), (MAX_TURNS + 1, 6000));
    let mut rest: Vec<Value> = said.into_iter().filter(|line| line.get("peer").is_none()).collect();
    assert_eq!(rest.len(), 1, "{rest:?}");
    rest[0].as_object_mut().unwrap().remove("timestamp");
    let count = 2 * (3000 - MAX_TURNS) - 1;
    let wanted = json!({
        "level": "INFO", "target": "zombi::audit", "decision": "denied", "reason": "unknown_token",
        "status": 401, "count": count,
    });
    assert_eq!(rest[0], wanted);

    advance(TURN).await;
    audit.flush(Instant::now());
    assert!(lines.take().is_empty());
    let peer = Ipv4Addr::from_bits(0x0a00_0000 + 2999);
    audit.record(&AuditRecord { peer: peer.into(), ..denied("unknown_token") });
    assert_eq!(lines.take_json()[0]["peer"], "10.0.11.183", "there is a place for it again");
}

#[tokio::test(start_paused = true)]
async fn the_task_says_what_is_due_and_in_the_end_the_rest() {
    let (audit, lines, _guard) = start(AuditLog::Changes);
    let (audit, stop) = (Arc::new(audit), CancellationToken::new());
    let (ours, stopped) = (Arc::clone(&audit), stop.clone());
    let task = tokio::spawn(async move { ours.run(stopped).await });
    for _ in 0..3 {
        audit.record(&denied("expired"));
    }
    assert_eq!(lines.take_counts(), [None]);
    sleep(TURN + 2 * FLUSH_EVERY).await;
    assert_eq!(lines.take_counts(), [Some(2)]);
    audit.record(&denied("expired"));
    assert!(lines.take().is_empty());
    stop.cancel();
    task.await.unwrap();
    assert_eq!(lines.take_counts(), [Some(1)]);
}

#[tokio::test(start_paused = true)]
async fn there_is_nothing_to_run_where_it_is_off() {
    let (audit, ..) = start(AuditLog::Off);
    audit.run(CancellationToken::new()).await;
}
