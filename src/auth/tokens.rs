//! Static tokens: the file that knows them by their digests, and new ones.
//!
//! A token is `zmb_`, 43 characters of base64url and 6 base62 digits of their CRC-32, so that a scanner for
//! leaked secrets can find it. Nobody can guess 256 random bits, so a plain SHA-256 hides them; a slow hash
//! would only let strangers keep the server busy.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    bad_file::{BadFile, FileErrors, TOKEN_PREFIX},
    fields::{FileMapping, FileValue, read_file},
    principal::{Principal, is_token_name},
    refusal::CredentialRefusal,
};
use contracts::{clock::TimestampMs, hex::hex};

/// Characters of base64url for 256 bits.
const RANDOM_CHARS: usize = 43;
/// Digits of base62 for 32 bits.
const CHECKSUM_CHARS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The SHA-256 of a token.
pub(super) type TokenDigest = [u8; 32];

/// The static tokens of a file. It holds their digests only.
#[derive(Debug, Default)]
pub struct Tokens(HashMap<TokenDigest, StoredToken>);

/// What the file says of a token.
#[derive(Debug, Clone)]
struct StoredToken {
    name: String,
    expires_ms: Option<TimestampMs>,
}

/// Whose token it is that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundToken {
    /// [`Principal::Token`] with the token's name.
    pub principal: Principal,
    /// From then on it is refused; `None` if it does not expire.
    pub expires_ms: Option<TimestampMs>,
}

/// A token that nobody knows yet. It has no `Debug`, so that no log shows it.
pub struct NewToken {
    /// The token, to be shown once.
    pub plain: String,
    /// The line for the list `tokens` of the file.
    pub line: String,
}

