//! The secret by which pods believe each other: a file with a line, or with two while it is changed.

use std::{path::Path, time::Duration};

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::time::Instant;

/// The least that a line has, in bytes: as many as the hash.
const LEAST_BYTES: usize = 32;
/// The most that the file has, in bytes.
const MOST_BYTES: usize = 64 << 10;

/// How long a new line is believed before anything is signed with it: other pods may get the file as much
/// later.
const SETTLES: Duration = Duration::from_secs(90);

/// The lines of the file, the newest first.
type SecretLines = Vec<Vec<u8>>;

/// What is in force of the file.
struct Secrets {
    lines: SecretLines,
    /// The line that signed before, if the file still has it, and until when it signs.
    before: Option<(Vec<u8>, Instant)>,
}

impl Secrets {
    /// The line that signs now.
    fn signs(&self) -> &[u8] {
        match &self.before {
            Some((line, until)) if Instant::now() < *until => line,
            _ => self.lines.first().map_or(&[], Vec::as_slice),
        }
    }
}

/// What the file held when it was last read.
pub struct SecretFile(ArcSwap<Secrets>);

impl SecretFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load(path: &Path) -> Result<Self, String> {
        let named = |why: String| format!("cluster.secret_file {}: {why}", path.display());
        let contents = std::fs::read(path).map_err(|error| named(error.to_string()))?;
        Self::parse(&contents).map_err(named)
    }

    /// Of the contents of a file.
    ///
    /// # Errors
    /// Why they cannot be used; they are not told.
    pub fn parse(contents: &[u8]) -> Result<Self, String> {
        Ok(Self(ArcSwap::from_pointee(Secrets { lines: lines(contents)?, before: None })))
    }

    /// Takes the contents of a changed file over. Of two lines the one that other pods know already goes on
    /// signing for a while.
    ///
    /// # Errors
    /// Why they cannot be used; what was there stays in force.
    pub(crate) fn adopt(&self, contents: &[u8]) -> Result<(), String> {
        let lines = lines(contents)?;
        let known = self.0.load();
        let signs = known.signs();
        let is_changed = lines.first().is_some_and(|line| line != signs);
        let stays = is_changed && lines.iter().any(|line| line == signs);
        let until = match &known.before {
            // Read again meanwhile: it is no newer for that.
            Some((_, until)) if known.lines.first() == lines.first() => *until,
            _ => Instant::now() + SETTLES,
        };
        let before = stays.then(|| (signs.to_vec(), until));
        self.0.store(Secrets { lines, before }.into());
        Ok(())
    }

    /// Signs a text with the newest line that all pods should know by now.
    pub(crate) fn sign(&self, text: &[u8]) -> Vec<u8> {
        mac(self.0.load().signs(), text).map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default()
    }

    /// Whether one of the lines has signed a text.
    pub(crate) fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        let is_by = |key: &Vec<u8>| mac(key, text).is_some_and(|mac| mac.verify_slice(signature).is_ok());
        self.0.load().lines.iter().any(is_by)
    }
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretFile")
    }
}

fn lines(contents: &[u8]) -> Result<SecretLines, String> {
    if contents.len() > MOST_BYTES {
        return Err(format!("it has more than {MOST_BYTES} bytes"));
    }
    let lines = contents.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines: SecretLines = lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    if !(1..=2).contains(&lines.len()) || lines.iter().any(|line| line.len() < LEAST_BYTES) {
        return Err(format!("it must hold one line of {LEAST_BYTES} bytes or more, or two while it changes"));
    }
    Ok(lines)
}

fn mac(key: &[u8], text: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text);
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an old secret of thirty-two bytes or more";
    const NEW: &str = "a new secret of thirty-two bytes or more.";

    #[test]
    fn two_lines_are_believed_while_the_secret_changes() {
        let old = SecretFile::parse(OLD.as_bytes()).unwrap();
        let both = SecretFile::parse(format!("{NEW}\n{OLD}\n").as_bytes()).unwrap();
        let new = SecretFile::parse(format!("{NEW}\n\n").as_bytes()).unwrap();
        let by = |secret: &SecretFile| secret.sign(b"text");
        assert!(both.has_signed(b"text", &by(&old)) && new.has_signed(b"text", &by(&both)));
        assert!(!old.has_signed(b"text", &by(&new)) && !old.has_signed(b"other", &by(&old)));
        old.adopt(NEW.as_bytes()).unwrap();
        assert!(old.has_signed(b"text", &by(&new)));
        assert!(old.adopt(b"short").is_err());
        assert!(old.has_signed(b"text", &by(&new)), "what was there stays in force");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_line_signs_when_other_pods_know_it_too() {
        let (old, new) =
            (SecretFile::parse(OLD.as_bytes()).unwrap(), SecretFile::parse(NEW.as_bytes()).unwrap());
        let pod = SecretFile::parse(OLD.as_bytes()).unwrap();
        let both = format!("{NEW}\n{OLD}\n");
        pod.adopt(both.as_bytes()).unwrap();
        assert!(old.has_signed(b"text", &pod.sign(b"text")), "the others may have only that");
        assert!(pod.has_signed(b"text", &new.sign(b"text")), "another pod may be ahead");
        tokio::time::advance(SETTLES / 2).await;
        pod.adopt(format!("{both}\n").as_bytes()).unwrap();
        assert!(old.has_signed(b"text", &pod.sign(b"text")));
        tokio::time::advance(SETTLES / 2).await;
        assert!(new.has_signed(b"text", &pod.sign(b"text")));
        pod.adopt(NEW.as_bytes()).unwrap();
        assert!(new.has_signed(b"text", &pod.sign(b"text")) && !pod.has_signed(b"text", &old.sign(b"text")));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_told() {
        for contents in ["", "\n", "short", &format!("{OLD}\nshort"), &format!("{OLD}\n{OLD}\n{OLD}")] {
            let error = SecretFile::parse(contents.as_bytes()).unwrap_err();
            assert!(error.contains("32 bytes") && !error.contains("short"), "{error}");
        }
    }

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        let mac = mac(&[0x0b; 20], b"Hi There").unwrap().finalize().into_bytes();
        assert_eq!(mac[..4], [0xb0, 0x34, 0x4c, 0x61]);
    }
}
