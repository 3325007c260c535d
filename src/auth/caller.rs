//! Whoever sent a request, and what it may do. Each decision is about names that were parsed, never about a
//! path: so what is decided and what is done cannot differ.

use std::{
    fmt,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    gate::Gate,
    policy::{Decision, Quota, Resource},
    principal::Principal,
    quotas::{OverQuota, Usage},
    refusal::{AdmissionRefusal, CredentialRefusal},
    sender::{self, KnownSender, ShownBy},
    verb::Verb,
};
use contracts::{
    maker::{Maker, MakerLimits},
    name::{GroupName, TableName},
};

/// How long a request that changes something may go on after its caller's right has ended.
const CHANGES_MAY_FINISH: Duration = Duration::from_secs(300);

/// Whoever sent a request. By default it is nobody, who may do nothing: a caller that was never set lets no
/// one in.
#[derive(Clone, Default)]
pub(crate) struct Caller(CallerKind);

#[derive(Clone, Default)]
enum CallerKind {
    /// Identity is off: everybody may do everything.
    Anybody,
    /// No identity was asked for, as the route is open, or nobody was let in.
    #[default]
    Nobody,
    /// The gate has let it in.
    Known(Arc<Admitted>),
}

/// A caller that the gate has let in.
struct Admitted {
    verb: Verb,
    sender: Arc<KnownSender>,
    usage: Arc<Usage>,
    touched: Mutex<TouchedList>,
    /// Events that the request has written or read.
    records: AtomicU64,
    /// The whole, if this is a part of a request that goes to several shards.
    of: Option<Arc<Admitted>>,
}

/// What was decided, in its order. The first has its place here: most requests are about one thing.
#[derive(Default)]
struct TouchedList {
    first: Option<Touched>,
    others: Vec<Touched>,
}

impl TouchedList {
    fn add(&mut self, touched: Touched) {
        match self.first {
            None => self.first = Some(touched),
            Some(_) => self.others.push(touched),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Touched> {
        self.first.iter().chain(&self.others)
    }
}

/// Something that the request is about, and what was decided.
#[derive(Debug, Clone)]
pub(crate) struct Touched {
    /// What the caller wanted to do.
    pub(crate) verb: Verb,
    /// With what.
    pub(crate) resource: OwnedResource,
    /// Whether it may.
    pub(crate) decision: Decision,
}

/// A resource by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnedResource {
    /// A table.
    Table(TableName),
    /// A consumer group.
    Group(GroupName),
    /// The whole server.
    Server,
}

impl OwnedResource {
    fn borrowed(&self) -> Resource<'_> {
        match self {
            Self::Table(name) => Resource::Table(name),
            Self::Group(name) => Resource::Group(name),
            Self::Server => Resource::Server,
        }
    }
}

impl From<Resource<'_>> for OwnedResource {
    fn from(resource: Resource<'_>) -> Self {
        match resource {
            Resource::Table(name) => Self::Table(name.clone()),
            Resource::Group(name) => Self::Group(name.clone()),
            Resource::Server => Self::Server,
        }
    }
}

impl fmt::Display for OwnedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(name) => write!(f, "table {name}"),
            Self::Group(name) => write!(f, "group {name}"),
            Self::Server => f.write_str("server"),
        }
    }
}

/// The caller may not do what it wants to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forbidden {
    /// Who it is.
    pub(crate) principal: Principal,
    /// What it wanted to do.
    pub(crate) verb: Verb,
    /// With what.
    pub(crate) resource: OwnedResource,
}

/// Why a caller's request must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallerEnd {
    /// Its credential is not good any more.
    Credential(CredentialRefusal),
    /// A right that it was let in by was taken away.
    Right(Forbidden),
}

impl std::error::Error for CallerEnd {}

impl fmt::Display for CallerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credential(CredentialRefusal::Expired) => "the credential has expired",
            Self::Credential(_) => "the credential is not accepted any more",
            Self::Right(_) => "the right was taken away",
        })
    }
}

impl Caller {
    /// Whoever it is, where identity is off.
    pub(crate) fn anybody() -> Self {
        Self(CallerKind::Anybody)
    }

