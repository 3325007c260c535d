//! Reads a file field by field, and goes on after an error, so that all of them are found at once.

use serde_json::{Map, Value};

use super::bad_file::{BadFile, FileErrors, FilePlace};
use crate::yaml::parse_yaml;

/// Reads a file of version 1. `read` takes what it knows out of the file's mapping; what is left is an error.
///
/// # Errors
/// [`BadFile`] with everything that is wrong, or with the first error if the text is no YAML.
pub(super) fn read_file<T>(
    text: &str,
    read: impl FnOnce(&mut FileMapping<'_>, &mut FileErrors<'_>) -> T,
) -> Result<T, BadFile> {
    let document: Value = parse_yaml(text).map_err(|why| BadFile::new(vec![why]))?;
    let mut errors = FileErrors::new(text);
    let root = FileValue { place: FilePlace::default(), value: &document };
    let mut file = root.mapping(&mut errors);
    if let Some(version) = file.need("version", &mut errors)
        && version.value.as_u64() != Some(1)
        && !contracts::mutant("file_version")
    {
        errors.add(&version.place, "must be 1");
    }
    let value = read(&mut file, &mut errors);
    file.end(&mut errors);
    if contracts::mutant("half_of_a_bad_file") {
        return Ok(value);
    }
    errors.check().map(|()| value)
}

/// A value of a file. Each of its readings notes an error if the value is something else.
#[derive(Debug)]
pub(super) struct FileValue<'f> {
    /// Where it stands.
    pub(super) place: FilePlace,
    value: &'f Value,
}

