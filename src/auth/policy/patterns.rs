//! Patterns of subjects, tables and groups: a text in full, or its beginning and a `*`.

use std::{collections::HashMap, fmt};

use contracts::name::BadName;

use crate::auth::principal::{Principal, check_prefix};

/// Whom an entry of the file is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SubjectPattern {
    /// This principal.
    One(Principal),
    /// Every principal whose text begins so.
    Prefix(String),
    /// Everybody, with or without a credential.
    Everybody,
}

impl SubjectPattern {
    /// Reads a subject of the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parsed = match split_star(text)? {
            (whole, false) => whole.parse::<Principal>().map(Self::One),
            ("", true) => Ok(Self::Everybody),
            (prefix, true) => check_prefix(prefix).map(|()| Self::Prefix(prefix.to_owned())),
        };
        parsed.map_err(|error| format!("{text:?} matches no principal: {error}"))
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(principal) => write!(f, "{principal}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Everybody => f.write_str("*"),
        }
    }
}

/// The entries of the file by their subjects. In each list they stand in the file's order.
#[derive(Debug, Default)]
pub(super) struct SubjectIndex {
    exact: HashMap<Principal, Vec<usize>>,
    prefixes: Vec<(String, usize)>,
    everybody: Vec<usize>,
}

impl SubjectIndex {
    /// Adds an entry of the file, after those before it.
    pub(super) fn add(&mut self, entry: usize, subjects: Vec<SubjectPattern>) {
        for subject in subjects {
            match subject {
                SubjectPattern::One(principal) => self.exact.entry(principal).or_default().push(entry),
                SubjectPattern::Prefix(prefix) => self.prefixes.push((prefix, entry)),
                SubjectPattern::Everybody => self.everybody.push(entry),
            }
        }
    }

    /// The first entry of the file that is for the principal and fits.
    pub(super) fn first(&self, principal: &Principal, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let by_name = self.by_name(principal).find(|entry| fits(*entry));
        let by_prefix = self.by_prefix(principal).find(|entry| fits(*entry));
        let of_everybody = self.everybody.iter().copied().find(|entry| fits(*entry));
        [by_name, by_prefix, of_everybody].into_iter().flatten().min()
    }

    /// All entries that are for the principal, the least exact first: a later one counts more.
    pub(super) fn all(&self, principal: &Principal) -> impl Iterator<Item = usize> {
        let everybody = self.everybody.iter().copied();
        everybody.chain(self.by_prefix(principal)).chain(self.by_name(principal))
    }

    /// Whether an entry is for callers without a credential, too.
    pub(super) fn has_everybody(&self) -> bool {
        !self.everybody.is_empty()
    }

    fn by_name(&self, principal: &Principal) -> impl Iterator<Item = usize> {
        self.exact.get(principal).into_iter().flatten().copied()
    }

    fn by_prefix(&self, principal: &Principal) -> impl Iterator<Item = usize> {
        // Only with a check switched off without its last character.
        let without = usize::from(contracts::mutant("subject_prefix"));
        let matching = self
            .prefixes
            .iter()
            .filter(move |(prefix, _)| principal.begins_with(&prefix[..prefix.len() - without]));
        matching.map(|(_, entry)| *entry)
    }
}

/// A pattern of a binding's `tables` or `groups`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamePattern {
    text: String,
    is_prefix: bool,
}

impl NamePattern {
    /// Reads a pattern; `check` says whether a text is such a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str, check: fn(&str) -> Result<(), BadName>) -> Result<Self, String> {
        let (text, is_prefix) = split_star(text)?;
        // What a name may begin with is a name, too.
        if !(is_prefix && text.is_empty()) {
            check(text).map_err(|error| error.to_string())?;
        }
        Ok(Self { text: text.to_owned(), is_prefix })
    }
}

/// The patterns of a binding's `tables` or `groups`, sorted, so that their number hardly counts.
#[derive(Debug, Default)]
pub(super) struct NamePatterns {
    exact: Vec<String>,
    /// None begins with another.
    prefixes: Vec<String>,
}

impl NamePatterns {
    pub(super) fn new(patterns: Vec<NamePattern>) -> Self {
        let (prefixes, exact): (Vec<_>, Vec<_>) = patterns.into_iter().partition(|pattern| pattern.is_prefix);
        let sorted = |patterns: Vec<NamePattern>| {
            let mut texts: Vec<String> = patterns.into_iter().map(|pattern| pattern.text).collect();
            texts.sort_unstable();
            texts
        };
        let mut prefixes = sorted(prefixes);
        // A prefix that begins with another adds nothing. Without it, only the last one that is not after a
        // name can be its prefix: whatever sorts between a prefix and the name begins with that prefix.
        prefixes.dedup_by(|later, earlier| later.starts_with(earlier.as_str()));
        Self { exact: sorted(exact), prefixes }
    }

    /// Whether one of them matches the name.
    pub(super) fn matches(&self, name: &str) -> bool {
        let lower = contracts::mutant("pattern_case").then(|| name.to_ascii_lowercase());
        let name = lower.as_deref().unwrap_or(name);
        if contracts::mutant("pattern_exact") && self.exact.iter().any(|exact| name.starts_with(exact)) {
            return true;
        }
        let after = self.prefixes.partition_point(|prefix| prefix.as_str() <= name);
        let is_any_length = |prefix: &String| name.len() > prefix.len() || !contracts::mutant("pattern_prefix");
        let is_before = |prefix: &String| name.starts_with(prefix.as_str()) && is_any_length(prefix);
        self.prefixes[..after].last().is_some_and(is_before)
            || self.exact.binary_search_by(|exact| exact.as_str().cmp(name)).is_ok()
    }
}