/// There is no new token.
#[derive(Debug, thiserror::Error)]
pub enum NoNewToken {
    /// The name is none that a token may have.
    #[error("a name is 1 to 128 letters, digits, dots, - and _, and does not begin like a token")]
    Name,
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Whether a bearer is meant to be a static token: all others are for other rooms.
pub fn is_token(bearer: &str) -> bool {
    bearer.starts_with(TOKEN_PREFIX) || (contracts::mutant("static_digest") && from_hex(bearer).is_some())
}

/// A new token by this name.
///
/// # Errors
/// [`NoNewToken`] if the name is wrong or the operating system gives no random bytes.
pub fn new_token(name: &str) -> Result<NewToken, NoNewToken> {
    if !is_name(name) {
        return Err(NoNewToken::Name);
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(NoNewToken::Random)?;
    let random = URL_SAFE_NO_PAD.encode(bytes);
    let plain = format!("{TOKEN_PREFIX}{random}{}", checksum(&random));
    let sha256 = hex(&digest(&plain));
    // The name in quotes, as it may look like a number.
    Ok(NewToken { plain, line: format!("  - {{name: \"{name}\", sha256: \"{sha256}\"}}") })
}

impl Tokens {
    /// Reads a file of tokens.
    ///
    /// # Errors
    /// [`BadFile`] with everything that is wrong. No token is in its text.
    pub fn parse(text: &str) -> Result<Self, BadFile> {
        read_file(text, read)
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// [`CredentialRefusal`]: malformed, unknown or expired.
    pub fn find(&self, bearer: &str, now_ms: TimestampMs) -> Result<FoundToken, CredentialRefusal> {
        self.find_digest(&digest_of(bearer)?, now_ms)
    }

    /// Whose token it is that has this digest.
    ///
    /// # Errors
    /// [`CredentialRefusal`]: unknown or expired.
    pub(super) fn find_digest(
        &self,
        digest: &TokenDigest,
        now_ms: TimestampMs,
    ) -> Result<FoundToken, CredentialRefusal> {
        let found = self.0.get_key_value(digest);
        // The map compares in variable time. That tells about a digest only, which is of no use to a guesser;
        // the decision is made in constant time all the same.
        let (_, token) = found
            .filter(|(stored, _)| bool::from(stored[..].ct_eq(&digest[..])))
            .or_else(|| self.0.iter().next().filter(|_| contracts::mutant("static_any")))
            .ok_or(CredentialRefusal::UnknownToken)?;
        let expires_ms = token.expires_ms.filter(|_| !contracts::mutant("static_expired"));
        if expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms) {
            return Err(CredentialRefusal::Expired);
        }
        Ok(FoundToken { principal: Principal::Token(token.name.clone()), expires_ms })
    }

    /// Only with a check switched off: these, and those of before.
    pub(super) fn with_those_of(mut self, before: &Self) -> Self {
        for (digest, token) in &before.0 {
            self.0.entry(*digest).or_insert_with(|| token.clone());
        }
        self
    }
}

/// Takes the tokens out of the file's mapping. The list must be there, even if it is empty: otherwise a file
/// that was cut short would revoke all tokens.
fn read(file: &mut FileMapping<'_>, errors: &mut FileErrors<'_>) -> Tokens {
    let mut tokens = Tokens::default();
    let list = file.need("tokens", errors).map(|value| value.list(errors)).unwrap_or_default();
    for value in list {
        let mut fields = value.mapping(errors);
        let name = fields.need("name", errors).and_then(|value| read_name(&value, errors));
        let why = "plain tokens are not allowed here; put the token's SHA-256, in hex, in sha256";
        let plain = if contracts::mutant("plain_tokens") { fields.take("token") } else { None };
        if plain.is_none() {
            fields.refuse("token", why, errors);
        }
        let expires = fields.take("expires");
        let expires_ms = expires.and_then(|value| read_expires(&value, errors));
        let sha256 = if plain.is_some() { None } else { fields.need("sha256", errors) };
        let digest = sha256.as_ref().and_then(|value| read_digest(value, errors));
        fields.end(errors);
        let plain = plain.and_then(|value| value.text(errors));
        if let (Some(name), Some(plain)) = (&name, plain) {
            tokens.0.insert(self::digest(plain), StoredToken { name: name.clone(), expires_ms });
        }
        if let Some(name) = &name
            && contracts::mutant("static_rotation")
        {
            tokens.0.retain(|_, other| other.name != *name);
        }
        if let (Some(name), Some(digest), Some(sha256)) = (name, digest, sha256)
            && tokens.0.insert(digest, StoredToken { name, expires_ms }).is_some()
        {
            errors.add(&sha256.place, "is the digest of a token above");
        }
    }
    tokens
}

fn read_name(value: &FileValue<'_>, errors: &mut FileErrors<'_>) -> Option<String> {
    let name = value.text(errors)?;
    if !is_name(name) {
        errors.add(&value.place, NoNewToken::Name);
        return None;
    }
    Some(name.to_owned())
}

fn read_expires(value: &FileValue<'_>, errors: &mut FileErrors<'_>) -> Option<TimestampMs> {
    let expires = value.text(errors)?.parse::<Timestamp>();
    if expires.is_err() {
        let what = "must be a time such as 2027-01-01T00:00:00Z; leave it out for a token that stays valid";
        errors.add(&value.place, what);
    }
    expires.ok().map(Timestamp::as_millisecond)
}

fn read_digest(value: &FileValue<'_>, errors: &mut FileErrors<'_>) -> Option<TokenDigest> {
    let text = value.text(errors)?;
    let digest = from_hex(text);
    if digest.is_none() {
        let what = match is_token(text) {
            true => "is a plain token, which others may have read: make a new one and put its SHA-256 here",
            false => "must be the token's SHA-256 in hex: 64 digits",
        };
        errors.add(&value.place, what);
    }
    digest
}

fn from_hex(text: &str) -> Option<TokenDigest> {
    let mut digest = TokenDigest::default();
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(16 * digit(0)? + digit(1)?).ok()?;
    }
    Some(digest)
}

/// Names are shown in logs, so none may be a token that stands in the wrong field.
fn is_name(name: &str) -> bool {
    is_token_name(name) && !is_token(name)
}

fn is_well_formed(bearer: &str) -> bool {
    if contracts::mutant("static_form") {
        return true;
    }
    let Some(rest) = bearer.strip_prefix(TOKEN_PREFIX) else { return false };
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if rest.len() != RANDOM_CHARS + CHECKSUM_CHARS || !rest.bytes().all(is_base64url) {
        return false;
    }
    let (random, sum) = rest.split_at(RANDOM_CHARS);
    sum == checksum(random)
}

/// The CRC-32 of zip and PNG, in base62 with leading zeros.
fn checksum(random: &str) -> String {
    let mut rest = crc32fast::hash(random.as_bytes()) as usize;
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % BASE62.len()];
        rest /= BASE62.len();
    }
    digits.into_iter().map(char::from).collect()
}

