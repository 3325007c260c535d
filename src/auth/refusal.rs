//! Why a credential is not taken, and why nobody is let in or signed in.

use super::quotas::OverQuota;

/// Why a credential is not taken. Nothing in it tells what the credential was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialRefusal {
    /// It has not the form of a token, or its checksum is wrong.
    Malformed,
    /// Its time is over.
    Expired,
    /// Its time has not come yet.
    NotYetValid,
    /// Another issuer signed it.
    WrongIssuer,
    /// It is meant for somebody else.
    WrongAudience,
    /// It names a key that the issuer does not have.
    UnknownKey,
    /// The signature is wrong.
    BadSignature,
    /// It is signed by an algorithm that is not taken, or not the key's.
    Algorithm,
    /// It is valid for longer than is allowed, or for ever.
    TooLongLived,
    /// It is none of the static tokens.
    UnknownToken,
    /// It cannot be checked now: the issuer's keys are not there yet. Waiting may help.
    Unavailable,
}

impl CredentialRefusal {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongIssuer,
        Self::WrongAudience,
        Self::UnknownKey,
        Self::BadSignature,
        Self::Algorithm,
        Self::TooLongLived,
        Self::UnknownToken,
        Self::Unavailable,
    ];

    /// The `reason` in answers, metrics and the audit log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Algorithm => "algorithm",
            Self::TooLongLived => "too_long_lived",
            Self::UnknownToken => "unknown_token",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Why nobody is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdmissionRefusal {
    /// There is no credential, and the policy has nothing for those without one.
    NoCredential,
    /// The credential is not taken.
    Bad(CredentialRefusal),
}

/// Why nobody is signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignInRefusal {
    /// The token is not taken.
    Credential(CredentialRefusal),
    /// Its principal is over its quota.
    OverQuota(OverQuota),
}

impl From<CredentialRefusal> for SignInRefusal {
    fn from(refusal: CredentialRefusal) -> Self {
        Self::Credential(refusal)
    }
}

impl From<OverQuota> for SignInRefusal {
    fn from(over: OverQuota) -> Self {
        Self::OverQuota(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_the_name_in_snake_case() {
        for refusal in CredentialRefusal::ALL {
            let words = refusal.reason().split('_').map(|word| {
                let (first, rest) = word.split_at(1);
                first.to_ascii_uppercase() + rest
            });
            assert_eq!(words.collect::<String>(), format!("{refusal:?}"));
        }
    }
}
