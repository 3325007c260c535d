//! The settings of who may enter, of tokens that an issuer signs, and of what is written down about it.

use std::path::{Path, PathBuf};

use axum::http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::{BrokenRules, Seconds, Section};

/// Whether callers must say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Everybody may do everything.
    None,
    /// Nobody may do what the policy does not allow.
    Required,
}

/// Who may enter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthSettings {
    /// `none`: everybody may do everything. `required`: nobody may do what `auth.policy_file` does not allow.
    pub mode: AuthMode,
    /// A YAML file with roles, bindings and quotas. Loaded again when it changes. Needed with `required`.
    pub policy_file: Option<PathBuf>,
    /// A YAML file with static tokens, as digests. Loaded again when it changes.
    pub tokens_file: Option<PathBuf>,
    /// With `required`: everything on the admin port but probes and `/metrics` needs the right to operate.
    pub admin: bool,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self { mode: AuthMode::None, policy_file: None, tokens_file: None, admin: true }
    }
}

impl Section for AuthSettings {
    const NAME: &'static str = "auth";

    fn check(&self, broken: &mut BrokenRules) {
        broken.unless(
            self.mode == AuthMode::None || self.policy_file.is_some(),
            "auth.policy_file must be set with auth.mode = required: without a policy nobody may do anything",
        );
        check_paths(
            broken,
            &[("auth.policy_file", &self.policy_file), ("auth.tokens_file", &self.tokens_file)],
        );
    }
}

/// Whom the subjects of an issuer's tokens name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OidcKind {
    /// ServiceAccounts of a Kubernetes cluster.
    Kubernetes,
    /// Whatever the issuer says.
    Generic,
}

/// Tokens (JWTs) that an issuer signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OidcSettings {
    /// The issuer, exactly as the `iss` of its tokens. Unset: no JWT is accepted.
    pub issuer: Option<String>,
    /// `kubernetes`: subjects are ServiceAccounts, `sa:NAMESPACE/NAME`, and others are refused. `generic`: a
    /// subject is `oidc:SUB`, and never `sa:`.
    pub kind: OidcKind,
    /// What the `aud` of a token must name.
    pub audience: String,
    /// Where the issuer's keys are fetched from, for example
    /// `https://kubernetes.default.svc/openid/v1/jwks`; `https` only.
    pub jwks_url: Option<String>,
    /// A file with the issuer's keys, instead of the URL. Loaded again when it changes.
    pub jwks_file: Option<PathBuf>,
    /// Certificates (PEM) of whom `auth.oidc.jwks_url` is trusted, read at each fetch. Unset: the system's.
    pub ca_file: Option<PathBuf>,
    /// A token that is sent to `auth.oidc.jwks_url`, and to nothing else; read at each fetch.
    pub token_file: Option<PathBuf>,
    /// Seconds after which the keys are fetched again. A token with an unknown key makes it sooner.
    #[schemars(range(min = 10, max = 86_400))]
    pub refresh_secs: Seconds,
    /// Seconds that clocks may differ by: for `exp`, `nbf` and `iat`.
    #[schemars(range(max = 300))]
    pub leeway_secs: Seconds,
    /// Seconds between `iat` and `exp` of a token at most: longer lives are refused.
    #[schemars(range(min = 60, max = 31_536_000))]
    pub max_lifetime_secs: Seconds,
}

impl Default for OidcSettings {
    fn default() -> Self {
        Self {
            issuer: None,
            kind: OidcKind::Kubernetes,
            audience: "zombi".to_owned(),
            jwks_url: None,
            jwks_file: None,
            ca_file: None,
            token_file: None,
            refresh_secs: Seconds::new(3600),
            leeway_secs: Seconds::new(30),
            max_lifetime_secs: Seconds::new(86_400),
        }
    }
}

impl Section for OidcSettings {
    const NAME: &'static str = "auth.oidc";

    fn check(&self, broken: &mut BrokenRules) {
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(issuer) = &self.issuer {
            let text = format!("auth.oidc.issuer is {issuer:?}: it must be a word without white space");
            broken.unless(is_word(issuer), text);
        }
        let text =
            format!("auth.oidc.audience is {:?}: it must be a word without white space", self.audience);
        broken.unless(is_word(&self.audience), text);
        self.check_source(broken);
        check_paths(
            broken,
            &[
                ("auth.oidc.jwks_file", &self.jwks_file),
                ("auth.oidc.ca_file", &self.ca_file),
                ("auth.oidc.token_file", &self.token_file),
            ],
        );
    }
}

impl OidcSettings {
    /// Checks that the keys have one source where there is an issuer, and none where there is not.
    fn check_source(&self, broken: &mut BrokenRules) {
        match (&self.issuer, &self.jwks_url, &self.jwks_file) {
            (Some(_), Some(_), None) | (Some(_), None, Some(_)) | (None, None, None) => {}
            (Some(_), ..) => broken.unless(
                contracts::mutant("jwks_sources"),
                "auth.oidc.issuer goes with exactly one of auth.oidc.jwks_url and auth.oidc.jwks_file",
            ),
            (None, ..) => broken.unless(
                false,
                "auth.oidc.jwks_url and auth.oidc.jwks_file go with auth.oidc.issuer, which is not set",
            ),
        }
        if let Some(url) = &self.jwks_url
            && let Err(why) = parse_jwks_url(url)
        {
            // Not shown: it may hold a password.
            broken.unless(false, format!("auth.oidc.jwks_url: {why}"));
        }
        for (key, path) in [("auth.oidc.ca_file", &self.ca_file), ("auth.oidc.token_file", &self.token_file)]
        {
            let has_url = path.is_none() || self.jwks_url.is_some();
            broken.unless(has_url, format!("{key} goes with auth.oidc.jwks_url, which is not set"));
        }
    }
}

