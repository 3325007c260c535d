//! The files of the policy and of the tokens: where the settings name them, read whole and checked. A start
//! and the commands that check them beforehand refuse the same.
//!
//! Does not decide when they are read again.

use std::path::Path;

use super::settings::AuthSettings;
use super::{bad_file::BadFile, policy::Policy, tokens::Tokens};
use crate::{first_bytes::first_bytes, yaml::MAX_TEXT_BYTES};

/// What the files of identity hold.
#[derive(Debug)]
pub struct AuthFiles {
    /// Of `auth.policy_file`.
    pub policy: Policy,
    /// Of `auth.tokens_file`, if it is set.
    pub tokens: Option<Tokens>,
}

/// Reads the files that the settings name, whatever `auth.mode` is. Blocks on the disk.
///
/// # Errors
/// [`BadFile`] with everything that is wrong with either, and the file's path in front of each error. So it
/// is if `auth.policy_file` is not set.
pub fn load(settings: &AuthSettings) -> Result<AuthFiles, BadFile> {
    let policy = match &settings.policy_file {
        Some(path) => read_policy(path),
        None => Err(BadFile::new(vec!["auth.policy_file is not set".to_owned()])),
    };
    let tokens = settings.tokens_file.as_deref().map(read_tokens).transpose();
    match (policy, tokens) {
        (Ok(policy), Ok(tokens)) => Ok(AuthFiles { policy, tokens }),
        (Err(policy), Err(tokens)) => Err(policy.and(tokens)),
        (Err(bad), Ok(_)) | (Ok(_), Err(bad)) => Err(bad),
    }
}

/// Reads a file with a policy.
///
/// # Errors
/// [`BadFile`] with everything that is wrong, and the path.
pub(crate) fn read_policy(path: &Path) -> Result<Policy, BadFile> {
    read(path, Policy::parse)
}

/// Reads a file with tokens.
///
/// # Errors
/// [`BadFile`] with everything that is wrong, and the path. No token is in its text.
pub(crate) fn read_tokens(path: &Path) -> Result<Tokens, BadFile> {
    read(path, Tokens::parse)
}

fn read<T>(path: &Path, parse: fn(&str) -> Result<T, BadFile>) -> Result<T, BadFile> {
    let text = text_of(path).map_err(|why| BadFile::new(vec![why]));
    text.and_then(|text| parse(&text)).map_err(|bad| bad.of(path))
}

fn text_of(path: &Path) -> Result<String, String> {
    let bytes = first_bytes(path, MAX_TEXT_BYTES + 1).map_err(|error| error.to_string())?;
    if bytes.len() > MAX_TEXT_BYTES {
        return Err(format!("it has more than {MAX_TEXT_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    const POLICY: &str = "version: 1\nbindings: []\n";
    const TOKENS: &str = "version: 1\ntokens: []\n";

    /// Settings that name two files with these contents.
    fn settings(directory: &TempDir, policy: &[u8], tokens: &[u8]) -> AuthSettings {
        let write = |name: &str, contents: &[u8]| -> Option<PathBuf> {
            let path = directory.path().join(name);
            std::fs::write(&path, contents).unwrap();
            Some(path)
        };
        let (policy_file, tokens_file) = (write("policy.yaml", policy), write("tokens.yaml", tokens));
        AuthSettings { policy_file, tokens_file, ..AuthSettings::default() }
    }

    #[test]
    fn both_files_are_read_and_the_tokens_may_be_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = settings(&directory, POLICY.as_bytes(), TOKENS.as_bytes());
        assert!(load(&settings).unwrap().tokens.is_some());
        settings.tokens_file = None;
        assert!(load(&settings).unwrap().tokens.is_none());
        settings.policy_file = None;
        assert_eq!(load(&settings).unwrap_err().to_string(), "auth.policy_file is not set");
    }

    #[test]
    fn every_error_of_both_is_said_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(&directory, b"version: 2\nbindings: 3\n", b"version: 1\ntokens: [1]\n");
        let (policy, tokens) = (directory.path().join("policy.yaml"), directory.path().join("tokens.yaml"));
        let expected = format!(
            "{0}: line 1, version: must be 1\n{0}: line 2, bindings: must be a list\n\
             {1}: line 2, tokens[0]: must be a mapping of names to values",
            policy.display(),
            tokens.display()
        );
        assert_eq!(load(&settings).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let long = "#".repeat(MAX_TEXT_BYTES + 1);
        for (contents, why) in
            [(long.as_bytes(), "more than 1048576 bytes"), (b"\xff".as_slice(), "no text in UTF-8")]
        {
            let said = load(&settings(&directory, contents, TOKENS.as_bytes())).unwrap_err().to_string();
            assert!(said.contains(why) && said.contains("policy.yaml: "), "{said}");
        }
        let mut settings = settings(&directory, POLICY.as_bytes(), TOKENS.as_bytes());
        for missing in [directory.path().join("nothing"), directory.path().to_owned()] {
            settings.tokens_file = Some(missing.clone());
            let said = load(&settings).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{}: ", missing.display())), "{said}");
        }
    }
}
