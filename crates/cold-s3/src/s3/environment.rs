//! What connects to the bucket, from the settings and the usual `AWS_*` names.

use std::{collections::BTreeMap, path::Path};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use tracing::warn;

use super::{Credentials, ObjectOptions, S3Options};
use crate::settings::{Checksums, Encryption, S3Settings, check_endpoint};

impl S3Options {
    /// Where the bucket is, if one is configured. What the settings leave out comes from the usual `AWS_*`
    /// names.
    ///
    /// # Errors
    /// Names the setting or variable that cannot be used.
    pub fn from_settings(
        settings: &S3Settings,
        environment: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, String> {
        let Some(bucket) = settings.bucket.clone() else { return Ok(None) };
        let prefix = match settings.prefix.trim_end_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let authorities = match environment.get("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
            None => None,
            Some(path) => {
                Some(certificates(path).map_err(|why| format!("AWS_CA_BUNDLE is {path:?}: {why}"))?)
            }
        };
        Ok(Some(S3Options {
            bucket,
            endpoint: endpoint(settings, environment)?,
            region: region(settings, environment)?,
            prefix,
            attempt_timeout: settings.attempt_timeout_secs.duration(),
            attempts: settings.attempts,
            with_checksums: settings.checksums == Checksums::WhenSupported,
            is_unfenced: settings.unfenced,
            credentials: credentials(environment)?,
            has_credentials_file: has_credentials_file(environment),
            authorities,
            objects: ObjectOptions {
                sse: settings.sse.map(|sse| match sse {
                    Encryption::Aes256 => "AES256".into(),
                    Encryption::Kms => "aws:kms".into(),
                }),
                kms_key_id: settings.kms_key_id.clone(),
                storage_class: settings.storage_class.as_deref().map(Into::into),
            },
        }))
    }
}

/// Reads a file of certificates, and checks that it holds some.
fn certificates(path: &str) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in it, as PEM".to_owned()),
        Ok(_) => Ok(pem),
        Err(error) => Err(error.to_string()),
    }
}

/// The first of these names that has a value, and the value. An empty value counts as none, and hides no
/// later name.
fn named<'a>(
    names: &[&'static str],
    environment: &'a BTreeMap<String, String>,
) -> Option<(&'static str, &'a str)> {
    names
        .iter()
        .find_map(|name| Some((*name, environment.get(*name)?.trim())).filter(|(_, value)| !value.is_empty()))
}

fn endpoint(settings: &S3Settings, environment: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    if settings.endpoint.is_some() {
        return Ok(settings.endpoint.clone());
    }
    let Some((name, value)) = named(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], environment) else {
        return Ok(None);
    };
    check_endpoint(value).map_err(|why| format!("{name}: {why}"))?;
    Ok(Some(value.to_owned()))
}

fn region(settings: &S3Settings, environment: &BTreeMap<String, String>) -> Result<String, String> {
    if let Some(region) = &settings.region {
        return Ok(region.clone());
    }
    match named(&["AWS_REGION", "AWS_DEFAULT_REGION"], environment) {
        None => Ok("us-east-1".to_owned()),
        Some((_, value)) if value.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(value.to_owned()),
        Some((name, value)) => Err(format!("{name} is {value:?}: it must be a word without white space")),
    }
}

