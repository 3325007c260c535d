//! Files that say who may do what, and what callers show.

use std::{collections::BTreeMap, io::Write, sync::OnceLock};

use contracts::{
    clock::SystemClock,
    name::{GroupName, TableName},
};
use futures_util::FutureExt;
use zombi::{
    auth::{
        jwt::{Verifier, keys::KeySet},
        policy::{Policy, Resource},
        principal::Principal,
        settings::OidcSettings,
        tokens::{self, Tokens},
        verb::Verb,
    },
    cluster::{
        secret::SecretFile,
        ticket::{Ticket, TicketUse},
    },
    net::tls::certificate::named_by,
    settings::{Reads, Settings},
};

use super::base64;

pub(super) fn config(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(data).unwrap();
    if let Ok(config) = Settings::load(Some(file.path().to_owned()), BTreeMap::new(), Vec::new(), Reads::All)
    {
        assert!(config.to_yaml().is_ok());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for setting in Settings::all() {
        drop(Settings::load(None, [(setting.env.clone(), text.to_owned())], Vec::new(), Reads::All));
    }
}

/// A policy decides about anybody, and lets nobody in without a credential unless it says so.
pub(super) fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(principal) = text.parse::<Principal>() {
        assert_eq!(principal.to_string(), text);
    }
    let Ok(policy) = Policy::parse(text) else { return };
    let (table, group) = (TableName::parse("orders").unwrap(), GroupName::parse("billing").unwrap());
    for resource in [Resource::Table(&table), Resource::Group(&group), Resource::Server] {
        for verb in [Verb::Append, Verb::Read, Verb::Commit, Verb::Rewind, Verb::Manage, Verb::Operate] {
            let decision = policy.decide(&Principal::Anonymous, verb, resource);
            assert!(!decision.is_allowed() || text.contains("anonymous") || text.contains('\\'));
            let named = Principal::ServiceAccount { namespace: "shop".into(), name: "checkout".into() };
            policy.decide(&named, verb, resource);
            policy.quota(&named);
        }
    }
}

/// No error of a file of tokens tells one, and nobody has a token that the file does not have.
pub(super) fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_token = tokens::is_token(text);
    assert!(Tokens::default().find(text, 0).is_err());
    match Tokens::parse(text) {
        Ok(tokens) => assert!(tokens.find(text, 0).is_err() || is_token),
        Err(error) => {
            let error = error.to_string();
            let shows_one = |rest: &str| rest.starts_with(|letter: char| letter.is_ascii_alphanumeric());
            assert!(!error.split("zmb_").skip(1).any(shows_one), "{error}");
        }
    }
}

/// A set that is taken has a key.
pub(super) fn jwks(data: &[u8]) {
    if let Ok(set) = KeySet::parse(data) {
        assert!(set.count() > 0);
    }
}

/// A verifier that knows one key, whose other half nobody has.
fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(include_bytes!("../corpus/jwks/p256")).unwrap();
        let settings = OidcSettings {
            issuer: Some("https://issuer.example".to_owned()),
            jwks_file: Some(file.path().to_owned()),
            ..OidcSettings::default()
        };
        let nowhere = file.path().with_extension("data");
        Verifier::open(&settings, &nowhere, SystemClock::shared()).unwrap().unwrap()
    })
}

/// Nobody can sign, whatever a token says of itself.
pub(super) fn jwt(data: &[u8]) {
    let texts = [String::from_utf8_lossy(data).into_owned(), format!("{}.e30.AAAA", base64(data))];
    for token in texts {
        let verified = verifier().verify(&token).now_or_never();
        assert!(verified.expect("the keys of a file are not waited for").is_err());
    }
}

/// Whom a certificate names can stand in a policy and in a line of the log.
pub(super) fn certificate(data: &[u8]) {
    if let Some(shown) = named_by(data) {
        assert!(!shown.uri.is_empty() && shown.uri.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

/// Nobody speaks for another without the secret, and a secret is never told.
pub(super) fn ticket(data: &[u8]) {
    static SECRET: OnceLock<SecretFile> = OnceLock::new();
    let secret = SECRET.get_or_init(|| SecretFile::parse(&[b's'; 32]).unwrap());
    if let Ok(text) = std::str::from_utf8(data) {
        let needed = TicketUse { method: "GET", path: "/tables/t", to: "zombi-0", now: 1000 };
        assert!(Ticket::read(text, secret, needed).is_err());
    }
    drop(SecretFile::parse(data));
}
