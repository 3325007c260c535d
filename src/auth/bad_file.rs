//! All that is wrong with a file, found at once, so that one look at it mends the file.

use std::{fmt, path::Path};

use crate::yaml::{YamlStep, line_of};

/// How every static token begins. No error shows what follows it.
pub(super) const TOKEN_PREFIX: &str = "zmb_";

/// The errors that are listed; the rest are counted.
const MAX_LINES: usize = 50;
/// The characters of an error that are shown, as it may quote the file.
const MAX_CHARS: usize = 400;

/// A file that cannot be used. Each error is a line that names the file's line and the field, where they are
/// known. Tokens are left out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFile(Vec<String>);

impl BadFile {
    pub(crate) fn new(lines: Vec<String>) -> Self {
        Self(lines.iter().map(|line| presentable(line)).collect())
    }

    /// The same errors, with the file's path in front of each.
    pub(super) fn of(self, path: &Path) -> Self {
        let path = presentable(&path.display().to_string());
        Self(self.0.into_iter().map(|line| format!("{path}: {line}")).collect())
    }

    /// These errors, and those of another file behind them.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The errors, a line each.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.0
    }
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for BadFile {}

/// A line without control characters, tokens and what is too long for a log.
fn presentable(line: &str) -> String {
    let is_of_token = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    let mut shown = String::new();
    for (number, part) in line.split(TOKEN_PREFIX).enumerate() {
        if number == 0 {
            shown.push_str(part);
        } else {
            shown.push_str(TOKEN_PREFIX);
            shown.push_str("...");
            shown.push_str(part.trim_start_matches(is_of_token));
        }
    }
    shown.chars().take(MAX_CHARS).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// Where in a file a value stands: the way to it from the top.
#[derive(Debug, Clone, Default)]
pub(super) struct FilePlace(Vec<YamlStep>);

impl FilePlace {
    /// The place of a field of the mapping that stands here.
    pub(super) fn field(&self, name: &str) -> Self {
        self.then(YamlStep::Field(name.to_owned()))
    }

    /// The place of an item, counted from 0, of the list that stands here.
    pub(super) fn item(&self, index: usize) -> Self {
        self.then(YamlStep::Item(index))
    }

    fn then(&self, step: YamlStep) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for FilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the file");
        }
        for (number, step) in self.0.iter().enumerate() {
            match step {
                YamlStep::Field(name) if number == 0 => write!(f, "{name}")?,
                YamlStep::Field(name) => write!(f, ".{name}")?,
                YamlStep::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Collects what is wrong with a file while it is read.
#[derive(Debug)]
pub(super) struct FileErrors<'a> {
    text: &'a str,
    lines: Vec<String>,
    unlisted: usize,
}

impl<'a> FileErrors<'a> {
    /// None yet, of a file with this text.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, lines: Vec::new(), unlisted: 0 }
    }

    /// Notes what is wrong with the value at a place, or what is missing there.
    pub(super) fn add(&mut self, place: &FilePlace, what: impl fmt::Display) {
        if self.lines.len() == MAX_LINES {
            self.unlisted += 1;
            return;
        }
        let line = line_of(self.text, &place.0).map_or_else(String::new, |line| format!("line {line}, "));
        self.lines.push(format!("{line}{place}: {what}"));
    }

    /// Whether nothing is wrong.
    ///
    /// # Errors
    /// [`BadFile`] with what is.
    pub(super) fn check(mut self) -> Result<(), BadFile> {
        if self.lines.is_empty() {
            return Ok(());
        }
        if self.unlisted > 0 {
            self.lines.push(format!("and {} more", self.unlisted));
        }
        Err(BadFile::new(self.lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_line_and_field() {
        let mut errors = FileErrors::new("a:\n  - b: 1\n  - b: 2\n");
        let list = FilePlace::default().field("a");
        errors.add(&list.item(1).field("b"), "is two");
        errors.add(&list.item(1).field("c"), "is missing");
        errors.add(&FilePlace::default(), "is short");
        let text = errors.check().unwrap_err().to_string();
        assert_eq!(text, "line 3, a[1].b: is two\nline 3, a[1].c: is missing\nline 1, the file: is short");
        assert_eq!(FileErrors::new("").check(), Ok(()));
    }

    #[test]
    fn the_errors_of_two_files_are_told_apart() {
        let of = |name: &str, line: &str| BadFile::new(vec![line.to_owned()]).of(Path::new(name));
        let both = of("/a.yaml", "is short").and(of("/b\n.yaml", "is long"));
        assert_eq!(both.to_string(), "/a.yaml: is short\n/b .yaml: is long");
        assert_eq!(both.into_lines(), ["/a.yaml: is short", "/b .yaml: is long"]);
    }

    #[test]
    fn tokens_control_characters_and_long_quotes_are_not_shown() {
        let secret = "zmb_abc-DEF_123";
        let line = format!("name {secret}: {secret}{secret} is\nno name{}", "x".repeat(1000));
        let text = BadFile::new(vec![line]).to_string();
        assert!(text.starts_with("name zmb_...: zmb_...zmb_... is no namexxx"), "{text}");
        assert_eq!(text.chars().count(), MAX_CHARS);
    }

    #[test]
    fn a_file_that_is_all_wrong_has_a_short_error() {
        let mut errors = FileErrors::new("[]");
        for index in 0..1000 {
            errors.add(&FilePlace::default().item(index), "is wrong");
        }
        let text = errors.check().unwrap_err().to_string();
        assert_eq!(text.lines().count(), MAX_LINES + 1);
        assert!(text.ends_with("and 950 more"), "{text}");
    }
}