    /// Decides whether the sender of a request, which does `verb`, is let in. Returns at once, unless a
    /// token's key is not known: then it may wait three seconds. `now` is when the request arrived.
    ///
    /// # Errors
    /// [`AdmissionRefusal`].
    pub(crate) async fn admit(
        gate: &Arc<Gate>,
        shown: &ShownBy<'_>,
        verb: Verb,
        now: Instant,
    ) -> Result<Self, AdmissionRefusal> {
        let (sender, usage) = match sender::remembered(gate, shown, now) {
            Some(found) => found,
            // Boxed, so that the future has no room for it: nearly all senders are remembered.
            None => Box::pin(sender::find_out(gate, shown, now)).await?,
        };
        Ok(Self::of(Admitted::new(verb, sender, usage)))
    }

    /// Whoever another pod has let in and vouches for. That pod has counted requests and bytes for quotas.
    pub(crate) fn passed_on(gate: &Arc<Gate>, principal: Principal, verb: Verb) -> Self {
        let usage = gate.quotas.beyond(&principal);
        Self::of(Admitted::new(verb, sender::vouched_for(gate, principal), usage))
    }

    /// The same caller for a part of its request. The whole request has been counted for quotas already, and
    /// what is decided and counted here belongs to it.
    pub(crate) fn of_part(&self) -> Self {
        let CallerKind::Known(whole) = &self.0 else { return self.clone() };
        let sender = Arc::clone(&whole.sender);
        let usage = sender.gate.quotas.beyond(&sender.identity.principal);
        let of = Some(Arc::clone(whole.of.as_ref().unwrap_or(whole)));
        Self::of(Admitted { of, ..Admitted::new(whole.verb, sender, usage) })
    }

    fn of(admitted: Admitted) -> Self {
        Self(CallerKind::Known(Arc::new(admitted)))
    }

    /// Counts the request, which arrived at `now`, for its caller's quotas.
    ///
    /// # Errors
    /// [`OverQuota`] if there are too many, or if it is a read and earlier answers are not paid for yet.
    pub(crate) fn count_request(&self, now: Instant) -> Result<(), OverQuota> {
        let Some(admitted) = self.known() else { return Ok(()) };
        admitted.usage.request(now)?;
        if admitted.verb == Verb::Read { admitted.usage.read_debt() } else { Ok(()) }
    }

    fn known(&self) -> Option<&Admitted> {
        match &self.0 {
            CallerKind::Known(admitted) => Some(admitted),
            CallerKind::Anybody | CallerKind::Nobody => None,
        }
    }

