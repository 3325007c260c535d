//! What the audit log is told of a request, and what was decided about it.

use std::net::IpAddr;

use crate::auth::{principal::Principal, verb::Verb};

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
