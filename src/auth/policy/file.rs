//! The shape of a policy file, and what must be true of one.

use std::collections::HashMap;

use contracts::name::{BadName, GroupName, TableName};

use super::{
    Policy, PolicyBinding, Quota, VerbSet,
    patterns::{NamePattern, NamePatterns, SubjectPattern},
};
use crate::auth::{
    bad_file::{FileErrors, FilePlace},
    fields::{FileMapping, FileValue},
    principal::Principal,
    verb::Verb,
};

/// The verbs of roles.
pub(crate) const VERBS: [Verb; 6] =
    [Verb::Append, Verb::Read, Verb::Commit, Verb::Rewind, Verb::Manage, Verb::Operate];

/// Roles by their names.
type RoleVerbs = HashMap<String, VerbSet>;

/// The roles that every file has.
fn built_in_roles() -> [(&'static str, VerbSet); 4] {
    let owner = [Verb::Append, Verb::Read, Verb::Commit, Verb::Rewind, Verb::Manage];
    [
        ("producer", VerbSet::of(&[Verb::Append])),
        ("consumer", VerbSet::of(&[Verb::Read, Verb::Commit])),
        ("owner", VerbSet::of(&owner)),
        ("operator", VerbSet::ALL),
    ]
}

/// Takes a policy out of the file's mapping.
pub(super) fn read(file: &mut FileMapping<'_>, errors: &mut FileErrors<'_>) -> Policy {
    let mut policy = Policy::default();
    let roles = roles(file.take("roles"), errors);
    let bindings = file.need("bindings", errors).map(|value| value.list(errors)).unwrap_or_default();
    for value in bindings {
        let (binding, subjects) = binding(value, &roles, errors);
        policy.bind(binding, subjects);
    }
    if let Some(quotas) = file.take("quotas") {
        read_quotas(quotas, &mut policy, errors);
    }
    policy
}

fn roles(value: Option<FileValue<'_>>, errors: &mut FileErrors<'_>) -> RoleVerbs {
    let built_in = built_in_roles();
    let mut roles: RoleVerbs = built_in.iter().map(|(name, verbs)| ((*name).to_owned(), *verbs)).collect();
    let own = value.map(|value| value.mapping(errors).all()).unwrap_or_default();
    for (name, value) in own {
        if built_in.iter().any(|(built_in, _)| *built_in == name) {
            errors.add(&value.place, "is built in; choose another name");
            continue;
        }
        let mut verbs = Vec::new();
        for (place, word) in value.texts(errors) {
            match VERBS.into_iter().find(|verb| verb.name() == word) {
                Some(verb) => verbs.push(verb),
                None if contracts::mutant("policy_unknown_verb") => {}
                None => {
                    let known = VERBS.map(Verb::name).join(", ");
                    errors.add(&place, format_args!("unknown verb {word:?}; there are {known}"));
                }
            }
        }
        // A role with errors still counts as known, so that its bindings are not reported as well.
        roles.insert(name.to_owned(), VerbSet::of(&verbs));
    }
    roles
}

fn binding(
    value: FileValue<'_>,
    roles: &RoleVerbs,
    errors: &mut FileErrors<'_>,
) -> (PolicyBinding, Vec<SubjectPattern>) {
    let mut fields = value.mapping(errors);
    let subjects = subjects(&mut fields, errors);
    let is_anonymous = fields.take("anonymous").and_then(|value| value.flag(errors)).unwrap_or_default();
    let mut has_everybody = false;
    for (place, subject) in &subjects {
        match subject {
            SubjectPattern::Everybody if is_anonymous || contracts::mutant("policy_everybody") => {
                has_everybody = true;
            }
            SubjectPattern::Everybody => {
                errors.add(place, "* includes callers without a credential; confirm it with anonymous: true");
            }
            SubjectPattern::One(Principal::Anonymous) => {
                errors.add(place, "cannot be a subject; use * with anonymous: true");
            }
            SubjectPattern::One(_) | SubjectPattern::Prefix(_) => {}
        }
    }
    if is_anonymous && !has_everybody {
        errors.add(&fields.place.field("anonymous"), "is allowed only with the subject *");
    }
    let role = fields.need("role", errors).and_then(|value| role(&value, roles, errors));
    let (role, verbs) = role.unwrap_or_default();
    let tables = fields.take("tables");
    let tables = names(tables, |name| TableName::parse(name).map(drop), errors);
    let groups = fields.take("groups");
    let groups = names(groups, |name| GroupName::parse(name).map(drop), errors);
    fields.end(errors);
    let subjects: Vec<SubjectPattern> = subjects.into_iter().map(|(_, subject)| subject).collect();
    let shown = subjects.iter().map(ToString::to_string).collect();
    (PolicyBinding { subjects: shown, role, verbs, tables, groups }, subjects)
}

/// A role that there is: its name and its verbs.
fn role(value: &FileValue<'_>, roles: &RoleVerbs, errors: &mut FileErrors<'_>) -> Option<(String, VerbSet)> {
    let name = value.text(errors)?;
    let verbs = roles.get(name).copied();
    if verbs.is_none() && !contracts::mutant("policy_unknown_role") {
        let mut known: Vec<&str> = roles.keys().map(String::as_str).collect();
        known.sort_unstable();
        errors.add(&value.place, format_args!("unknown role {name:?}; there are {}", known.join(", ")));
    }
    verbs.map(|verbs| (name.to_owned(), verbs))
}

/// The subjects of an entry, without those that are wrong.
fn subjects(fields: &mut FileMapping<'_>, errors: &mut FileErrors<'_>) -> Vec<(FilePlace, SubjectPattern)> {
    let texts: Vec<(FilePlace, &str)> = if contracts::mutant("policy_no_subjects") {
        let items = fields.take("subjects").map(|value| value.list(errors)).unwrap_or_default();
        items.into_iter().filter_map(|item| Some((item.place.clone(), item.text(errors)?))).collect()
    } else {
        fields.need("subjects", errors).map(|value| value.texts(errors)).unwrap_or_default()
    };
    let mut subjects = Vec::new();
    for (place, text) in texts {
        match SubjectPattern::parse(text) {
            Ok(subject) => subjects.push((place, subject)),
            Err(why) => errors.add(&place, why),
        }
    }
    subjects
}

/// The patterns of names, without those that are wrong. A list that is left out matches nothing.
fn names(
    value: Option<FileValue<'_>>,
    check: fn(&str) -> Result<(), BadName>,
    errors: &mut FileErrors<'_>,
) -> NamePatterns {
    let mut patterns = Vec::new();
    for (place, text) in value.map(|value| value.texts(errors)).unwrap_or_default() {
        match NamePattern::parse(text, check) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => errors.add(&place, why),
        }
    }
    NamePatterns::new(patterns)
}

