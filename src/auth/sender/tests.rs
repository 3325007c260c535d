//! What a connection remembers of its last sender, and when it forgets.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::auth::{
    gate::tests::{gate, gate_with_clock},
    policy::Policy,
    refusal::CredentialRefusal,
    tokens::{NewToken, Tokens, new_token},
};
use contracts::{
    clock::{Clock, TimestampMs},
    name::TableName,
};

const ORDERS: &str =
    "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: producer, tables: [orders]}\n";
const NOBODY: &str = "version: 1\nbindings: []\n";
const EVERYBODY: &str = "version: 1\nbindings:\n- {subjects: [\"*\"], anonymous: true, role: producer}\n";

/// A clock that is set by hand.
struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now_ms(&self) -> TimestampMs {
        self.0.load(SeqCst)
    }
}

/// A connection, and what it shows with each request.
#[derive(Default)]
struct Client {
    last: LastSender,
    headers: HeaderMap,
    certificate: Option<ShownCertificate>,
    session: Option<String>,
}

impl Client {
    fn with(tokens: &[&NewToken]) -> Self {
        let mut client = Self::default();
        tokens.iter().for_each(|token| client.show(&format!("Bearer {}", token.plain)));
        client
    }

    /// Sends one more header with a credential.
    fn show(&mut self, value: &str) {
        self.headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }

    fn shown(&self) -> ShownBy<'_> {
        ShownBy {
            headers: &self.headers,
            certificate: self.certificate.as_ref(),
            session: self.session.as_deref(),
            last: &self.last,
        }
    }

    /// Whether the connection remembers who sends this.
    fn is_remembered(&self, gate: &Arc<Gate>) -> bool {
        remembered(gate, &self.shown(), Instant::now()).is_some()
    }

    /// Sends a request: who sent it, and whether that was remembered.
    async fn send(&self, gate: &Arc<Gate>) -> Result<(String, bool), AdmissionRefusal> {
        let now = Instant::now();
        if let Some((sender, _)) = remembered(gate, &self.shown(), now) {
            return Ok((sender.name.to_string(), true));
        }
        let (sender, _) = find_out(gate, &self.shown(), now).await?;
        Ok((sender.name.to_string(), false))
    }
}

fn file(tokens: &[&NewToken]) -> Tokens {
    let lines: Vec<String> = tokens.iter().map(|token| format!("{}\n", token.line)).collect();
    Tokens::parse(&format!("version: 1\ntokens:\n{}", lines.concat())).unwrap()
}

fn is(name: &str, was_remembered: bool) -> Result<(String, bool), AdmissionRefusal> {
    Ok((name.to_owned(), was_remembered))
}

fn refused(why: CredentialRefusal) -> Result<(String, bool), AdmissionRefusal> {
    Err(AdmissionRefusal::Bad(why))
}

#[tokio::test]
async fn who_sends_the_same_header_again_is_known_and_no_one_else() {
    let (gate, ci, cd) = (gate(ORDERS), new_token("ci").unwrap(), new_token("cd").unwrap());
    gate.adopt_tokens(file(&[&ci, &cd]));
    let mut client = Client::with(&[&ci]);
    for was_remembered in [false, true, true] {
        assert_eq!(client.send(&gate).await, is("token:ci", was_remembered));
    }
    client.headers.clear();
    assert_eq!(client.send(&gate).await, Err(AdmissionRefusal::NoCredential));
    client.show(&format!("bearer {}", ci.plain));
    assert_eq!(client.send(&gate).await, is("token:ci", false));
    client.headers.clear();
    client.show(&format!("Bearer {}", cd.plain));
    assert_eq!(client.send(&gate).await, is("token:cd", false));
    client.show(&format!("Bearer {}", cd.plain));
    assert_eq!(client.send(&gate).await, refused(CredentialRefusal::Malformed));
    client.headers.clear();
    client.show("Bearer nobodys");
    for _ in 0..2 {
        assert_eq!(client.send(&gate).await, refused(CredentialRefusal::UnknownToken));
    }
    // Another connection, and another gate, know nothing of it.
    let other = Client::with(&[&cd]);
    assert!(!other.is_remembered(&gate));
    client.headers = other.headers;
    assert!(client.is_remembered(&gate));
    assert!(!client.is_remembered(&crate::auth::gate::tests::gate(ORDERS)));
}

