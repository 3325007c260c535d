//! Where the idempotency keys of events come from.

use std::{
    collections::HashMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::records::{BadLine, KeyChoice};

/// Different lines of one input whose repetitions are counted; each takes about 40 bytes of memory.
const MAX_DIFFERENT_LINES: usize = 10_000_000;

/// What keys are made from.
#[derive(Debug)]
pub(super) enum KeyRule {
    /// A name, which may be of this run only, and the number of the line.
    Numbered { name: String, is_given: bool, key: String },
    /// The line, and how often it stood before.
    Hash { before: HashMap<[u8; 16], u64>, key: String },
    /// A field of each event.
    Field(String),
}

impl KeyRule {
    /// By what the flags say. The lines of a file have its name; those of anything else, a pipe for example,
    /// have one that no other run has unless they are given one.
    ///
    /// # Errors
    /// What does not go together, as a sentence.
    pub(super) fn new(rule: Option<&str>, source: Option<&str>, file: &Path) -> Result<Self, String> {
        let of_file = is_file(file).then(|| file_name(file));
        let numbered = |name: String, is_given| Ok(Self::Numbered { name, is_given, key: String::new() });
        match (rule, source.map(str::to_owned).or(of_file)) {
            (None | Some("line"), Some(name)) => numbered(name, true),
            (None, None) => numbered(Uuid::new_v4().to_string(), false),
            (Some("line"), None) => {
                Err("keys by line of what is no file need --source, which names it".to_owned())
            }
            (Some(_), _) if source.is_some() => {
                Err("--source goes with keys by line: --idempotency-key line".to_owned())
            }
            (Some("hash"), _) => Ok(Self::Hash { before: HashMap::new(), key: String::new() }),
            (Some(""), _) => Err("--idempotency-key needs line, hash or the name of a field".to_owned()),
            (Some(field), _) => Ok(Self::Field(field.to_owned())),
        }
    }

    /// Whether the same input has the same keys in another run.
    pub(super) fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Numbered { is_given: false, .. })
    }

    /// The key of a line.
    ///
    /// # Errors
    /// [`BadLine`] if there are too many to count.
    pub(super) fn choose(&mut self, number: u64, line: &[u8]) -> Result<KeyChoice<'_>, BadLine> {
        match self {
            Self::Numbered { name, key, .. } => {
                key.clear();
                // Writing to a String does not fail.
                let _ = write!(key, "{name}:{number}");
                Ok(KeyChoice::Given(key))
            }
            Self::Hash { before, key } => {
                let digest = Sha256::digest(line);
                let mut short = [0; 16];
                short.copy_from_slice(&digest[..16]);
                if before.len() >= MAX_DIFFERENT_LINES && !before.contains_key(&short) {
                    let why = format!("keys by hash are for up to {MAX_DIFFERENT_LINES} different lines");
                    return Err(BadLine::new(why));
                }
                let times = before.entry(short).or_insert(0);
                let digest = Sha256::new().chain_update(line).chain_update(times.to_be_bytes()).finalize();
                *times += 1;
                key.clear();
                for byte in digest {
                    let _ = write!(key, "{byte:02x}");
                }
                Ok(KeyChoice::Given(key))
            }
            Self::Field(name) => Ok(KeyChoice::Field(name)),
        }
    }
}

/// Whether it is a file whose name says which lines it has: no pipe, no process substitution, and not what
/// stands below /dev. One that is not there is; opening it says what is wrong.
fn is_file(file: &Path) -> bool {
    let is_passing = file == Path::new("-") || file.starts_with("/dev") || file.starts_with("/proc");
    !is_passing && fs::metadata(file).map_or(true, |metadata| metadata.is_file())
}

