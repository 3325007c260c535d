//! The last good keys, as a file below `data_dir`, so that a start without the issuer's server works.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::keys::{KeySet, MAX_SET_BYTES};
use crate::first_bytes::first_bytes;

/// The directory in `data_dir`.
const DIRECTORY: &str = "auth";
/// The file in it.
const FILE: &str = "jwks.json";
/// What the file is written as, before it is whole.
const NEW_FILE: &str = "jwks.json.new";
/// The member that says where the keys came from. Readers of a JWKS pass over members that they do not know.
const FETCHED_FROM: &str = "fetched_from";
/// Bytes of the file that are read: those of a JWKS, and room for the member.
const MAX_FILE_BYTES: usize = 2 * MAX_SET_BYTES;

/// The file of the last good keys.
#[derive(Debug, Clone)]
pub(super) struct KeptKeys {
    directory: PathBuf,
    url: String,
}

impl KeptKeys {
    /// The file below `data_dir`, for keys that come from this URL.
    pub(super) fn new(data_dir: &Path, url: &str) -> Self {
        Self { directory: data_dir.join(DIRECTORY), url: url.to_owned() }
    }

    /// The keys that were kept; `None` if there are none, or if they came from another URL: once
    /// `auth.oidc.jwks_url` has changed, nobody trusts them. Keys that do not say where they came from were
    /// put there by hand.
    ///
    /// # Errors
    /// Why the file cannot be used, with its path.
    pub(super) fn read(&self) -> Result<Option<KeySet>, String> {
        let path = self.directory.join(FILE);
        let failed = |why: String| format!("{}: {why}", path.display());
        let bytes = match first_bytes(&path, MAX_FILE_BYTES) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| failed(error.to_string()))?,
        };
        let mut set: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
        let is_others = set.remove(FETCHED_FROM).is_some_and(|url| url.as_str() != Some(self.url.as_str()));
        if is_others && !contracts::mutant("kept_url") {
            return Ok(None);
        }
        let set = KeySet::parse(Value::Object(set).to_string().as_bytes());
        set.map(Some).map_err(|error| failed(error.to_string()))
    }

    /// Keeps a JWKS. The file is whole at every moment, and on disk at the end. Blocks.
    ///
    /// # Errors
    /// Those of the files. `data_dir` is not created: a mount that is missing must not be taken for it.
    pub(super) fn write(&self, jwks: &[u8]) -> io::Result<()> {
        let mut set: Map<String, Value> = serde_json::from_slice(jwks)?;
        set.insert(FETCHED_FROM.to_owned(), self.url.clone().into());
        let (path, new) = (self.directory.join(FILE), self.directory.join(NEW_FILE));
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        // What a crash has left there may have another mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed?,
        }
        let mode = if contracts::mutant("kept_mode") { 0o644 } else { 0o600 };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(Value::Object(set).to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::signer::Signer, *};
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    const URL: &str = "https://issuer.example/keys";

    fn jwks(kid: &str) -> Vec<u8> {
        json!({ "keys": [Signer::p256().jwk(kid)] }).to_string().into_bytes()
    }

    #[test]
    fn keys_are_kept_for_nobody_else_to_read() {
        let data_dir = tempfile::tempdir().unwrap();
        let kept = KeptKeys::new(data_dir.path(), URL);
        assert!(kept.read().unwrap().is_none());
        for kid in ["a", "b"] {
            kept.write(&jwks(kid)).unwrap();
            let set = KeptKeys::new(data_dir.path(), URL).read().unwrap().unwrap();
            assert!(set.is_same(&KeySet::parse(&jwks(kid)).unwrap()));
        }
        let file = data_dir.path().join("auth/jwks.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o077, 0);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_has_left_is_written_over() {
        let data_dir = tempfile::tempdir().unwrap();
        let kept = KeptKeys::new(data_dir.path(), URL);
        kept.write(&jwks("a")).unwrap();
        fs::write(data_dir.path().join("auth/jwks.json.new"), "half").unwrap();
        kept.write(&jwks("b")).unwrap();
        assert!(kept.read().unwrap().unwrap().find(Some("b")).is_some());
        let mode = fs::metadata(data_dir.path().join("auth/jwks.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn keys_of_another_url_are_not_trusted() {
        let data_dir = tempfile::tempdir().unwrap();
        KeptKeys::new(data_dir.path(), "https://old.example/keys").write(&jwks("a")).unwrap();
        assert!(KeptKeys::new(data_dir.path(), URL).read().unwrap().is_none());
        fs::write(data_dir.path().join("auth/jwks.json"), jwks("a")).unwrap();
        assert!(KeptKeys::new(data_dir.path(), URL).read().unwrap().is_some());
    }

    #[test]
    fn a_damaged_file_is_named_and_a_missing_data_dir_not_created() {
        let data_dir = tempfile::tempdir().unwrap();
        let kept = KeptKeys::new(data_dir.path(), URL);
        kept.write(&jwks("a")).unwrap();
        for text in ["", "{", "{}", r#"{"keys":[]}"#] {
            fs::write(data_dir.path().join("auth/jwks.json"), text).unwrap();
            assert!(kept.read().unwrap_err().contains("jwks.json: "), "{text:?}");
        }
        let missing = data_dir.path().join("missing");
        assert!(KeptKeys::new(&missing, URL).write(&jwks("a")).is_err());
        assert!(!missing.exists());
    }
}
