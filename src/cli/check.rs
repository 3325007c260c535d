//! `zombi config check --files`: all that is wrong with the files that the settings name.

use std::io::Write;

use super::{answer::Unanswered, exit};
use crate::{
    auth::{
        bad_file::BadFile,
        files,
        jwt::source::KeySource,
        settings::{AuthMode, OidcSettings},
    },
    cluster::{client::PodClient, secret::SecretFile},
    net::tls::{Tls, settings::ClientAuth},
    settings::Settings,
};

/// Reads all files that the settings name, and prints everything that a server would not accept, or nobody
/// could use.
///
/// # Errors
/// [`Unanswered`] if the output cannot be written. What is wrong with the files is the answer, and no error.
pub(super) fn check_files(settings: &Settings, out: &mut dyn Write) -> Result<u8, Unanswered> {
    let mistakes = mistakes(settings)?;
    for mistake in &mistakes {
        writeln!(out, "WRONG {mistake}")?;
    }
    if settings.auth.mode == AuthMode::None && settings.oidc != OidcSettings::default() {
        let why = "auth.oidc.* is set and not used: auth.mode is none, so everybody may do everything";
        writeln!(out, "WARNING {why}")?;
    }
    if !mistakes.is_empty() {
        return Ok(exit::USAGE);
    }
    match named_files(settings).as_slice() {
        [] => writeln!(out, "the settings can be used; they name no files")?,
        keys => writeln!(out, "the settings can be used, and the files of {}", keys.join(", "))?,
    }
    Ok(exit::DONE)
}

/// What is wrong with the files, and with settings that only make sense together; a line each.
fn mistakes(settings: &Settings) -> Result<Vec<String>, Unanswered> {
    let policy = settings.auth.policy_file.as_deref().map(files::read_policy);
    let tokens = settings.auth.tokens_file.as_deref().map(files::read_tokens);
    // Its keys' files are read as a fetch reads them.
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| Unanswered::Failed(error.to_string()))?;
    let of_keys = runtime.block_on(KeySource::faults(&settings.oidc));
    let of_tls = Tls::faults(&settings.tls);

    // A policy that cannot be used may be meant for everybody.
    let may_let_everybody_in = match &policy {
        Some(Ok(policy)) => policy.has_binding_for_everybody(),
        Some(Err(_)) => true,
        None => false,
    };
    let bad_files = [policy.and_then(Result::err), tokens.and_then(Result::err)];
    let mut mistakes: Vec<String> = bad_files.into_iter().flatten().flat_map(BadFile::into_lines).collect();
    mistakes.extend(of_keys);
    // What is wrong with the files of TLS is said once.
    let has_tls = of_tls.is_empty();
    mistakes.extend(of_tls.iter().map(ToString::to_string));
    mistakes.extend(of_pods(settings, has_tls));
    if settings.auth.mode == AuthMode::Required && !has_credentials(settings) && !may_let_everybody_in {
        let why = "auth.mode is required, and nobody can get in: set auth.tokens_file, auth.oidc.issuer or \
                   tls.client_auth";
        mistakes.push(why.to_owned());
    }
    Ok(mistakes)
}

/// What is wrong with the files by which pods of a cluster believe each other.
fn of_pods(settings: &Settings, has_tls: bool) -> Vec<String> {
    let Settings { cluster, tls, .. } = settings;
    let of_secret = cluster.secret_file.as_deref().and_then(|path| SecretFile::load(path).err());
    let has_client = has_tls && cluster.is_on();
    let of_client = has_client.then(|| PodClient::new(cluster, tls).err()).flatten();
    of_secret.into_iter().chain(of_client).collect()
}

/// Whether the settings accept any kind of credential.
fn has_credentials(settings: &Settings) -> bool {
    settings.auth.tokens_file.is_some()
        || settings.oidc.issuer.is_some()
        || settings.tls.client_auth != ClientAuth::None
}