fn read_quotas(value: FileValue<'_>, policy: &mut Policy, errors: &mut FileErrors<'_>) {
    let mut fields = value.mapping(errors);
    if let Some(value) = fields.take("default") {
        let mut members = value.mapping(errors);
        policy.default_quota = quota(&mut members, errors).unwrap_or_default();
        members.end(errors);
    }
    let entries = fields.take("bindings").map(|value| value.list(errors)).unwrap_or_default();
    for value in entries {
        let mut fields = value.mapping(errors);
        let subjects = subjects(&mut fields, errors);
        for (place, subject) in &subjects {
            if *subject == SubjectPattern::Everybody {
                errors.add(place, "use quotas.default for what applies to everybody");
            }
        }
        let quota = quota(&mut fields, errors);
        if fields.is_mapping() && quota.is_none() {
            errors.add(&fields.place, "sets no quota");
        }
        fields.end(errors);
        policy.limit(quota.unwrap_or_default(), subjects.into_iter().map(|(_, subject)| subject).collect());
    }
    fields.end(errors);
}

/// The members of a quota, if there are any. Rates are at least 1: a rate of 0 has no time to retry after.
fn quota(fields: &mut FileMapping<'_>, errors: &mut FileErrors<'_>) -> Option<Quota> {
    let mut has_members = false;
    let mut member = |name: &'static str, least: u64| {
        let value = fields.take(name)?;
        has_members = true;
        value.number(least, errors)
    };
    let quota = Quota {
        requests_per_sec: member("requests_per_sec", 1),
        write_bytes_per_sec: member("write_bytes_per_sec", 1),
        read_bytes_per_sec: member("read_bytes_per_sec", 1),
        inflight_bytes: member("inflight_bytes", 0),
        streams: member("streams", 0),
        flushes_per_min: member("flushes_per_min", 1),
        tables: member("tables", 0),
        partitions: member("partitions", 0),
        groups: member("groups", 0),
    };
    has_members.then_some(quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> String {
        Policy::parse(text).unwrap_err().to_string()
    }

    const WRONG: &str = r#"
version: 2
roles:
  owner: [read]
  auditor: [reed, read]
  nobody: []
bindings:
  - subjects: ["sa:shop", "who:me", "*", anonymous]
    role: produser
    tables: ["a*b", "a/b", 7]
  - role: auditor
    anonymous: true
    tables: []
    verbs: [read]
  - subjects: []
    role: nobody
    groups: "billing"
  - 3
quotas:
  default: {requests_per_sec: 0, streams: -1, inflight_bytes: 1.5, requests: 5}
  bindings:
    - {subjects: ["*"], tables: 1}
    - subjects: ["sa:shop/checkout"]
    - {streams: lots}
  extra: 1
tables: []
"#;

    #[test]
    fn every_error_is_found_at_once_with_line_and_field() {
        let found = errors(WRONG);
        for (line, field) in [
            (2, "version: must be 1"),
            (4, "roles.owner: is built in"),
            (5, "roles.auditor[0]: unknown verb \"reed\"; there are append, read, commit"),
            (6, "roles.nobody: must not be empty"),
            (8, "bindings[0].subjects[0]: \"sa:shop\" matches no principal: sa: is followed by a namespace"),
            (8, "bindings[0].subjects[1]: \"who:me\" matches no principal: a principal begins with sa:"),
            (8, "bindings[0].subjects[2]: * includes callers without a credential"),
            (8, "bindings[0].subjects[3]: cannot be a subject"),
            (9, "bindings[0].role: unknown role \"produser\"; there are auditor, consumer, nobody"),
            (10, "bindings[0].tables[0]: \"a*b\" may have a * only at the end"),
            (10, "bindings[0].tables[1]: table name \"a/b\" must match"),
            (10, "bindings[0].tables[2]: must be text"),
            (11, "bindings[1].subjects: is missing"),
            (12, "bindings[1].anonymous: is allowed only with the subject *"),
            (13, "bindings[1].tables: must not be empty"),
            (14, "bindings[1].verbs: is not a known field; there are subjects, anonymous, role"),
            (15, "bindings[2].subjects: must not be empty"),
            (17, "bindings[2].groups: must be a list"),
            (18, "bindings[3]: must be a mapping"),
            (20, "quotas.default.requests_per_sec: must be a whole number, 1 or more"),
            (20, "quotas.default.inflight_bytes: must be a whole number, 0 or more"),
            (20, "quotas.default.streams: must be a whole number, 0 or more"),
            (20, "quotas.default.requests: is not a known field"),
            (22, "quotas.bindings[0].subjects[0]: use quotas.default"),
            (23, "quotas.bindings[1]: sets no quota"),
            (24, "quotas.bindings[2].subjects: is missing"),
            (24, "quotas.bindings[2].streams: must be a whole number"),
            (25, "quotas.extra: is not a known field"),
            (26, "tables: is not a known field"),
        ] {
            let begins = format!("line {line}, {field}");
            assert!(found.lines().any(|found| found.starts_with(&begins)), "{begins}\nis not in\n{found}");
        }
        assert_eq!(found.lines().count(), 29, "{found}");
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for (text, word) in [
            ("", "mapping"),
            ("version: 1\n", "bindings: is missing"),
            ("bindings: []\n", "version: is missing"),
            ("version: \"1\"\nbindings: []\n", "must be 1"),
            ("version: 1\nbindings: []\nversion: 1\n", "duplicate field"),
            ("version: 1\nbindings:\n", "must be a list"),
            ("version: 1\nbindings: {}\n", "must be a list"),
            ("version: 1\nbindings: []\nroles: [reader]\n", "must be a mapping"),
            ("version: 1\nbindings: [\n", "line"),
            ("<html></html>", "mapping"),
        ] {
            let why = errors(text);
            assert!(why.contains(word), "{text:?}: {why}");
        }
        assert!(Policy::parse(&"# much\n".repeat(200_000)).is_err());
    }

    #[test]
    fn yaml_in_all_its_forms_and_json_are_taken() {
        for text in [
            "version: 1\nbindings: []\n",
            r#"{"version": 1, "bindings": [], "roles": {}, "quotas": {"default": {}, "bindings": []}}"#,
            "version: 1\nbindings:\n- subjects: [\"token:ci\"]\n  role: owner\n",
            "version: 1\nbindings:\n- subjects: &them [\"token:ci\"]\n  role: owner\n\
             - {subjects: *them, role: operator}\n",
            "version: 1\nbindings:\n- {subjects: [\"*\"], anonymous: true, role: owner, tables: [\"*\"]}\n",
        ] {
            assert!(Policy::parse(text).is_ok(), "{text}: {:?}", Policy::parse(text));
        }
    }
}
