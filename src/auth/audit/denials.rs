//! Limits repeated denials in the audit log, so that whoever is denied often, attackers above all, cannot
//! fill it: the first of a peer's denials for one reason is logged at once, the others together, every ten
//! seconds.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::record::{AuditOutcome, AuditRecord};
use crate::auth::{
    principal::{Principal, network_of},
    verb::Verb,
};

/// For how long denials are counted before they are said.
pub(super) const TURN: Duration = Duration::from_secs(10);
/// Peers and reasons that are counted apart; beyond that, denials of one reason are counted together.
pub(super) const MAX_TURNS: usize = 1024;

/// What denials that are counted together have in common. There are as many without a network as there are
/// reasons, so even these are not many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DenialKey {
    /// Of one peer; `None` for all that found no place.
    network: Option<IpAddr>,
    reason: &'static str,
}

/// The denials of the last seconds.
#[derive(Debug, Default)]
pub(super) struct DenialTurns {
    /// Those that have a turn, with what has been denied since it began.
    turns: HashMap<DenialKey, Option<UnsaidDenials>>,
    /// When each turn ends. The next one is the first, as all turns are equally long.
    ends: VecDeque<(Instant, DenialKey)>,
}

/// Denials that were counted and not said yet.
#[derive(Debug)]
pub(super) struct UnsaidDenials {
    /// How many; at least 1.
    pub count: u64,
    /// Whether they are of many peers, of which `last` is only one.
    pub is_of_many_peers: bool,
    /// The last of them.
    pub last: KeptDenial,
}

/// A request that was denied.
#[derive(Debug)]
pub(super) struct KeptDenial {
    request_id: String,
    principal: Option<Principal>,
    peer: IpAddr,
    verb: Verb,
    table: Option<String>,
    group: Option<String>,
    /// Why it was denied.
    pub reason: &'static str,
    status: u16,
    records: Option<u64>,
    bytes: u64,
}

impl DenialTurns {
    /// Counts a denial. Returns whether it begins a turn: then it is to be said at once, and is not counted.
    pub(super) fn count(&mut self, reason: &'static str, record: &AuditRecord<'_>, now: Instant) -> bool {
        let mut key = DenialKey { network: Some(network_of(record.peer)), reason };
        // The oldest could make room, but then each of very many peers would have a line.
        if self.turns.len() >= MAX_TURNS && !self.turns.contains_key(&key) {
            key.network = None;
        }
        match self.turns.entry(key) {
            Entry::Vacant(turn) => {
                turn.insert(None);
                self.ends.push_back((now + TURN, key));
                true
            }
            Entry::Occupied(mut turn) => {
                let before = turn.get().as_ref().map_or(0, |unsaid| unsaid.count);
                turn.insert(Some(UnsaidDenials {
                    count: before + 1,
                    is_of_many_peers: key.network.is_none(),
                    last: KeptDenial::new(reason, record),
                }));
                false
            }
        }
    }

    /// Takes what was counted in turns that have ended. Where something was, another turn begins; otherwise
    /// the next denial is said at once.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<UnsaidDenials> {
        let mut due = Vec::new();
        while let Some((end, key)) = self.ends.front().copied()
            && end <= now
        {
            self.ends.pop_front();
            match self.turns.get_mut(&key).and_then(Option::take) {
                Some(unsaid) => {
                    due.push(unsaid);
                    self.ends.push_back((now + TURN, key));
                }
                None => drop(self.turns.remove(&key)),
            }
        }
        due
    }

    /// Takes all that was counted, and ends all turns.
    pub(super) fn take_all(&mut self) -> Vec<UnsaidDenials> {
        self.ends.clear();
        self.turns.drain().filter_map(|(_, unsaid)| unsaid).collect()
    }
}

impl KeptDenial {
    fn new(reason: &'static str, record: &AuditRecord<'_>) -> Self {
        Self {
            request_id: record.request_id.to_owned(),
            principal: record.principal.cloned(),
            peer: record.peer,
            verb: record.verb,
            table: record.table.map(str::to_owned),
            group: record.group.map(str::to_owned),
            reason,
            status: record.status,
            records: record.records,
            bytes: record.bytes,
        }
    }

    /// What it was kept of.
    pub(super) fn record(&self) -> AuditRecord<'_> {
        AuditRecord {
            request_id: &self.request_id,
            principal: self.principal.as_ref(),
            peer: self.peer,
            verb: self.verb,
            table: self.table.as_deref(),
            group: self.group.as_deref(),
            outcome: AuditOutcome::Denied { reason: self.reason },
            status: self.status,
            records: self.records,
            bytes: self.bytes,
        }
    }
}