/// The settings whose files are read.
fn named_files(settings: &Settings) -> Vec<&'static str> {
    let Settings { auth, oidc, tls, cluster, .. } = settings;
    let asks_clients = tls.client_auth != ClientAuth::None;
    let keys = [
        ("auth.policy_file", auth.policy_file.is_some()),
        ("auth.tokens_file", auth.tokens_file.is_some()),
        ("auth.oidc.jwks_file", oidc.jwks_file.is_some()),
        ("auth.oidc.ca_file", oidc.ca_file.is_some()),
        ("auth.oidc.token_file", oidc.token_file.is_some()),
        ("tls.cert_file", tls.cert_file.is_some()),
        ("tls.key_file", tls.key_file.is_some()),
        ("tls.client_ca_file", tls.client_ca_file.is_some() && asks_clients),
        ("cluster.secret_file", cluster.secret_file.is_some()),
        ("cluster.ca_file", cluster.ca_file.is_some() && tls.cert_file.is_some()),
    ];
    keys.into_iter().filter(|(_, is_read)| *is_read).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::{auth::settings::AuthSettings, net::tls::settings::TlsSettings};

    const POLICY: &str = "version: 1\nbindings: []\n";
    const TOKENS: &str = "version: 1\ntokens: []\n";

    fn write(directory: &TempDir, name: &str, text: &str) -> Option<PathBuf> {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    }

    /// Settings that let in only whom these files name.
    fn required(directory: &TempDir, policy: &str, tokens: &str) -> Settings {
        let auth = AuthSettings {
            mode: AuthMode::Required,
            policy_file: write(directory, "policy.yaml", policy),
            tokens_file: write(directory, "tokens.yaml", tokens),
            ..AuthSettings::default()
        };
        Settings { auth, ..Settings::default() }
    }

    fn check(settings: &Settings) -> (u8, String) {
        let mut out: Vec<u8> = Vec::new();
        let code = check_files(settings, &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn files_without_mistakes_are_named() {
        let none = "the settings can be used; they name no files\n";
        assert_eq!(check(&Settings::default()), (exit::DONE, none.to_owned()));
        let directory = tempfile::tempdir().unwrap();
        let both = "the settings can be used, and the files of auth.policy_file, auth.tokens_file\n";
        assert_eq!(check(&required(&directory, POLICY, TOKENS)), (exit::DONE, both.to_owned()));
    }

    #[test]
    fn every_mistake_in_every_file_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = required(&directory, "version: 2\nbindings: 3\n", "version: 1\n");
        settings.oidc = OidcSettings {
            issuer: Some("https://issuer.example".to_owned()),
            jwks_file: write(&directory, "jwks.json", "{}"),
            ..OidcSettings::default()
        };
        let missing = |name: &str| Some(directory.path().join(name));
        settings.tls = TlsSettings {
            cert_file: missing("tls.crt"),
            key_file: missing("tls.key"),
            client_ca_file: missing("ca.crt"),
            client_auth: ClientAuth::Required,
        };
        let (code, said) = check(&settings);
        assert_eq!(code, exit::USAGE);
        for mistake in [
            "policy.yaml: line 1, version: ",
            "policy.yaml: line 2, bindings: ",
            "tokens.yaml: line 1, tokens: is missing",
            "jwks.json: it has no list of keys",
            "tls.cert_file is ",
            "tls.key_file is ",
            "tls.client_ca_file is ",
        ] {
            let is_it = |line: &str| line.starts_with("WRONG ") && line.contains(mistake);
            assert!(said.lines().any(is_it), "{mistake}\nis not in\n{said}");
        }
        assert_eq!(said.lines().count(), 7, "{said}");
    }

    #[test]
    fn the_files_for_a_fetch_are_read_and_nothing_is_fetched() {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = required(&directory, POLICY, TOKENS);
        settings.oidc = OidcSettings {
            issuer: Some("https://issuer.example".to_owned()),
            jwks_url: Some("https://127.0.0.1:1/keys".to_owned()),
            ca_file: write(&directory, "ca.crt", "no certificate"),
            token_file: write(&directory, "token", ""),
            ..OidcSettings::default()
        };
        let (code, said) = check(&settings);
        assert_eq!((code, said.lines().count()), (exit::USAGE, 2), "{said}");
        assert!(said.contains("ca.crt: it holds no certificate"), "{said}");
        assert!(said.contains("token: it does not hold a token"), "{said}");
    }

    #[test]
    fn that_nobody_can_get_in_is_a_mistake_unless_everybody_can() {
        let directory = tempfile::tempdir().unwrap();
        let everybody = "version: 1\nbindings:\n- {subjects: [\"*\"], anonymous: true, role: producer}\n";
        for (policy, is_wrong) in [(POLICY, true), (everybody, false)] {
            let mut settings = required(&directory, policy, TOKENS);
            settings.auth.tokens_file = None;
            let (code, said) = check(&settings);
            assert_eq!(code == exit::USAGE && said.contains("nobody can get in"), is_wrong, "{said}");
        }
    }

    #[test]
    fn an_issuer_that_is_not_asked_is_a_warning() {
        let mut settings = Settings::default();
        settings.oidc.audience = "other".to_owned();
        let (code, said) = check(&settings);
        assert_eq!(code, exit::DONE);
        assert!(said.starts_with("WARNING auth.oidc.*"), "{said}");
    }
}
