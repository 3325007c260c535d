//! The audit log: who asked for what, and whether it was allowed. `denials` decides when denials that repeat
//! are said, `lines` writes.

mod denials;
mod lines;
#[cfg(test)]
pub(crate) mod tests;

use std::{net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::denials::DenialTurns;
pub(crate) use self::lines::{TARGET, layer};
use super::{
    principal::Principal,
    settings::{AuditLog, AuditSettings},
    verb::Verb,
};

/// How often denials are looked for whose turn has come.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// A request that was answered. Nothing in it may be a credential.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AuditRecord<'a> {
    /// The id that the answer has.
    pub request_id: &'a str,
    /// Who sent it; `None` if that is not known.
    pub principal: Option<&'a Principal>,
    /// Where it came from: the client of a trusted proxy, not the proxy.
    pub peer: IpAddr,
    /// What it asked for.
    pub verb: Verb,
    /// With which table, if with one.
    pub table: Option<&'a str>,
    /// With which consumer group, if with one.
    pub group: Option<&'a str>,
    /// What was decided.
    pub outcome: AuditOutcome,
    /// The status of the answer.
    pub status: u16,
    /// Events that it wrote, or that were sent for it; `None` where it is not about events.
    pub records: Option<u64>,
    /// Bytes that an append brought; of anything else, that were sent for it.
    pub bytes: u64,
}

/// What was decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuditOutcome {
    /// It was let in, whatever became of it then.
    Allowed {
        /// The binding of the policy that allows it, counted from 0; `None` where no policy decides.
        binding: Option<usize>,
    },
    /// It was not.
    Denied {
        /// Why: a `reason` of a 401, or the code of the answer. Denials of one reason are counted together.
        reason: &'static str,
    },
}

/// The audit log. Its lines are JSON on standard error, whatever `log.format` and `log.level` are. No request
/// waits for them: see `telemetry`.
#[derive(Debug)]
pub struct AuditTrail {
    log: AuditLog,
    denials: Mutex<DenialTurns>,
}

impl AuditTrail {
    /// An audit log that has what the settings ask for.
    pub fn new(settings: AuditSettings) -> Self {
        Self { log: settings.log, denials: Mutex::default() }
    }

    /// Says what became of a request, if the settings ask for it. Call it once for each, when it is answered,
    /// or when its answer has ended.
    pub(crate) fn record(&self, record: &AuditRecord<'_>) {
        if self.log == AuditLog::Off {
            return;
        }
        match record.outcome {
            AuditOutcome::Denied { reason } => self.denied(reason, record),
            AuditOutcome::Allowed { .. } if self.has(record.verb) => lines::write(record, None),
            AuditOutcome::Allowed { .. } => {}
        }
    }

    /// Whether it has the requests that were allowed to do this.
    pub(crate) fn has(&self, verb: Verb) -> bool {
        match self.log {
            AuditLog::Off => false,
            AuditLog::Changes => matches!(verb, Verb::Rewind | Verb::Manage | Verb::Operate),
            AuditLog::All => verb != Verb::Open,
        }
    }

    fn denied(&self, reason: &'static str, record: &AuditRecord<'_>) {
        let mut denials = self.denials.lock();
        let now = Instant::now();
        let due = denials.take_due(now);
        let is_first = denials.count(reason, record, now);
        drop(denials);
        due.iter().for_each(lines::write_unsaid);
        if is_first {
            lines::write(record, None);
        }
    }

    /// Says the denials that were counted for ten seconds before `now`.
    pub fn flush(&self, now: Instant) {
        let due = self.denials.lock().take_due(now);
        due.iter().for_each(lines::write_unsaid);
    }

    /// Flushes once a second until `stop`, then says all denials that were counted and not said yet. It is to
    /// be stopped after the last request.
    pub async fn run(&self, stop: CancellationToken) {
        if self.log == AuditLog::Off {
            return;
        }
        while stop.run_until_cancelled(sleep(FLUSH_EVERY)).await.is_some() {
            self.flush(Instant::now());
        }
        let rest = self.denials.lock().take_all();
        rest.iter().for_each(lines::write_unsaid);
    }
}
