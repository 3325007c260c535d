//! Who a caller is, by the name that the policy, the audit log and refusals have for it.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use contracts::clock::TimestampMs;

/// Who a caller is. It is written, and read, as `sa:shop/checkout`, `oidc:1234`, `token:ci`,
/// `cert:spiffe://corp/ns/ops/sa/oncall` or `anonymous`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Principal {
    /// A ServiceAccount of the cluster.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Whom another issuer names, by the token's `sub`.
    Oidc(String),
    /// Whoever has a static token, by the token's name.
    Token(String),
    /// Whoever has a client certificate, by its one URI.
    Certificate(String),
    /// Whoever sends no credential.
    Anonymous,
}

/// Whom the certificate names that a client has shown, and until when it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCertificate {
    /// The one URI in it.
    pub uri: Arc<str>,
    /// From then on it counts no more.
    pub ends_ms: TimestampMs,
}

impl fmt::Display for ShownCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// A text that is no principal, or no beginning of one; says what it must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPrincipal {
    /// It begins with no known kind.
    #[error("a principal begins with sa:, oidc:, token: or cert:")]
    Kind,
    /// What follows `sa:` cannot be a ServiceAccount.
    #[error("sa: is followed by a namespace, a slash and the name of a ServiceAccount, in lower case")]
    ServiceAccount,
    /// Nothing follows `oidc:`.
    #[error("oidc: is followed by the sub of a token")]
    Oidc,
    /// What follows `token:` cannot be a token's name.
    #[error("token: is followed by a name of at most 128 letters, digits, dots, - and _")]
    Token,
    /// What follows `cert:` cannot be a URI.
    #[error("cert: is followed by a URI, such as spiffe://corp/ns/ops/sa/oncall")]
    Certificate,
}

impl Principal {
    /// Its text, in pieces.
    fn pieces(&self) -> [&str; 4] {
        match self {
            Self::ServiceAccount { namespace, name } => ["sa:", namespace, "/", name],
            Self::Oidc(subject) => ["oidc:", subject, "", ""],
            Self::Token(name) => ["token:", name, "", ""],
            Self::Certificate(uri) => ["cert:", uri, "", ""],
            Self::Anonymous => ["anonymous", "", "", ""],
        }
    }

    /// Whether its text begins so. The text is not put together for it, as every request asks this.
    pub(super) fn begins_with(&self, prefix: &str) -> bool {
        let mut rest = prefix.as_bytes();
        for piece in self.pieces() {
            let piece = piece.as_bytes();
            if rest.len() <= piece.len() {
                return piece.starts_with(rest);
            }
            let Some(after) = rest.strip_prefix(piece) else { return false };
            rest = after;
        }
        false
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().into_iter().try_for_each(|piece| f.write_str(piece))
    }
}

impl FromStr for Principal {
    type Err = BadPrincipal;

    fn from_str(text: &str) -> Result<Self, BadPrincipal> {
        if text == "anonymous" {
            return Ok(Self::Anonymous);
        }
        let (kind, value) = text.split_once(':').ok_or(BadPrincipal::Kind)?;
        check(kind, value, Extent::Whole)?;
        Ok(match kind {
            "sa" => {
                let (namespace, name) = value.split_once('/').ok_or(BadPrincipal::ServiceAccount)?;
                Self::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
            }
            "oidc" => Self::Oidc(value.to_owned()),
            "token" => Self::Token(value.to_owned()),
            _ => Self::Certificate(value.to_owned()),
        })
    }
}

/// Checks that some principal may begin so. The kind must be there in full, `sa:` for example.
///
/// # Errors
/// [`BadPrincipal`] says what a principal looks like.
pub(super) fn check_prefix(prefix: &str) -> Result<(), BadPrincipal> {
    let (kind, value) = prefix.split_once(':').ok_or(BadPrincipal::Kind)?;
    check(kind, value, Extent::Beginning)
}

/// Whether a static token may have this name.
pub(super) fn is_token_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && is_of_token_name(name)
}

/// How much of a principal a text is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Beginning,
}

fn check(kind: &str, value: &str, extent: Extent) -> Result<(), BadPrincipal> {
    let is_whole = extent == Extent::Whole;
    let (fits, wrong) = match kind {
        "sa" => (fits_service_account(value, is_whole), BadPrincipal::ServiceAccount),
        "oidc" => (!is_whole || !value.is_empty(), BadPrincipal::Oidc),
        "token" if is_whole => (is_token_name(value), BadPrincipal::Token),
        "token" => (is_of_token_name(value), BadPrincipal::Token),
        "cert" => (fits_uri(value, is_whole), BadPrincipal::Certificate),
        _ => return Err(BadPrincipal::Kind),
    };
    if fits { Ok(()) } else { Err(wrong) }
}

fn is_of_token_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// By the characters that Kubernetes allows: a subject with a capital letter, for example, would match
/// nobody.
fn fits_service_account(value: &str, is_whole: bool) -> bool {
    let is_word =
        |byte: u8, more: &[u8]| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more.contains(&byte);
    let is_namespace = |text: &str| text.len() <= 63 && text.bytes().all(|byte| is_word(byte, b"-"));
    let is_name = |text: &str| text.len() <= 253 && text.bytes().all(|byte| is_word(byte, b"-."));
    match value.split_once('/') {
        Some((namespace, name)) => {
            !namespace.is_empty()
                && is_namespace(namespace)
                && is_name(name)
                && !(is_whole && name.is_empty())
        }
        None => !is_whole && is_namespace(value),
    }
}

