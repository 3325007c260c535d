//! Names that come from outside, valid by construction: tables, partitions, consumer groups.

use std::{fmt, sync::Arc};

/// Partition numbers fit here whatever the configured limit.
pub type PartitionNumber = u32;

/// A name that breaks its rule; the text says the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} must match {rule}")]
pub struct BadName {
    what: &'static str,
    value: String,
    rule: &'static str,
}

/// A letter, digit or `_`, then up to 127 more that may also be `.` or `-`.
const NAME_RULE: &str = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$";

fn parse_name(what: &'static str, value: &str) -> Result<Arc<str>, BadName> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = value.as_bytes();
    let right = (1..=128).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-');
    if right {
        Ok(Arc::from(value))
    } else {
        // A long wrong name is cut: it goes into an error text.
        let value = value.chars().take(140).collect();
        Err(BadName { what, value, rule: NAME_RULE })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the name rule.
            ///
            /// # Errors
            /// [`BadName`] with the rule.
            pub fn parse(value: &str) -> Result<Self, BadName> {
                parse_name($what, value).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a table. Its characters are safe in URLs, file names and S3 keys.
    TableName, "table name"
}
name! {
    /// The name of a consumer group.
    GroupName, "group name"
}

/// One partition of one table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The table it belongs to.
    pub table: TableName,
    /// Its number, from 0.
    pub number: PartitionNumber,
}

impl Partition {
    /// Partition `number` of `table`.
    pub fn new(table: TableName, number: PartitionNumber) -> Self {
        Self { table, number }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for right in ["a", "_", "9", "events", "a.b-c_D", &"x".repeat(128)] {
            assert_eq!(TableName::parse(right).unwrap().as_str(), right);
        }
        for wrong in ["", ".", "-a", "a b", "a/b", "..", "é", "a\0", "a\n", &"x".repeat(129)] {
            assert!(TableName::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
