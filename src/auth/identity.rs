//! Who sends a request, as the gate has found out, and what of that credential is looked at again.

use tokio::time::Instant;

use super::{jwt::keys::KeyMark, principal::Principal, tokens::TokenDigest};
use contracts::clock::TimestampMs;

/// The SHA-256 of a session's id.
pub(super) type SessionDigest = [u8; 32];

/// Who sends a request, by its credential.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) principal: Principal,
    pub(super) credential: Credential,
    /// When the credential ends.
    pub(super) expires: Option<Instant>,
    /// The same by the time of day, as its issuer or its file says it; `None` for a session too.
    pub(super) expires_ms: Option<TimestampMs>,
}

/// What is checked again of a credential while an answer takes long. Of a certificate that is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Credential {
    /// The static token that must still be in the file.
    pub(super) token: Option<TokenDigest>,
    /// The issuer's key that must still be in its set.
    pub(super) key: Option<KeyMark>,
    /// The session that must not have been ended.
    pub(super) session: Option<SessionDigest>,
}
