//! What each principal may do, and how much: decisions by the policy file. `file` reads and checks it,
//! `patterns` compares; `own` keeps what is for one principal.

mod file;
mod own;
mod patterns;

use contracts::name::{GroupName, TableName};

use self::patterns::{NamePatterns, SubjectIndex, SubjectPattern};
pub(crate) use self::{file::VERBS, own::OwnBindings};
use super::{bad_file::BadFile, fields::read_file, principal::Principal};
use crate::auth::verb::Verb;

/// What each principal may do: the union of the file's bindings. Nothing is denied by a binding, and their
/// order does not matter.
#[derive(Debug, Default)]
pub struct Policy {
    bindings: Vec<PolicyBinding>,
    subjects: SubjectIndex,
    default_quota: Quota,
    quotas: Vec<Quota>,
    quota_subjects: SubjectIndex,
}

/// What the subjects of a binding may do.
#[derive(Debug)]
pub(crate) struct PolicyBinding {
    /// As the file has them, for people.
    subjects: Vec<String>,
    role: String,
    verbs: VerbSet,
    tables: NamePatterns,
    groups: NamePatterns,
}

/// What a caller wants to do something with.
#[derive(Debug, Clone, Copy)]
pub enum Resource<'a> {
    /// A table, whether it exists or not.
    Table(&'a TableName),
    /// A consumer group, whether it exists or not.
    Group(&'a GroupName),
    /// The whole server.
    Server,
}

/// Whether a principal may do what it wants to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may, by this binding of the file, the first of those that allow it, counted from 0.
    Allowed {
        /// The binding.
        binding: usize,
    },
    /// No binding allows it.
    Denied,
}

impl Decision {
    /// Whether it may.
    pub fn is_allowed(self) -> bool {
        self != Self::Denied
    }
}

/// What a principal lacks that is denied something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// A binding: none is for it.
    Binding,
    /// The verb: no binding of its own gives it.
    Verb,
    /// The table or group: it has the verb on others only.
    Name,
}

/// How much a principal may use. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Requests a second; at least 1.
    pub requests_per_sec: Option<u64>,
    /// Bytes of bodies a second; at least 1.
    pub write_bytes_per_sec: Option<u64>,
    /// Bytes of answers a second; at least 1.
    pub read_bytes_per_sec: Option<u64>,
    /// Bytes of bodies that are being received or worked on.
    pub inflight_bytes: Option<u64>,
    /// Long answers at once.
    pub streams: Option<u64>,
    /// Flushes a minute; at least 1.
    pub flushes_per_min: Option<u64>,
    /// Tables that it has made.
    pub tables: Option<u64>,
    /// Partitions that it has made, in tables of others too.
    pub partitions: Option<u64>,
    /// Consumer groups that it has made.
    pub groups: Option<u64>,
}

impl Quota {
    /// This quota with the members that `other` has replaced by its own.
    fn overridden_by(self, other: Self) -> Self {
        Self {
            requests_per_sec: other.requests_per_sec.or(self.requests_per_sec),
            write_bytes_per_sec: other.write_bytes_per_sec.or(self.write_bytes_per_sec),
            read_bytes_per_sec: other.read_bytes_per_sec.or(self.read_bytes_per_sec),
            inflight_bytes: other.inflight_bytes.or(self.inflight_bytes),
            streams: other.streams.or(self.streams),
            flushes_per_min: other.flushes_per_min.or(self.flushes_per_min),
            tables: other.tables.or(self.tables),
            partitions: other.partitions.or(self.partitions),
            groups: other.groups.or(self.groups),
        }
    }
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// [`BadFile`] with everything that is wrong.
    pub fn parse(text: &str) -> Result<Self, BadFile> {
        read_file(text, file::read)
    }

