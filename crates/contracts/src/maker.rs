//! Who makes tables, partitions and consumer groups, and how many of each a principal may have made.
//!
//! An engine stores who made a thing in the same step that makes it, and counts from what is stored. So the
//! counts are right after a crash too.

use std::sync::Arc;

use super::error::StorageError;

/// What is counted by who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Tables, but not deleted ones. A table that is made again counts for who makes it again.
    Tables,
    /// Partitions, those of deleted tables too: their offsets are remembered, and they take the place of
    /// others.
    Partitions,
    /// Consumer groups that have committed offsets.
    Groups,
}

impl Made {
    /// The name of the quota: `tables`, `partitions` or `groups`.
    pub fn quota(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::Partitions => "partitions",
            Self::Groups => "groups",
        }
    }
}

/// How many of each there may be that one principal has made; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MakerLimits {
    /// Tables.
    pub tables: Option<u64>,
    /// Partitions of all tables together, whoever made these.
    pub partitions: Option<u64>,
    /// Consumer groups.
    pub groups: Option<u64>,
}

/// Who asks for something that may have to be made for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker {
    /// The principal as text, such as `sa:shop/checkout`: stored with what it makes.
    pub principal: Arc<str>,
    /// What it may have made at this moment. Not stored.
    pub limits: MakerLimits,
}

impl Maker {
    /// Checks that it may make `more`, where `made` are there that it has made. Nothing more may always be
    /// made, even if a limit was lowered below what is there.
    ///
    /// # Errors
    /// `OverQuota`.
    pub fn check(&self, what: Made, made: u64, more: u64) -> Result<(), StorageError> {
        let limit = match what {
            Made::Tables => self.limits.tables.filter(|_| !crate::mutant("quota_tables")),
            Made::Partitions => self.limits.partitions.filter(|_| !crate::mutant("quota_partitions")),
            Made::Groups => self.limits.groups.filter(|_| !crate::mutant("quota_groups")),
        };
        match limit {
            Some(limit) if more > 0 && made.saturating_add(more) > limit => {
                Err(StorageError::OverQuota { quota: what.quota(), limit })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_the_limit_is_refused_and_what_is_there_may_stay() {
        let limits = MakerLimits { partitions: Some(2), ..MakerLimits::default() };
        let maker = Maker { principal: "token:ci".into(), limits };
        assert!(maker.check(Made::Partitions, 0, 2).is_ok());
        let refused = maker.check(Made::Partitions, 1, 2).unwrap_err();
        assert!(matches!(refused, StorageError::OverQuota { quota: "partitions", limit: 2 }));
        assert!(!refused.is_retryable());
        let text = refused.to_string();
        assert!(text.contains("partitions") && text.contains('2'), "{text}");
        assert!(maker.check(Made::Partitions, 7, 0).is_ok(), "the limit was lowered");
        assert!(maker.check(Made::Partitions, u64::MAX, 1).is_err());
        assert!(maker.check(Made::Tables, 7, 1).is_ok() && maker.check(Made::Groups, 7, 1).is_ok());
    }
}