#[tokio::test]
async fn what_is_taken_over_counts_from_the_next_request_on() {
    let (gate, ci) = (gate(ORDERS), new_token("ci").unwrap());
    gate.adopt_tokens(file(&[&ci]));
    let client = Client::with(&[&ci]);
    assert_eq!(client.send(&gate).await, is("token:ci", false));
    assert!(client.is_remembered(&gate));
    let orders = TableName::parse("orders").unwrap();
    let may = |sender: &KnownSender| sender.decide(Verb::Append, Resource::Table(&orders)).is_allowed();
    let (sender, _) = remembered(&gate, &client.shown(), Instant::now()).unwrap();
    assert!(may(&sender));
    gate.adopt_policy(Policy::parse(NOBODY).unwrap());
    assert!(!client.is_remembered(&gate));
    // Even what was let in before is decided by the policy that is in force.
    assert!(!may(&sender));
    let (sender, _) = find_out(&gate, &client.shown(), Instant::now()).await.unwrap();
    assert!(!may(&sender));
    gate.adopt_policy(Policy::parse(ORDERS).unwrap());
    assert!(may(&sender));

    // Keys tell it so, and sessions that are ended.
    assert_eq!(client.send(&gate).await, is("token:ci", false));
    gate.changed.send_modify(|count| *count += 1);
    assert_eq!(client.send(&gate).await, is("token:ci", false));
    assert_eq!(client.send(&gate).await, is("token:ci", true));

    gate.adopt_tokens(file(&[&new_token("cd").unwrap()]));
    assert_eq!(client.send(&gate).await, refused(CredentialRefusal::UnknownToken));
    gate.adopt_tokens(file(&[&ci]));
    assert_eq!(client.send(&gate).await, is("token:ci", false));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_remembered_beyond_the_end_of_a_credential_or_a_minute() {
    let clock = Arc::new(HandClock(AtomicI64::new(1_798_761_600_000 - 90_000)));
    let gate = gate_with_clock(ORDERS, Arc::clone(&clock) as Arc<dyn Clock>);
    let mut ci = new_token("ci").unwrap();
    ci.line = ci.line.replace('}', ", expires: 2027-01-01T00:00:00Z}");
    gate.adopt_tokens(file(&[&ci]));
    let client = Client::with(&[&ci]);
    assert_eq!(client.send(&gate).await, is("token:ci", false));
    // The time of day may jump.
    clock.0.fetch_add(89_999, SeqCst);
    assert_eq!(client.send(&gate).await, is("token:ci", true));
    clock.0.fetch_add(1, SeqCst);
    assert_eq!(client.send(&gate).await, refused(CredentialRefusal::Expired));
    // And it may be set back, which the process's own time does not follow.
    clock.0.fetch_sub(30_000, SeqCst);
    assert_eq!(client.send(&gate).await, is("token:ci", true));
    advance(Duration::from_secs(60)).await;
    assert_eq!(client.send(&gate).await, is("token:ci", false));
    advance(Duration::from_secs(30)).await;
    assert!(!client.is_remembered(&gate), "it would have ended by now");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_and_nobody_are_remembered_and_a_session_is_not() {
    let clock = Arc::new(HandClock(AtomicI64::new(0)));
    let gate = gate_with_clock(EVERYBODY, Arc::clone(&clock) as Arc<dyn Clock>);
    let mut client = Client::default();
    for was_remembered in [false, true] {
        assert_eq!(client.send(&gate).await, is("anonymous", was_remembered));
    }
    gate.adopt_policy(Policy::parse(NOBODY).unwrap());
    assert_eq!(client.send(&gate).await, Err(AdmissionRefusal::NoCredential));

    client.certificate = Some(ShownCertificate { uri: "spiffe://corp/a".into(), ends_ms: 20_000 });
    for was_remembered in [false, true] {
        assert_eq!(client.send(&gate).await, is("cert:spiffe://corp/a", was_remembered));
    }
    let ci = new_token("ci").unwrap();
    gate.adopt_tokens(file(&[&ci]));
    client.session = gate.sign_in(&ci.plain).await.ok().map(|begun| begun.id);
    assert!(client.session.is_some());
    for _ in 0..2 {
        assert_eq!(client.send(&gate).await, is("token:ci", false));
    }
    client.session = None;
    assert_eq!(client.send(&gate).await, is("cert:spiffe://corp/a", false));
    clock.0.store(20_000, SeqCst);
    assert_eq!(client.send(&gate).await, refused(CredentialRefusal::Expired));
}

#[tokio::test(start_paused = true)]
async fn each_request_of_a_remembered_sender_counts_for_its_quotas() {
    let (gate, ci) = (
        gate("version: 1\nbindings: []\nquotas: {default: {requests_per_sec: 3}}\n"),
        new_token("ci").unwrap(),
    );
    gate.adopt_tokens(file(&[&ci]));
    let clients = [Client::with(&[&ci]), Client::with(&[&ci])];
    let mut counted = 0;
    for client in clients.iter().cycle().take(10) {
        let (now, shown) = (Instant::now(), client.shown());
        let found = match remembered(&gate, &shown, now) {
            Some(found) => found,
            None => find_out(&gate, &shown, now).await.unwrap(),
        };
        counted += usize::from(found.1.request(now).is_ok());
    }
    assert_eq!(counted, 3);
    assert!(clients.iter().all(|client| client.is_remembered(&gate)));
}

proptest! {
    #[test]
    fn headers_are_compared_byte_by_byte(
        known in prop::collection::vec(any::<u8>(), 0..40),
        at in 0_usize..40,
        bit in 0_u8..8,
    ) {
        prop_assert!(is_same(Some(&known), Some(&known)));
        prop_assert!(!is_same(Some(&known), None) && !is_same(None, Some(&known)));
        let longer = [known.as_slice(), &[0]].concat();
        prop_assert!(!is_same(Some(&known), Some(&longer)) && !is_same(Some(&longer), Some(&known)));
        let mut other = known.clone();
        if let Some(byte) = other.get_mut(at) {
            *byte ^= 1 << bit;
            prop_assert!(!is_same(Some(&known), Some(&other)));
        }
    }
}

#[test]
fn what_is_remembered_is_shown_to_nobody() {
    assert_eq!(format!("{:?}", LastSender::default()), "LastSender");
    assert!(is_same(None, None));
}