    /// Who it is; `None` where that is not known.
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.known().map(|admitted| &admitted.sender.identity.principal)
    }

    /// What it uses of its quotas; `None` where nobody has any.
    pub(crate) fn usage(&self) -> Option<&Arc<Usage>> {
        self.known().map(|admitted| &admitted.usage)
    }

    /// The number by which budgets tell it from others; `None` where only its address tells them: without a
    /// credential, for example.
    pub(crate) fn number(&self) -> Option<u64> {
        let admitted = self.known()?;
        let is_somebody = admitted.sender.identity.principal != Principal::Anonymous;
        is_somebody.then(|| admitted.usage.number())
    }

    /// For whom the tables, partitions and groups are counted that the request makes; `None` where nobody
    /// counts.
    pub(crate) fn maker(&self) -> Option<Maker> {
        let admitted = self.known()?;
        let Quota { tables, partitions, groups, .. } = admitted.usage.quota();
        let limits = MakerLimits { tables, partitions, groups };
        Some(Maker { principal: Arc::clone(&admitted.sender.name), limits })
    }

    /// Counts events that the request has written or read, for the audit log.
    pub(crate) fn counts(&self, records: u64) {
        if let Some(admitted) = self.known() {
            admitted.whole().records.fetch_add(records, Relaxed);
        }
    }

    /// Events that the request has written or read.
    pub(crate) fn records(&self) -> u64 {
        self.known().map_or(0, |admitted| admitted.whole().records.load(Relaxed))
    }

    /// Everything that was decided, in its order.
    pub(crate) fn touched(&self) -> Vec<Touched> {
        self.known()
            .map(|admitted| admitted.whole().touched.lock().iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The verb that reaches furthest of all that was decided; `None` if nothing was.
    pub(crate) fn reached(&self) -> Option<Verb> {
        let touched = self.known()?.whole().touched.lock();
        touched.iter().map(|one| one.verb).max_by_key(|verb| verb.reach())
    }

    /// Decides whether it may do what its route does with this.
    ///
    /// # Errors
    /// [`Forbidden`] otherwise.
    pub(crate) fn allow(&self, resource: Resource<'_>) -> Result<(), Forbidden> {
        self.allow_to(self.known().map_or(Verb::Open, |admitted| admitted.verb), resource)
    }

    /// Decides whether it may do something else that the request asks for.
    ///
    /// # Errors
    /// [`Forbidden`] otherwise.
    pub(crate) fn allow_to(&self, verb: Verb, resource: Resource<'_>) -> Result<(), Forbidden> {
        match &self.0 {
            CallerKind::Anybody => Ok(()),
            CallerKind::Nobody => {
                Err(Forbidden { principal: Principal::Anonymous, verb, resource: resource.into() })
            }
            CallerKind::Known(admitted) => admitted.decide(verb, resource),
        }
    }

    /// Whether it may see this in a list.
    pub(crate) fn may(&self, verb: Verb, resource: Resource<'_>) -> bool {
        match &self.0 {
            CallerKind::Anybody => true,
            CallerKind::Nobody => false,
            CallerKind::Known(admitted) => admitted.sender.decide(verb, resource).is_allowed(),
        }
    }

    /// Whether there is an end to wait for: not where the caller is not known.
    pub(crate) fn can_end(&self) -> bool {
        self.known().is_some()
    }

    /// Waits until a long answer must end; for ever where the caller is not known.
    pub(crate) async fn ended(&self) -> CallerEnd {
        match self.known() {
            Some(admitted) => admitted.ended().await,
            None => pending().await,
        }
    }

    /// Waits until a request that is being worked on must be given up. A read may be waiting for events, and
    /// ends at once; a request that changes something may finish, or nobody would know how far it got.
    pub(crate) async fn given_up(&self) -> CallerEnd {
        let end = self.ended().await;
        let is_change = self.known().is_some_and(|admitted| admitted.verb != Verb::Read);
        if is_change && !contracts::mutant("write_may_finish") {
            sleep(CHANGES_MAY_FINISH).await;
        }
        end
    }
}

impl Admitted {
    fn new(verb: Verb, sender: Arc<KnownSender>, usage: Arc<Usage>) -> Self {
        Self { verb, sender, usage, touched: Mutex::default(), records: AtomicU64::new(0), of: None }
    }

    /// Whatever holds the list of decisions and the count: the whole, if this is a part.
    fn whole(&self) -> &Self {
        self.of.as_deref().unwrap_or(self)
    }

    fn decide(&self, verb: Verb, resource: Resource<'_>) -> Result<(), Forbidden> {
        let decision = if contracts::mutant(switch_of(verb)) {
            Decision::Allowed { binding: 0 }
        } else {
            self.sender.decide(verb, resource)
        };
        let touched = Touched { verb, resource: resource.into(), decision };
        let lost = (!decision.is_allowed()).then(|| touched.resource.clone());
        self.whole().touched.lock().add(touched);
        match lost {
            None => Ok(()),
            Some(resource) => Err(self.forbidden(verb, resource)),
        }
    }

    fn forbidden(&self, verb: Verb, resource: OwnedResource) -> Forbidden {
        Forbidden { principal: self.sender.identity.principal.clone(), verb, resource }
    }

    async fn ended(&self) -> CallerEnd {
        let (mut changes, mut ends) = (self.sender.changes.clone(), self.sender.identity.expires);
        loop {
            tokio::select! {
                biased;
                () = until(ends.filter(|_| !contracts::mutant("ends_with_credential"))) => return CallerEnd::Credential(CredentialRefusal::Expired),
                changed = changes.changed() => match changed.map(|()| self.standing()) {
                    Ok(Ok(expires)) => ends = expires,
                    Ok(Err(end)) => return end,
                    Err(_) => return pending().await, // the server is stopping
                },
            }
        }
    }

    /// Until when the credential is good, if its owner may still do all that was allowed.
    fn standing(&self) -> Result<Option<Instant>, CallerEnd> {
        let sender = &self.sender;
        let expires = sender.gate.good_until(&sender.identity).map_err(CallerEnd::Credential)?;
        let mut touched = self.whole().touched.lock();
        // What was denied before is nobody's loss.
        let lost = touched
            .iter()
            .filter(|one| one.decision.is_allowed() && !contracts::mutant("ends_with_right"))
            .find(|one| !sender.decide(one.verb, one.resource.borrowed()).is_allowed());
        let Some(Touched { verb, resource, .. }) = lost.cloned() else { return Ok(expires) };
        // For the audit log, which names what was denied.
        touched.add(Touched { verb, resource: resource.clone(), decision: Decision::Denied });
        Err(CallerEnd::Right(self.forbidden(verb, resource)))
    }
}

/// The switch of all decisions about a verb.
fn switch_of(verb: Verb) -> &'static str {
    match verb {
        Verb::Append => "verb_append",
        Verb::Read => "verb_read",
        Verb::Commit => "verb_commit",
        Verb::Rewind => "verb_rewind",
        Verb::Manage => "verb_manage",
        Verb::Operate => "verb_operate",
        Verb::Open => "verb_open",
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header};
    use tokio::time::timeout;

    use super::*;
    use crate::auth::{gate::tests::gate, policy::Policy, sender::LastSender, tokens};

    const ORDERS: &str =
        "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: owner, tables: [orders]}\n";
    const NOBODY: &str = "version: 1\nbindings: []\n";

    fn orders() -> TableName {
        TableName::parse("orders").unwrap()
    }

    /// A line of a file for a token, which expires after so long.
    fn file_of(line: &str, expires_secs: i64) -> tokens::Tokens {
        let now = jiff::Timestamp::now();
        let expires = now + jiff::SignedDuration::from_secs(expires_secs);
        let line = line.replace('}', &format!(", expires: {expires}}}"));
        tokens::Tokens::parse(&format!("version: 1\ntokens:\n{line}\n")).unwrap()
    }

    /// The owner of `orders`, by a token that is good for an hour.
    async fn owner(verb: Verb) -> (Arc<Gate>, tokens::NewToken, Caller) {
        let (gate, token) = (gate(ORDERS), tokens::new_token("ci").unwrap());
        gate.adopt_tokens(file_of(&token.line, 3600));
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::from_str(&format!("Bearer {}", token.plain)).unwrap();
        headers.insert(header::AUTHORIZATION, bearer);
        let last = LastSender::default();
        let shown = ShownBy { headers: &headers, certificate: None, session: None, last: &last };
        let Ok(caller) = Caller::admit(&gate, &shown, verb, Instant::now()).await else {
            panic!("it is refused")
        };
        caller.allow(Resource::Table(&orders())).unwrap();
        (gate, token, caller)
    }

    #[test]
    fn nobody_may_do_nothing_and_anybody_everything() {
        let orders = orders();
        for (caller, may) in [(Caller::default(), false), (Caller::anybody(), true)] {
            assert_eq!(caller.may(Verb::Read, Resource::Table(&orders)), may);
            assert_eq!(caller.allow_to(Verb::Read, Resource::Table(&orders)).is_ok(), may);
            assert_eq!(caller.allow(Resource::Server).is_ok(), may);
            assert_eq!((caller.principal(), caller.number()), (None, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_ends_with_its_right_and_a_change_may_finish() {
        for (verb, after) in [(Verb::Read, 0), (Verb::Append, 300), (Verb::Manage, 300)] {
            let (gate, _, caller) = owner(verb).await;
            let began = Instant::now();
            assert!(timeout(Duration::from_secs(600), caller.given_up()).await.is_err());
            gate.adopt_policy(Policy::parse(ORDERS).unwrap());
            assert!(timeout(Duration::from_secs(600), caller.given_up()).await.is_err(), "it still is right");
            gate.adopt_policy(Policy::parse(NOBODY).unwrap());
            let lost = CallerEnd::Right(Forbidden {
                principal: Principal::Token("ci".to_owned()),
                verb,
                resource: OwnedResource::Table(orders()),
            });
            assert_eq!(caller.ended().await, lost);
            assert_eq!(began.elapsed().as_secs(), 1200);
            assert_eq!(caller.given_up().await, lost);
            assert_eq!(began.elapsed().as_secs(), 1200 + after, "{verb:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_static_token_ends_when_its_line_says_so_now() {
        let (gate, token, caller) = owner(Verb::Read).await;
        let began = Instant::now();
        gate.adopt_tokens(file_of(&token.line, 60));
        assert_eq!(caller.ended().await, CallerEnd::Credential(CredentialRefusal::Expired));
        assert!((55..=60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        let (gate, token, caller) = owner(Verb::Read).await;
        gate.adopt_tokens(file_of(&token.line.replace("\"ci\"", "\"cd\""), 3600));
        let gone = CallerEnd::Credential(CredentialRefusal::UnknownToken);
        assert_eq!(caller.ended().await, gone, "it is somebody else's");
    }
}
