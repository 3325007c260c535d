//! Lines that a stream leaves out: how many, and the first of them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::Problem;
use contracts::{metrics, name::TableName};

/// Lines that the answer lists.
const LISTED: usize = 100;
/// Bytes of a reason that are kept: an unknown field may have a name as long as the line.
const DETAIL_BYTES: usize = 300;

/// A line that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct RejectedLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it, as the `code` of a problem.
    pub code: &'static str,
    /// What is wrong with it, for people.
    pub detail: String,
}

/// The lines that were left out so far.
#[derive(Debug, Default)]
pub(super) struct RejectedLines {
    count: u64,
    /// By number: what is wrong with a line by itself is known before what the store says of others.
    first: BTreeMap<u64, RejectedLine>,
}

impl RejectedLines {
    /// Leaves out a line of a stream to `table`.
    pub(super) fn add(&mut self, table: &TableName, line: u64, problem: &Problem) {
        self.count += 1;
        metrics::rejected(table);
        if self.first.len() == LISTED && self.first.last_key_value().is_some_and(|(last, _)| *last < line) {
            return;
        }
        let code = problem.code().name();
        self.first.insert(line, RejectedLine { line, code, detail: shortened(problem.detail()) });
        if self.first.len() > LISTED {
            self.first.pop_last();
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The first of them.
    pub(super) fn into_first(self) -> Vec<RejectedLine> {
        self.first.into_values().collect()
    }
}

fn shortened(detail: &str) -> String {
    if detail.len() <= DETAIL_BYTES {
        return detail.to_owned();
    }
    format!("{}...", &detail[..detail.floor_char_boundary(DETAIL_BYTES)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::code::Code;

    #[test]
    fn the_first_lines_are_listed_in_whatever_order_they_are_found() {
        let table = TableName::parse("t").unwrap();
        let mut rejected = RejectedLines::default();
        for line in (1..=150).rev().chain(151..=200) {
            rejected.add(&table, line, &Problem::new(Code::BadJson, "\u{e9}".repeat(1000)));
        }
        assert_eq!(rejected.count(), 200);
        let first = rejected.into_first();
        assert!(first.iter().map(|one| one.line).eq(1..=100));
        assert!(first.iter().all(|one| one.code == "bad_json" && one.detail.len() <= DETAIL_BYTES + 3));
    }
}
