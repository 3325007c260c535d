//! The audit log: who asked for what, and whether it was allowed. `denials` decides when denials that repeat
//! are said, `lines` writes, `record` is what it is told.

mod denials;
mod lines;
mod record;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::denials::DenialTurns;
pub(crate) use self::{
    lines::{SILENCED, TARGET, layer},
    record::{AuditOutcome, AuditRecord},
};
use super::{
    settings::{AuditLog, AuditSettings},
    verb::Verb,
};

/// How often denials are looked for whose turn has come.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

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
        if self.log == AuditLog::Off && !contracts::mutant("audit_off") {
            return;
        }
        match record.outcome {
            AuditOutcome::Denied { .. } if contracts::mutant("audit_denied") => {}
            AuditOutcome::Allowed { .. } if contracts::mutant("audit_allowed") => {}
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
            AuditLog::All => {
                let is_usual = matches!(verb, Verb::Append | Verb::Read | Verb::Commit);
                verb != Verb::Open && !(is_usual && contracts::mutant("audit_all"))
            }
        }
    }

    fn denied(&self, reason: &'static str, record: &AuditRecord<'_>) {
        let mut denials = self.denials.lock();
        let now = Instant::now();
        let due = denials.take_due(now);
        let is_first = denials.count(reason, record, now);
        drop(denials);
        due.iter().for_each(lines::write_unsaid);
        if is_first || contracts::mutant("audit_few_lines") {
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
        if contracts::mutant("audit_rest") {
            return;
        }
        rest.iter().for_each(lines::write_unsaid);
    }
}
