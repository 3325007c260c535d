//! The bearer token of a request (RFC 6750).

use axum::http::{HeaderMap, header};

use super::refusal::CredentialRefusal;

/// Bytes that a credential may have.
pub(super) const MAX_BEARER_BYTES: usize = 8 << 10;

/// The bearer token of a request, if it has a credential.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, CredentialRefusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let is_several = values.next().is_some() && !contracts::mutant("two_authorizations");
    let is_long = value.len() > MAX_BEARER_BYTES && !contracts::mutant("token_size");
    if is_several || is_long {
        return Err(CredentialRefusal::Malformed);
    }
    let text = value.to_str().map_err(|_| CredentialRefusal::Malformed)?;
    match text.split_once(' ') {
        Some((scheme, token)) if is_bearer(scheme) && is_b64token(token.trim()) => {
            Ok(Some(token.trim()))
        }
        _ => Err(CredentialRefusal::Malformed),
    }
}

fn is_bearer(scheme: &str) -> bool {
    if contracts::mutant("scheme_case") {
        return scheme == "Bearer";
    }
    scheme.eq_ignore_ascii_case("bearer") || contracts::mutant("scheme_any")
}

/// Whether a text has the form that RFC 6750 2.1 gives to every bearer token. What has not, two tokens in one
/// header for example, is not looked at further.
pub(super) fn is_b64token(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    let without_padding = text.trim_end_matches('=');
    !without_padding.is_empty() && without_padding.bytes().all(is_inner)
}