    /// Whether a principal may do this. Tables and groups are compared with the file's patterns, whether they
    /// exist or not. [`Verb::Append`], [`Verb::Read`] and [`Verb::Manage`] want a table, [`Verb::Commit`] and
    /// [`Verb::Rewind`] a group, and [`Verb::Operate`] takes any resource; everything else is denied. So is
    /// [`Verb::Open`], which needs no right and is not to be asked for.
    ///
    /// A commit touches a table, too: ask for [`Verb::Read`] of it as well.
    pub fn decide(&self, principal: &Principal, verb: Verb, resource: Resource<'_>) -> Decision {
        let allows =
            |binding: usize| self.binding(binding).is_some_and(|binding| binding.allows(verb, resource));
        match self.subjects.first(principal, allows) {
            Some(binding) => Decision::Allowed { binding },
            None => Decision::Denied,
        }
    }

    /// Whether any binding names the principal.
    pub fn names(&self, principal: &Principal) -> bool {
        self.subjects.first(principal, |_| true).is_some()
    }

    /// What a principal lacks whom [`decide`](Self::decide) denies this verb.
    pub(crate) fn lacking(&self, principal: &Principal, verb: Verb) -> Lacking {
        let gives = |binding: usize| self.binding(binding).is_some_and(|binding| binding.verbs.has(verb));
        if self.subjects.first(principal, |_| true).is_none() {
            Lacking::Binding
        } else if self.subjects.first(principal, gives).is_none() {
            Lacking::Verb
        } else {
            Lacking::Name
        }
    }

    /// A binding of the file, counted from 0.
    pub(crate) fn binding(&self, number: usize) -> Option<&PolicyBinding> {
        self.bindings.get(number)
    }

    /// Whether a binding is for callers without a credential, too.
    pub(crate) fn has_binding_for_everybody(&self) -> bool {
        self.subjects.has_everybody()
    }

    /// How much a principal may use. Each member is that of the last entry that names it and the principal;
    /// one that names the principal in full counts more than one with a `*`, wherever they stand. A member
    /// that no entry has is that of `quotas.default`.
    pub fn quota(&self, principal: &Principal) -> Quota {
        let entries = self.quota_subjects.all(principal).filter_map(|entry| self.quotas.get(entry));
        entries.fold(self.default_quota, |quota, entry| quota.overridden_by(*entry))
    }

    /// Adds a binding and whom it is for.
    fn bind(&mut self, binding: PolicyBinding, subjects: Vec<SubjectPattern>) {
        self.subjects.add(self.bindings.len(), subjects);
        self.bindings.push(binding);
    }

    /// Adds an entry of `quotas.bindings`.
    fn limit(&mut self, quota: Quota, subjects: Vec<SubjectPattern>) {
        self.quota_subjects.add(self.quotas.len(), subjects);
        self.quotas.push(quota);
    }
}

impl PolicyBinding {
    /// Its subjects, as the file has them.
    pub(crate) fn subjects(&self) -> &[String] {
        &self.subjects
    }

    /// Its role's name.
    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    fn allows(&self, verb: Verb, resource: Resource<'_>) -> bool {
        self.verbs.has(verb)
            && match (verb, resource) {
                (Verb::Append | Verb::Read | Verb::Manage, Resource::Table(table)) => {
                    self.tables.matches(table.as_str())
                }
                (Verb::Commit | Verb::Rewind, Resource::Group(group)) => self.groups.matches(group.as_str()),
                (Verb::Operate, _) => true,
                _ => false,
            }
    }
}

/// A set of verbs, as bits. [`Verb::Open`] is never in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct VerbSet(u8);

impl VerbSet {
    const ALL: Self = Self(0b11_1111);

    fn of(verbs: &[Verb]) -> Self {
        Self(verbs.iter().fold(0, |bits, verb| bits | Self::bit(*verb)))
    }

    fn has(self, verb: Verb) -> bool {
        self.0 & Self::bit(verb) != 0
    }

    fn bit(verb: Verb) -> u8 {
        match verb {
            Verb::Append => 1,
            Verb::Read => 1 << 1,
            Verb::Commit => 1 << 2,
            Verb::Rewind => 1 << 3,
            Verb::Manage => 1 << 4,
            Verb::Operate => 1 << 5,
            Verb::Open => 0,
        }
    }
}

#[cfg(test)]
mod tests;