/// A pattern without the `*` at its end, and whether it has one.
fn split_star(text: &str) -> Result<(&str, bool), String> {
    let (rest, has_star) = text.strip_suffix('*').map_or((text, false), |rest| (rest, true));
    if rest.contains('*') {
        return Err(format!("{text:?} may have a * only at the end"));
    }
    Ok((rest, has_star))
}

#[cfg(test)]
mod tests {
    use contracts::name::TableName;
    use proptest::prelude::*;

    use super::*;
    use crate::auth::principal::tests::principals;

    fn table(text: &str) -> Result<NamePattern, String> {
        NamePattern::parse(text, |name| TableName::parse(name).map(drop))
    }

    fn tables(texts: &[&str]) -> NamePatterns {
        NamePatterns::new(texts.iter().map(|text| table(text).unwrap()).collect())
    }

    #[test]
    fn a_name_matches_in_full_or_by_its_beginning() {
        let patterns = tables(&["orders", "payments.*", "pay*", "x"]);
        for name in ["orders", "payments.eu", "payments.", "payments", "pay", "payroll", "x"] {
            assert!(patterns.matches(name), "{name}");
        }
        for name in ["order", "orders.eu", "ORDERS", "Payroll", "pa", "y", "xx", "a"] {
            assert!(!patterns.matches(name), "{name}");
        }
        assert!(!tables(&["payments.*"]).matches("payments"));
        assert!(tables(&["ord*"]).matches("ord"));
        assert!(tables(&["*", "b*"]).matches("a"));
        assert!(!NamePatterns::default().matches("a"));
    }

    #[test]
    fn a_star_stands_at_the_end_and_names_follow_their_rule() {
        for wrong in ["", "**", "a**", "*a", "a*b", "a/b", "a b*", "-*", ".*", "é"] {
            assert!(table(wrong).is_err(), "{wrong}");
        }
        assert!(table(&format!("{}*", "x".repeat(128))).is_ok());
        assert!(table(&format!("{}*", "x".repeat(129))).is_err());
    }

    #[test]
    fn subjects_are_exact_or_a_kind_and_a_beginning() {
        let prefix = |text: &str| Ok(SubjectPattern::Prefix(text.to_owned()));
        assert_eq!(SubjectPattern::parse("*"), Ok(SubjectPattern::Everybody));
        assert_eq!(SubjectPattern::parse("sa:billing/*"), prefix("sa:billing/"));
        assert_eq!(SubjectPattern::parse("oidc:*"), prefix("oidc:"));
        assert_eq!(SubjectPattern::parse("anonymous"), Ok(SubjectPattern::One(Principal::Anonymous)));
        for wrong in ["", "s*", "sa*", "anonymous*", "user:*", "sa:a/*b", "sa:*/b", "sa:A*", "**", "sa:a"] {
            assert!(SubjectPattern::parse(wrong).is_err(), "{wrong}");
        }
        for text in ["*", "sa:billing/*", "oidc:*", "token:ci"] {
            assert_eq!(SubjectPattern::parse(text).unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn sorted_patterns_match_as_each_of_them_does(
            texts in prop::collection::vec("[ab_]{0,4}\\*?", 0..12),
            name in "[ab_]{1,5}",
        ) {
            let parsed: Vec<NamePattern> = texts.iter().filter_map(|text| table(text).ok()).collect();
            let expected = parsed.iter().any(|pattern| {
                if pattern.is_prefix { name.starts_with(&pattern.text) } else { name == pattern.text }
            });
            prop_assert_eq!(NamePatterns::new(parsed).matches(&name), expected);
        }

        #[test]
        fn the_index_finds_what_a_look_at_every_entry_finds(
            entries in prop::collection::vec(
                prop::collection::vec((principals(), 0usize..12, any::<bool>()), 0..4),
                0..8,
            ),
            others in prop::collection::vec(principals(), 1..4),
            unfit in 0usize..8,
        ) {
            let mut index = SubjectIndex::default();
            let mut texts: Vec<Vec<String>> = Vec::new();
            for (entry, subjects) in entries.iter().enumerate() {
                let of_entry = subjects.iter().map(|(principal, length, is_prefix)| {
                    let text = principal.to_string();
                    if *is_prefix { text.chars().take(*length).collect::<String>() + "*" } else { text }
                });
                let (texts_of_entry, patterns): (Vec<String>, Vec<SubjectPattern>) = of_entry
                    .filter_map(|text| SubjectPattern::parse(&text).ok().map(|pattern| (text, pattern)))
                    .unzip();
                index.add(entry, patterns);
                texts.push(texts_of_entry);
            }
            let named = entries.iter().flatten().map(|(principal, ..)| principal.clone());
            for principal in named.chain(others) {
                let text = principal.to_string();
                let is_for = |pattern: &String| match pattern.strip_suffix('*') {
                    Some(prefix) => text.starts_with(prefix),
                    None => text == *pattern,
                };
                let is_for: Vec<usize> =
                    (0..texts.len()).filter(|entry| texts[*entry].iter().any(is_for)).collect();
                let first = is_for.iter().copied().find(|entry| *entry != unfit);
                prop_assert_eq!(index.first(&principal, |entry| entry != unfit), first);
                let mut all: Vec<usize> = index.all(&principal).collect();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all, is_for);
            }
        }
    }
}