impl<'f> FileValue<'f> {
    /// The value as fields; without any if it is something else.
    pub(super) fn mapping(self, errors: &mut FileErrors<'_>) -> FileMapping<'f> {
        let values = self.value.as_object();
        if values.is_none() {
            errors.add(&self.place, "must be a mapping of names to values");
        }
        FileMapping { place: self.place, values, known: Vec::new(), refused: Vec::new() }
    }

    /// The value as a list, which may be empty.
    pub(super) fn list(self, errors: &mut FileErrors<'_>) -> Vec<FileValue<'f>> {
        let Some(items) = self.value.as_array() else {
            errors.add(&self.place, "must be a list");
            return Vec::new();
        };
        let value = |(index, value)| FileValue { place: self.place.item(index), value };
        items.iter().enumerate().map(value).collect()
    }

    /// The value as a list of texts, which must not be empty.
    pub(super) fn texts(self, errors: &mut FileErrors<'_>) -> Vec<(FilePlace, &'f str)> {
        if self.value.as_array().is_some_and(Vec::is_empty) {
            errors.add(&self.place, "must not be empty");
        }
        let items = self.list(errors);
        items.into_iter().filter_map(|item| Some((item.place.clone(), item.text(errors)?))).collect()
    }

    /// The value as text.
    pub(super) fn text(&self, errors: &mut FileErrors<'_>) -> Option<&'f str> {
        let text = self.value.as_str();
        if text.is_none() {
            errors.add(&self.place, "must be text; put it in quotes");
        }
        text
    }

    /// The value as a whole number that is not below `least`.
    pub(super) fn number(&self, least: u64, errors: &mut FileErrors<'_>) -> Option<u64> {
        let number = self.value.as_u64().filter(|number| *number >= least);
        if number.is_none() {
            errors.add(&self.place, format_args!("must be a whole number, {least} or more"));
        }
        number
    }

    /// The value as true or false.
    pub(super) fn flag(&self, errors: &mut FileErrors<'_>) -> Option<bool> {
        let flag = self.value.as_bool();
        if flag.is_none() {
            errors.add(&self.place, "must be true or false");
        }
        flag
    }
}

/// A mapping of a file, whose fields are taken one after the other. [`FileMapping::end`] must come last: it
/// notes the fields that nobody has asked for.
#[derive(Debug)]
pub(super) struct FileMapping<'f> {
    /// Where it stands.
    pub(super) place: FilePlace,
    /// `None` if something else stands there: then it misses nothing.
    values: Option<&'f Map<String, Value>>,
    known: Vec<&'static str>,
    refused: Vec<&'static str>,
}

impl<'f> FileMapping<'f> {
    /// Whether it is one: if not, that is noted already.
    pub(super) fn is_mapping(&self) -> bool {
        self.values.is_some()
    }

    /// The value of a field that may be left out.
    pub(super) fn take(&mut self, name: &'static str) -> Option<FileValue<'f>> {
        self.known.push(name);
        let value = self.values?.get(name)?;
        Some(FileValue { place: self.place.field(name), value })
    }

    /// The value of a field that must be there.
    pub(super) fn need(&mut self, name: &'static str, errors: &mut FileErrors<'_>) -> Option<FileValue<'f>> {
        let value = self.take(name);
        if value.is_none() && self.values.is_some() {
            errors.add(&self.place.field(name), "is missing");
        }
        value
    }

    /// Notes why a field must not be there, if it is.
    pub(super) fn refuse(&mut self, name: &'static str, why: &str, errors: &mut FileErrors<'_>) {
        self.refused.push(name);
        if self.values.is_some_and(|values| values.contains_key(name)) {
            errors.add(&self.place.field(name), why);
        }
    }

    /// All fields, for a mapping whose names the file chooses.
    pub(super) fn all(self) -> Vec<(&'f str, FileValue<'f>)> {
        let value = |(name, value): (&'f String, &'f Value)| {
            (name.as_str(), FileValue { place: self.place.field(name), value })
        };
        self.values.into_iter().flatten().map(value).collect()
    }

    /// Notes every field that was neither taken nor refused.
    pub(super) fn end(self, errors: &mut FileErrors<'_>) {
        for name in self.values.into_iter().flat_map(Map::keys) {
            let is_known = self.known.iter().chain(&self.refused).any(|known| *known == name);
            if !is_known && !contracts::mutant("file_unknown_field") {
                let known = self.known.join(", ");
                errors.add(&self.place.field(name), format_args!("is not a known field; there are {known}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(u64, bool, Vec<String>), BadFile> {
        read_file(text, |file, errors| {
            let number = file.need("number", errors).and_then(|value| value.number(1, errors));
            let flag = file.take("flag").and_then(|value| value.flag(errors));
            let texts = file.take("texts").map(|value| value.texts(errors)).unwrap_or_default();
            file.refuse("secret", "is not for a file", errors);
            let texts = texts.into_iter().map(|(_, text)| text.to_owned()).collect();
            (number.unwrap_or_default(), flag.unwrap_or_default(), texts)
        })
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let expected = (3, true, vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(read("version: 1\nnumber: 3\nflag: true\ntexts: [a, b]\n").unwrap(), expected);
        assert_eq!(read("version: 1\nnumber: 3\n").unwrap(), (3, false, vec![]));
    }

    #[test]
    fn every_error_is_found_at_once() {
        let text = "version: 2\nnumber: 0\nflag: maybe\ntexts: [a, 1,\n [b]]\nsecret: x\nfalg: true\n";
        assert_eq!(
            read(text).unwrap_err().to_string(),
            "line 1, version: must be 1\n\
             line 2, number: must be a whole number, 1 or more\n\
             line 3, flag: must be true or false\n\
             line 4, texts[1]: must be text; put it in quotes\n\
             line 5, texts[2]: must be text; put it in quotes\n\
             line 6, secret: is not for a file\n\
             line 7, falg: is not a known field; there are version, number, flag, texts"
        );
    }

    #[test]
    fn what_is_missing_or_empty_is_an_error() {
        assert_eq!(
            read("version: 1\ntexts: []\n").unwrap_err().to_string(),
            "line 1, number: is missing\nline 2, texts: must not be empty"
        );
        for text in ["", "[]", "3", "# nothing\n", "---\n"] {
            let why = read(text).unwrap_err().to_string();
            assert!(why.contains("the file: must be a mapping") && why.lines().count() == 1, "{why}");
        }
    }
}