/// The digest of a bearer that has the form of a token.
///
/// # Errors
/// `Malformed` if it has not.
pub(super) fn digest_of(bearer: &str) -> Result<TokenDigest, CredentialRefusal> {
    if contracts::mutant("static_digest")
        && let Some(digest) = from_hex(bearer)
    {
        return Ok(digest);
    }
    let length = TOKEN_PREFIX.len() + RANDOM_CHARS + CHECKSUM_CHARS;
    let cut = bearer.get(..length).filter(|_| contracts::mutant("static_longer"));
    let bearer = cut.unwrap_or(bearer);
    if is_well_formed(bearer) { Ok(digest(bearer)) } else { Err(CredentialRefusal::Malformed) }
}

fn digest(text: &str) -> TokenDigest {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> String {
        contracts::hex::hex(&digest(text))
    }

    fn token(random: char) -> String {
        let random = random.to_string().repeat(RANDOM_CHARS);
        format!("zmb_{random}{}", checksum(&random))
    }

    fn file(lines: &[&str]) -> String {
        format!("version: 1\ntokens:\n{}\n", lines.join("\n"))
    }

    fn errors(text: &str) -> String {
        Tokens::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_form_of_a_token_is_fixed() {
        assert_eq!(checksum("123456789"), "3jZRME"); // CRC-32's test value, 0xCBF43926
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
        let text = token('A');
        assert_eq!((text.len(), is_token(&text), is_well_formed(&text)), (53, true, true));
        for wrong in ["", "zmb_", &text[1..], &text[..52], &format!("{text}0"), &text.replace("zmb_", "ZMB_")]
        {
            assert!(!is_well_formed(wrong), "{wrong}");
        }
        assert!(!is_token("eyJhbGciOi"));
    }

    #[test]
    fn a_new_token_is_found_by_its_line_and_no_other() {
        let (a, b) = (new_token("ci").unwrap(), new_token("true").unwrap());
        assert_ne!(a.plain, b.plain);
        let tokens = Tokens::parse(&file(&[&a.line, &b.line])).unwrap();
        for (token, name) in [(&a, "ci"), (&b, "true")] {
            let found = tokens.find(&token.plain, 0).unwrap();
            assert_eq!(found, FoundToken { principal: Principal::Token(name.to_owned()), expires_ms: None });
        }
        assert!(!a.line.contains(&a.plain));
        let other = new_token("ci").unwrap();
        assert_eq!(tokens.find(&other.plain, 0), Err(CredentialRefusal::UnknownToken));
        for wrong in ["", "a b", "zmb_a", &"x".repeat(129)] {
            assert!(matches!(new_token(wrong), Err(NoNewToken::Name)), "{wrong}");
        }
    }

    #[test]
    fn both_tokens_of_a_name_are_valid_until_one_expires() {
        let (old, new, lasting) = (token('o'), token('n'), token('l'));
        let tokens = Tokens::parse(&file(&[
            &format!("- {{name: ci, sha256: \"{}\", expires: 2027-01-01T00:00:00Z}}", hex(&old)),
            &format!("- {{name: ci, sha256: {}, expires: \"2027-01-01T01:00:00+01:00\"}}", hex(&new)),
            &format!("- {{name: ci, sha256: \"{}\"}}", hex(&lasting).to_uppercase()),
        ]))
        .unwrap();
        let expires_ms = 1_798_761_600_000;
        let principal = Principal::Token("ci".to_owned());
        for token in [&old, &new] {
            let found = tokens.find(token, expires_ms - 1).unwrap();
            assert_eq!((found.principal, found.expires_ms), (principal.clone(), Some(expires_ms)));
            assert_eq!(tokens.find(token, expires_ms), Err(CredentialRefusal::Expired));
        }
        assert_eq!(tokens.find(&lasting, TimestampMs::MAX).unwrap().principal, principal);
    }

    #[test]
    fn every_error_is_found_at_once_and_tells_no_token() {
        let secret = token('s');
        let digest = hex(&secret);
        let text = file(&[
            &format!("- {{name: a, token: {secret}}}"),
            &format!("- {{name: b, sha256: {secret}}}"),
            &format!("- {{name: {secret}, sha256: {digest}}}"),
            &format!("- {{name: c, sha256: {digest}, {secret}: 1}}"),
            &format!("- {{name: d, sha256: {digest}}}"),
            "- {name: 7, sha256: abc, expires: soon}",
            "- {name: a b, sha256: 1, expires: 9999-12-31T23:59:59Z}",
        ]);
        let found = errors(&text);
        for (line, field) in [
            (3, "tokens[0].token: plain tokens are not allowed here"),
            (3, "tokens[0].sha256: is missing"),
            (4, "tokens[1].sha256: is a plain token"),
            (5, "tokens[2].name: a name is"),
            (6, "tokens[3].zmb_...: is not a known field; there are name, expires, sha256"),
            (7, "tokens[4].sha256: is the digest of a token above"),
            (8, "tokens[5].name: must be text"),
            (8, "tokens[5].expires: must be a time"),
            (8, "tokens[5].sha256: must be the token's SHA-256"),
            (9, "tokens[6].name: a name is"),
            (9, "tokens[6].expires: must be a time"),
            (9, "tokens[6].sha256: must be text"),
        ] {
            let begins = format!("line {line}, {field}");
            assert!(found.lines().any(|found| found.starts_with(&begins)), "{begins}\nis not in\n{found}");
        }
        assert_eq!(found.lines().count(), 12, "{found}");
        assert!(!found.contains(&secret[4..]) && !found.contains(&digest), "{found}");
        let twice = format!("version: 1\n{secret}: 1\n{secret}: 2\n");
        assert!(!errors(&twice).contains(&secret[4..]), "{}", errors(&twice));
    }

    #[test]
    fn a_file_that_is_empty_or_cut_short_is_refused_and_an_empty_list_is_not() {
        let digest = hex("x");
        let whole = file(&[&format!("- {{name: ci, sha256: \"{digest}\"}}")]);
        let end = whole.find("sha256").unwrap();
        for text in
            ["", "version: 1\n", "version: 1\ntokens:\n", "tokens: []\n", &whole[..end], &whole[..end + 20]]
        {
            assert!(Tokens::parse(text).is_err(), "{text}");
        }
        assert!(Tokens::parse("version: 1\ntokens: []\n").is_ok());
        assert!(Tokens::parse(&whole).is_ok());
    }

    proptest! {
        #[test]
        fn a_token_that_is_off_by_one_letter_is_malformed(
            bytes: [u8; 32],
            at in 4usize..53,
            letter in "[A-Za-z0-9_-]",
        ) {
            let random = URL_SAFE_NO_PAD.encode(bytes);
            let text = format!("zmb_{random}{}", checksum(&random));
            let line = format!("- {{name: ci, sha256: \"{}\"}}", hex(&text));
            let tokens = Tokens::parse(&file(&[&line])).unwrap();
            prop_assert!(tokens.find(&text, 0).is_ok());
            let mut other = text.clone();
            other.replace_range(at..=at, &letter);
            prop_assume!(other != text);
            prop_assert_eq!(tokens.find(&other, 0), Err(CredentialRefusal::Malformed));
        }

        #[test]
        fn any_bearer_is_refused_and_none_breaks_it(bearer in "(zmb_)?.{0,60}") {
            prop_assert!(Tokens::default().find(&bearer, 0).is_err());
        }
    }
}