/// Credentials from the environment, if they had to be trimmed: a Secret made with `echo` ends with a line
/// break. Otherwise `None`, and the SDK reads them itself.
fn credentials(environment: &BTreeMap<String, String>) -> Result<Option<Credentials>, String> {
    const NAMES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let mut is_trimmed = false;
    let [key_id, secret, token] = NAMES.map(|name| {
        let Some(value) = environment.get(name) else { return Ok(None) };
        let trimmed = value.trim();
        // With an empty key the SDK would look for a role instead, and fail elsewhere. An empty token just
        // means that there is none.
        if trimmed.is_empty() && name != "AWS_SESSION_TOKEN" {
            return Err(format!(
                "{name} is empty: give it its value, or take it away where credentials come from elsewhere"
            ));
        }
        if trimmed.len() != value.len() {
            is_trimmed = true;
            warn!(
                "{name} has white space around it, which is ignored: was its Secret made with `echo` \
                 instead of `printf`?"
            );
        }
        // The value is not shown: it is a secret, or close to one.
        let is_right = trimmed.bytes().all(|byte| byte.is_ascii_graphic());
        if is_right {
            Ok(Some(trimmed.to_owned()))
        } else {
            Err(format!("{name} has a character that no key has"))
        }
    });
    match (key_id?, secret?, token?) {
        (Some(key_id), Some(secret), token) if is_trimmed => {
            Ok(Some(Credentials { key_id, secret, token: token.filter(|token| !token.is_empty()) }))
        }
        _ => Ok(None),
    }
}

/// Whether credentials come from a file: one that is named, or the one that is looked for. A key pair in the
/// environment comes first, and then the file does not matter.
fn has_credentials_file(environment: &BTreeMap<String, String>) -> bool {
    if environment.contains_key("AWS_ACCESS_KEY_ID") {
        return false;
    }
    let usual = |home: &str| Path::new(home).join(".aws").join("credentials").is_file();
    named(&["AWS_SHARED_CREDENTIALS_FILE"], environment).is_some()
        || named(&["HOME"], environment).is_some_and(|(_, home)| usual(home))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn settings() -> S3Settings {
        S3Settings { bucket: Some("events".to_owned()), ..S3Settings::default() }
    }

    #[test]
    fn what_is_empty_hides_nothing() {
        let given = environment(&[
            ("AWS_REGION", ""),
            ("AWS_DEFAULT_REGION", "eu-env-3"),
            ("AWS_ENDPOINT_URL_S3", " "),
            ("AWS_ENDPOINT_URL", "http://minio:9000"),
        ]);
        let options = S3Options::from_settings(&settings(), &given).unwrap().unwrap();
        assert_eq!(
            (options.region.as_str(), options.endpoint.as_deref()),
            ("eu-env-3", Some("http://minio:9000"))
        );
        let options = S3Options::from_settings(
            &settings(),
            &environment(&[("AWS_REGION", ""), ("AWS_ENDPOINT_URL", "")]),
        )
        .unwrap()
        .unwrap();
        assert_eq!((options.region.as_str(), options.endpoint), ("us-east-1", None));
    }

    #[test]
    fn a_file_of_credentials_is_read_again_unless_the_environment_has_a_key_pair() {
        let named = ("AWS_SHARED_CREDENTIALS_FILE", "/etc/zombi/s3/credentials");
        let key = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let rereads = |pairs: &[(&str, &str)]| {
            let options = S3Options::from_settings(&settings(), &environment(pairs));
            options.unwrap().unwrap().has_credentials_file
        };
        assert!(rereads(&[named]));
        assert!(!rereads(&[named, key[0], key[1]]));
        assert!(!rereads(&[("AWS_SHARED_CREDENTIALS_FILE", ""), ("HOME", "/nonexistent")]));
    }

    #[test]
    fn a_key_that_is_empty_is_refused_by_name_and_an_empty_token_is_none() {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            for value in ["", " ", "\n"] {
                let mut given = environment(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")]);
                given.insert(name.to_owned(), value.to_owned());
                let why = S3Options::from_settings(&settings(), &given).unwrap_err();
                assert!(why.contains(name) && why.contains("empty"), "{value:?}: {why}");
            }
        }
        let given = environment(&[
            ("AWS_ACCESS_KEY_ID", "a\n"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_SESSION_TOKEN", " "),
        ]);
        let credentials =
            S3Options::from_settings(&settings(), &given).unwrap().unwrap().credentials.unwrap();
        assert_eq!(
            (credentials.key_id.as_str(), credentials.secret.as_str(), credentials.token),
            ("a", "s", None)
        );
    }
}