/// The name of a file without its folders: where it lies does not change what is in it.
fn file_name(file: &Path) -> String {
    let name = file.file_name().map_or_else(|| file.to_path_buf(), PathBuf::from);
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(
        rule: Option<&str>,
        source: Option<&str>,
        file: &str,
        lines: &[&str],
    ) -> Result<Vec<String>, String> {
        let mut rule = KeyRule::new(rule, source, Path::new(file))?;
        let key = |(number, line): (u64, &&str)| match rule.choose(number, line.as_bytes()).unwrap() {
            KeyChoice::Given(key) => key.to_owned(),
            KeyChoice::Field(field) => format!("field {field}"),
        };
        Ok((1..).zip(lines).map(key).collect())
    }

    #[test]
    fn keys_by_line_have_the_name_of_the_file_or_of_the_source() {
        for (rule, source, file, name) in [
            (None, None, "/data/orders.ndjson", "orders.ndjson"),
            (Some("line"), None, "./orders.ndjson", "orders.ndjson"),
            (None, Some("jan"), "orders.ndjson", "jan"),
            (Some("line"), Some("jan"), "-", "jan"),
            (None, Some("jan"), "-", "jan"),
        ] {
            let expected = vec![format!("{name}:1"), format!("{name}:2")];
            assert_eq!(keys(rule, source, file, &["a", "a"]), Ok(expected), "{rule:?} {source:?} {file}");
        }
        assert!(keys(Some("line"), None, "-", &[]).unwrap_err().contains("--source"));
        assert!(keys(Some("hash"), Some("jan"), "f", &[]).unwrap_err().contains("--source"));
        assert!(keys(Some(""), None, "f", &[]).is_err());
    }

    #[test]
    fn a_run_on_the_standard_input_has_keys_of_its_own() {
        let (one, other) = (keys(None, None, "-", &["a"]).unwrap(), keys(None, None, "-", &["a"]).unwrap());
        assert!(one != other && one[0].ends_with(":1"), "{one:?} {other:?}");
    }

    #[test]
    fn what_passes_by_has_no_name_of_its_own() {
        let pipe = tempfile::tempdir().unwrap().keep().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for file in [pipe.to_str().unwrap(), "/dev/stdin", "/dev/fd/63", "/proc/self/fd/0", "-"] {
            assert!(keys(Some("line"), None, file, &[]).unwrap_err().contains("--source"), "{file}");
            assert!(!keys(None, None, file, &["a"]).unwrap()[0].starts_with("pipe:"), "{file}");
            assert_eq!(keys(None, Some("s"), file, &["a"]).unwrap(), ["s:1"], "{file}");
        }
        std::fs::remove_dir_all(pipe.parent().unwrap()).unwrap();
    }

    #[test]
    fn only_a_name_of_this_run_makes_it_another_one() {
        let is_repeatable =
            |rule, source, file: &str| KeyRule::new(rule, source, Path::new(file)).unwrap().is_repeatable();
        assert!(!is_repeatable(None, None, "-") && !is_repeatable(None, None, "/dev/stdin"));
        for (rule, source, file) in
            [(None, None, "f"), (None, Some("s"), "-"), (Some("hash"), None, "-"), (Some("id"), None, "-")]
        {
            assert!(is_repeatable(rule, source, file), "{rule:?} {source:?} {file}");
        }
    }

    #[test]
    fn keys_by_hash_tell_equal_lines_apart_and_are_the_same_in_the_next_run() {
        let lines = ["a", "b", "a", "a"];
        let found = keys(Some("hash"), None, "f", &lines).unwrap();
        let different: std::collections::HashSet<_> = found.iter().collect();
        assert_eq!(different.len(), 4);
        assert!(found.iter().all(|key| key.len() == 64));
        assert_eq!(keys(Some("hash"), None, "another", &lines).unwrap(), found);
        assert_eq!(keys(Some("hash"), None, "f", &["b", "a"]).unwrap(), [found[1].clone(), found[0].clone()]);
    }

    #[test]
    fn anything_else_is_a_field() {
        assert_eq!(keys(Some("id"), None, "-", &["a"]).unwrap(), ["field id"]);
    }
}