/// What is written to the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditLog {
    /// Nothing.
    Off,
    /// What changes tables, groups and the server, and every denial.
    Changes,
    /// Every request that needs a right.
    All,
}

/// The audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditSettings {
    /// `changes`: requests that rewind, manage or operate, and denials. `all`: every request but probes and
    /// pages without data. Not under `log.level`. With `auth.mode` `none` nothing is audited: nobody is
    /// known.
    pub log: AuditLog,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { log: AuditLog::Changes }
    }
}

impl Section for AuditSettings {
    const NAME: &'static str = "audit";
}

/// A path that is set but empty is a mistake in the environment, and would be read as the working directory.
fn check_paths(broken: &mut BrokenRules, paths: &[(&str, &Option<PathBuf>)]) {
    for (key, path) in paths {
        let is_path = path.as_deref().is_none_or(|path: &Path| !path.as_os_str().is_empty());
        broken.unless(is_path, format!("{key} must not be empty: leave it out to have none"));
    }
}

/// The URL of a JWKS.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_jwks_url(text: &str) -> Result<Uri, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "it is not a URL")?;
    if uri.scheme_str() != Some("https") && !contracts::mutant("jwks_https") {
        return Err("it must begin with https://: whoever changes an answer on its way could sign tokens");
    }
    let authority = uri.authority().ok_or("it names no server")?;
    if authority.host().is_empty() {
        return Err("it names no server");
    }
    if authority.as_str().contains('@') {
        return Err("it must not hold a user: auth.oidc.token_file is for that");
    }
    // A port that is not a number would be ignored.
    if authority.as_str() != authority.host() && authority.port_u16().is_none() {
        return Err("its port is not one");
    }
    if text.contains('#') { Err("it must not have a fragment") } else { Ok(uri) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(section: &impl Section) -> Vec<String> {
        let mut broken = BrokenRules::default();
        section.check(&mut broken);
        broken.into_lines()
    }

    fn oidc() -> OidcSettings {
        OidcSettings {
            issuer: Some("https://issuer.example".to_owned()),
            jwks_url: Some("https://issuer.example/keys".to_owned()),
            ..OidcSettings::default()
        }
    }

    #[test]
    fn the_defaults_let_everybody_in_and_break_no_rule() {
        assert_eq!(AuthSettings::default().mode, AuthMode::None);
        assert_eq!(broken(&AuthSettings::default()), Vec::<String>::new());
        assert_eq!(broken(&OidcSettings::default()), Vec::<String>::new());
        assert_eq!(broken(&oidc()), Vec::<String>::new());
    }

    #[test]
    fn required_needs_a_policy() {
        let mut auth = AuthSettings { mode: AuthMode::Required, ..AuthSettings::default() };
        assert!(broken(&auth)[0].contains("auth.policy_file"));
        auth.policy_file = Some("/etc/zombi/policy.yaml".into());
        assert!(broken(&auth).is_empty());
        auth.tokens_file = Some(PathBuf::new());
        assert!(broken(&auth)[0].contains("auth.tokens_file"));
    }

    #[test]
    fn an_issuer_has_exactly_one_source_of_keys() {
        let file = Some(PathBuf::from("/keys.json"));
        let both = OidcSettings { jwks_file: file.clone(), ..oidc() };
        assert!(broken(&both)[0].contains("exactly one"));
        let neither = OidcSettings { jwks_url: None, ..oidc() };
        assert!(broken(&neither)[0].contains("exactly one"));
        let only_keys = OidcSettings { issuer: None, ..oidc() };
        assert!(broken(&only_keys)[0].contains("auth.oidc.issuer"));
        let of_file = OidcSettings { jwks_url: None, jwks_file: file, ..oidc() };
        assert!(broken(&of_file).is_empty());
        let with_ca = OidcSettings { ca_file: Some("/ca.crt".into()), ..of_file };
        assert!(broken(&with_ca)[0].contains("auth.oidc.ca_file"));
    }

    #[test]
    fn keys_are_fetched_over_https_only() {
        for url in ["https://a", "https://a:8443/keys?version=1", "https://[::1]:6443/keys", "HTTPS://a/"] {
            assert!(parse_jwks_url(url).is_ok(), "{url}");
        }
        for url in [
            "http://a/keys",
            "a/keys",
            "",
            "/keys",
            "https://",
            "https://user:secret@a/keys",
            "https://a:99999/keys",
            "https://a/keys#1",
            "https://a /keys",
            "file:///keys",
        ] {
            let settings = OidcSettings { jwks_url: Some(url.to_owned()), ..oidc() };
            assert!(broken(&settings).iter().any(|line| line.contains("auth.oidc.jwks_url: ")), "{url}");
        }
    }

    #[test]
    fn names_are_words() {
        for word in ["", "two words", "a\n"] {
            let settings = OidcSettings { issuer: Some(word.to_owned()), ..oidc() };
            assert!(broken(&settings)[0].contains("auth.oidc.issuer"), "{word:?}");
            let settings = OidcSettings { audience: word.to_owned(), ..oidc() };
            assert!(broken(&settings)[0].contains("auth.oidc.audience"), "{word:?}");
        }
    }

    #[test]
    fn values_have_the_names_of_the_page() {
        let text =
            serde_json::to_string(&AuthSettings { mode: AuthMode::Required, ..AuthSettings::default() });
        assert!(text.unwrap().contains(r#""mode":"required""#));
        let text = serde_json::to_string(&(OidcKind::Kubernetes, OidcKind::Generic, AuditLog::Off)).unwrap();
        assert_eq!(text, r#"["kubernetes","generic","off"]"#);
    }
}
