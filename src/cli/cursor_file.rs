//! The file in which `zombi read --cursor-file` keeps its place.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::answer::Unanswered;

/// No cursor is longer: those of the largest tables have 9 KiB.
const MAX_CURSOR_BYTES: u64 = 64 << 10;

/// Such a file.
#[derive(Debug)]
pub(super) struct CursorFile<'a> {
    path: &'a Path,
}

impl<'a> CursorFile<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self { path }
    }

    /// The cursor, if there is one.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn load(&self) -> Result<Option<String>, Unanswered> {
        let wrong =
            |why: &dyn std::fmt::Display| Unanswered::Usage(format!("{}: {why}", self.path.display()));
        match fs::metadata(self.path) {
            Ok(metadata) if !metadata.is_file() => return Err(wrong(&"it is no file")),
            Ok(metadata) if metadata.len() > MAX_CURSOR_BYTES => return Err(wrong(&"it holds no cursor")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(&error)),
        }
        let text = fs::read_to_string(self.path).map_err(|error| wrong(&error))?;
        let cursor = text.trim();
        if cursor.contains(char::is_whitespace) {
            return Err(wrong(&"it holds no cursor"));
        }
        Ok((!cursor.is_empty()).then(|| cursor.to_owned()))
    }

    /// Keeps a cursor: the file, which a link may lead to, has the old one or the new one, whatever happens.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn save(&self, cursor: &str) -> Result<(), Unanswered> {
        let path = fs::canonicalize(self.path).unwrap_or_else(|_| self.path.to_owned());
        let new = beside(&path);
        let written = fs::File::create(&new).and_then(|mut file| {
            writeln!(file, "{cursor}")?;
            file.sync_all()?;
            fs::rename(&new, &path)
        });
        written.map_err(|error| Unanswered::Failed(format!("{}: {error}", self.path.display())))
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_kept_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursor");
        let file = CursorFile::new(&path);
        assert_eq!(file.load().unwrap(), None);
        for cursor in ["abc", "def"] {
            file.save(cursor).unwrap();
            assert_eq!(file.load().unwrap().as_deref(), Some(cursor));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        for text in ["a b", "a\nb", &"x".repeat(100_000)] {
            fs::write(&path, text).unwrap();
            assert!(file.load().is_err(), "{text:.10}");
        }
        fs::write(&path, "\n").unwrap();
        assert_eq!(file.load().unwrap(), None);
    }

    #[test]
    fn a_link_stays_a_link_and_what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("cursor"), directory.path().join("link"));
        fs::write(&path, "abc").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        CursorFile::new(&link).save("def").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(CursorFile::new(&path).load().unwrap().as_deref(), Some("def"));
        assert!(CursorFile::new(Path::new("/dev/null")).load().is_err());
    }
}
