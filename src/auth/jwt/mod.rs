//! Verifies JWTs of an issuer, such as a Kubernetes cluster, locally: nobody is asked per request.
//!
//! In this order, so that nothing of a token is believed before its signature holds: its size; its header,
//! which chooses nothing; the key that it names; whether both mean the same algorithm; the signature; the
//! claims. Of the library only the signature is used: what it does to claims by itself is in `claims`.

mod claims;
mod fetch;
mod header;
mod kept;
pub mod keys;
#[cfg(test)]
mod signer;
pub mod source;
#[cfg(test)]
mod tests;
mod turns;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use jsonwebtoken::{Validation, crypto::aws_lc, decode, errors::ErrorKind};
use moka::sync::Cache;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use self::{
    claims::ClaimRules,
    header::TokenHeader,
    keys::{BadKeySet, KeyMark, KeySet, VerifyingKey},
    source::KeySource,
};
use super::{principal::Principal, refusal::CredentialRefusal, settings::OidcSettings};
use contracts::clock::{Clock, TimestampMs};

/// Bytes that a token may have.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// Verified tokens that are remembered.
const CACHED_TOKENS: u64 = 10_000;
/// Refused tokens that are remembered, and for how long at most.
const REFUSED_TOKENS: u64 = 1000;
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// How long a verified token is remembered at most.
const CACHED_FOR: Duration = Duration::from_secs(60);

/// Verifies the tokens of one issuer.
pub struct Verifier {
    keys: Arc<KeySource>,
    rules: ClaimRules,
    /// By the SHA-256 of the token: verifying its signature takes as long as much of a small request.
    cache: Cache<[u8; 32], CachedToken>,
    /// Likewise, tokens that were refused.
    refused: Cache<[u8; 32], RefusedToken>,
    clock: Arc<dyn Clock>,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whom it names.
    pub principal: Principal,
    /// The first moment at which it is refused: its `exp`, and the leeway.
    pub expires_ms: TimestampMs,
    /// The key that it is signed with.
    pub key: KeyMark,
}

/// A token that was verified.
#[derive(Clone)]
struct CachedToken {
    verified: Verified,
    /// The first moment at which it must be verified again.
    until_ms: TimestampMs,
    /// The keys that verified it. It is forgotten with them.
    set: Arc<KeySet>,
}

/// A token that was refused.
#[derive(Clone)]
struct RefusedToken {
    why: CredentialRefusal,
    /// The keys that it was refused with: others may have signed it.
    set: Arc<KeySet>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, rules, .. } = self;
        f.debug_struct("Verifier").field("keys", keys).field("rules", rules).finish_non_exhaustive()
    }
}

impl Verifier {
    /// For the issuer of the settings; `None` if they name none. Reads its keys, or those kept below
    /// `data_dir`; somebody must run [`KeySource::run`]. Blocks on files.
    ///
    /// # Errors
    /// [`BadKeySet`] if `auth.oidc.jwks_file` cannot be used.
    pub fn open(
        settings: &OidcSettings,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>, BadKeySet> {
        let Some(rules) = ClaimRules::new(settings) else { return Ok(None) };
        let keys = Arc::new(KeySource::open(settings, data_dir)?);
        Ok(Some(Self::new(rules, keys, clock)))
    }

    fn new(rules: ClaimRules, keys: Arc<KeySource>, clock: Arc<dyn Clock>) -> Self {
        // Named, as the library panics if a crate elsewhere turns a second one on. An error says that it was
        // named before.
        let _ = aws_lc::DEFAULT_PROVIDER.install_default();
        // The clock may be set back; the cache's own time may not.
        let cache = Cache::builder().max_capacity(CACHED_TOKENS).time_to_live(CACHED_FOR).build();
        let refused = Cache::builder().max_capacity(REFUSED_TOKENS).time_to_live(REFUSED_FOR).build();
        Self { keys, rules, cache, refused, clock }
    }

    /// Where the keys come from.
    pub fn keys(&self) -> &Arc<KeySource> {
        &self.keys
    }

    /// Verifies a token. Takes no time, unless its key is not known: then it may wait three seconds for a
    /// fetch of the keys.
    ///
    /// # Errors
    /// Why it is refused; `Unavailable` if there are no keys at all.
    pub async fn verify(&self, token: &str) -> Result<Verified, CredentialRefusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(CredentialRefusal::Malformed);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(verified) = self.cached(&digest) {
            return Ok(verified);
        }
        if let Some(why) = self.refused_before(&digest) {
            return Err(why);
        }
        let header = TokenHeader::of(token)?;
        // Boxed: nearly all tokens are known, and a request must not have room for the wait.
        let (set, key) = Box::pin(self.keys.find(header.kid.as_deref())).await?;
        if header.algorithm != key.algorithm {
            return Err(CredentialRefusal::Algorithm);
        }
        let now_ms = self.clock.now_ms();
        let accepted = signed_claims(token, &key).and_then(|claims| self.rules.accept(&claims, now_ms));
        let accepted = accepted.inspect_err(|why| self.remember(digest, *why, &set))?;
        let expires_ms = accepted.expires_ms + self.rules.leeway_ms();
        let verified = Verified { principal: accepted.principal, expires_ms, key: key.mark };
        let longest_ms = now_ms + CACHED_FOR.as_millis() as TimestampMs;
        let until_ms = accepted.expires_ms.min(longest_ms);
        self.cache.insert(digest, CachedToken { verified: verified.clone(), until_ms, set });
        Ok(verified)
    }

    /// Remembers a refusal that no waiting heals and that cost a signature: clients that do not read their
    /// file again send the same token over and over.
    fn remember(&self, digest: [u8; 32], why: CredentialRefusal, set: &Arc<KeySet>) {
        if matches!(why, CredentialRefusal::BadSignature | CredentialRefusal::Expired) {
            self.refused.insert(digest, RefusedToken { why, set: Arc::clone(set) });
        }
    }

    /// Why a token was refused a moment ago, with the keys as they are now.
    fn refused_before(&self, digest: &[u8; 32]) -> Option<CredentialRefusal> {
        let known = self.refused.get(digest)?;
        Arc::ptr_eq(&known.set, &self.keys.current()?).then_some(known.why)
    }

    /// What a token says that was verified a moment ago, with the keys as they are now.
    fn cached(&self, digest: &[u8; 32]) -> Option<Verified> {
        let known = self.cache.get(digest)?;
        let is_fresh = self.clock.now_ms() < known.until_ms;
        (is_fresh && Arc::ptr_eq(&known.set, &self.keys.current()?)).then_some(known.verified)
    }
}

/// The claims of a token, if the key has signed them with its algorithm.
fn signed_claims(token: &str, key: &VerifyingKey) -> Result<Map<String, Value>, CredentialRefusal> {
    // With the key's algorithm, and never the header's.
    let mut signature_only = Validation::new(key.algorithm);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_nbf = false;
    signature_only.validate_aud = false;
    let decoded = decode::<Map<String, Value>>(token, &key.public, &signature_only);
    decoded.map(|token| token.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => CredentialRefusal::BadSignature,
        ErrorKind::InvalidAlgorithm => CredentialRefusal::Algorithm,
        // Not base64url, not JSON, a claim twice.
        _ => CredentialRefusal::Malformed,
    })
}
