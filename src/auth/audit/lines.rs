//! The lines of the audit log: events of a target of their own, and the layer that writes these as JSON.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tracing::{Subscriber, info, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{self, MakeWriter},
    registry::LookupSpan,
};

use super::{
    denials::UnsaidDenials,
    record::{AuditOutcome, AuditRecord},
};

/// The target of its events. Other layers must leave it out.
pub(crate) const TARGET: &str = "zombi::audit";

/// Only with a check switched off: whether the level of the log silences this one.
pub(crate) static SILENCED: AtomicBool = AtomicBool::new(false);

fn is_silenced() -> bool {
    contracts::mutant("audit_level") && SILENCED.load(Relaxed)
}

/// Writes the audit log, and nothing else. It must not stand below a filter whose level can be changed.
pub(crate) fn layer<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    let lines = fmt::layer().with_writer(writer).json().flatten_event(true);
    let lines = lines.with_current_span(false).with_span_list(false);
    lines.with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
}

/// Writes a line for a request. `count` is of requests like it.
pub(super) fn write(record: &AuditRecord<'_>, count: Option<u64>) {
    if is_silenced() {
        return;
    }
    let (decision, reason, binding) = match record.outcome {
        AuditOutcome::Allowed { binding } => ("allowed", None, binding),
        AuditOutcome::Denied { reason } => ("denied", Some(reason), None),
    };
    info!(
        target: TARGET,
        request_id = record.request_id,
        principal = record.principal.map(display),
        peer = %record.peer.to_canonical(),
        verb = record.verb.name(),
        table = record.table,
        group = record.group,
        decision,
        reason,
        status = record.status,
        records = record.records,
        bytes = record.bytes,
        binding,
        count,
    );
}

/// Writes a line for denials that were counted: the last of them stands for all, unless they have no more in
/// common than the reason.
pub(super) fn write_unsaid(unsaid: &UnsaidDenials) {
    let last = unsaid.last.record();
    if unsaid.is_of_many_peers {
        info!(
            target: TARGET,
            decision = "denied",
            reason = unsaid.last.reason,
            status = last.status,
            count = unsaid.count,
        );
    } else {
        write(&last, Some(unsaid.count));
    }
}