/// By its scheme: what is no URI, such as `CN=oncall`, is never taken from a certificate.
fn fits_uri(value: &str, is_whole: bool) -> bool {
    let is_scheme =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    match value.split_once(':') {
        Some((scheme, rest)) => !scheme.is_empty() && is_scheme(scheme) && !(is_whole && rest.is_empty()),
        None => !is_whole && is_scheme(value),
    }
}

/// A peer as budgets see it: its IPv4 address, or the /64 network of its IPv6 address, of which it may have
/// all addresses.
pub(crate) fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any principal.
    pub(in crate::auth) fn principals() -> impl Strategy<Value = Principal> {
        let service_account = ("[a-z0-9-]{1,8}", "[a-z0-9.-]{1,8}")
            .prop_map(|(namespace, name)| Principal::ServiceAccount { namespace, name });
        prop_oneof![
            4 => service_account,
            1 => ".{1,8}".prop_map(Principal::Oidc),
            2 => "[A-Za-z0-9_.-]{1,8}".prop_map(Principal::Token),
            1 => "[a-z][a-z0-9+.-]{0,4}:.{1,8}".prop_map(Principal::Certificate),
            1 => Just(Principal::Anonymous),
        ]
    }

    #[test]
    fn a_principal_is_read_as_it_is_written() {
        let service_account =
            Principal::ServiceAccount { namespace: "shop".to_owned(), name: "checkout".to_owned() };
        for (text, principal) in [
            ("sa:shop/checkout", service_account),
            ("oidc:auth0|42 é", Principal::Oidc("auth0|42 é".to_owned())),
            ("oidc:a:b/c", Principal::Oidc("a:b/c".to_owned())),
            ("token:ci.1_x-Y", Principal::Token("ci.1_x-Y".to_owned())),
            ("cert:spiffe://corp/a", Principal::Certificate("spiffe://corp/a".to_owned())),
            ("anonymous", Principal::Anonymous),
        ] {
            assert_eq!(text.parse::<Principal>(), Ok(principal.clone()));
            assert_eq!(principal.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_principal_says_what_one_looks_like() {
        for (text, wrong) in [
            ("", BadPrincipal::Kind),
            ("shop/checkout", BadPrincipal::Kind),
            ("SA:shop/checkout", BadPrincipal::Kind),
            ("user:a", BadPrincipal::Kind),
            ("Anonymous", BadPrincipal::Kind),
            ("anonymous:", BadPrincipal::Kind),
            ("sa:", BadPrincipal::ServiceAccount),
            ("sa:shop", BadPrincipal::ServiceAccount),
            ("sa:shop/", BadPrincipal::ServiceAccount),
            ("sa:/checkout", BadPrincipal::ServiceAccount),
            ("sa:shop/a/b", BadPrincipal::ServiceAccount),
            ("sa:Shop/checkout", BadPrincipal::ServiceAccount),
            ("sa:shop.eu/checkout", BadPrincipal::ServiceAccount),
            ("sa:shop/\u{441}heckout", BadPrincipal::ServiceAccount),
            ("sa:shop/check\0out", BadPrincipal::ServiceAccount),
            ("oidc:", BadPrincipal::Oidc),
            ("token:", BadPrincipal::Token),
            ("token:a b", BadPrincipal::Token),
            ("cert:CN=oncall", BadPrincipal::Certificate),
            ("cert:oncall", BadPrincipal::Certificate),
            ("cert:spiffe:", BadPrincipal::Certificate),
            ("cert:://corp", BadPrincipal::Certificate),
        ] {
            assert_eq!(text.parse::<Principal>(), Err(wrong), "{text:?}");
        }
        assert!(format!("token:{}", "x".repeat(128)).parse::<Principal>().is_ok());
        assert!(format!("token:{}", "x".repeat(129)).parse::<Principal>().is_err());
    }

    #[test]
    fn a_beginning_has_its_kind_in_full_and_can_be_gone_on_with() {
        for right in [
            "sa:",
            "sa:billing",
            "sa:billing/",
            "sa:billing/a.",
            "oidc:",
            "token:ci-",
            "cert:",
            "cert:spiffe://",
        ] {
            assert_eq!(check_prefix(right), Ok(()), "{right}");
        }
        for wrong in ["", "s", "sa", "x:", "sa:/", "sa:Billing", "sa:a/b/", "token:a b", "cert:CN="] {
            assert!(check_prefix(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_principal_comes_back(principal in principals()) {
            prop_assert_eq!(principal.to_string().parse::<Principal>(), Ok(principal));
        }

        #[test]
        fn it_begins_as_its_text_does(principal in principals(), length in 0usize..30, other in ".{0,8}") {
            let text = principal.to_string();
            let beginning: String = text.chars().take(length).collect();
            prop_assert!(principal.begins_with(&beginning));
            let goes_on = beginning + &other;
            prop_assert_eq!(principal.begins_with(&goes_on), text.starts_with(&goes_on));
        }

        #[test]
        fn any_text_is_a_principal_or_none(text in ".{0,20}") {
            if let Ok(principal) = text.parse::<Principal>() {
                prop_assert_eq!(principal.to_string(), text);
            }
        }
    }
}
