//! Which shards a route is about. That is said where the route is added, and nothing guesses it from a method
//! or a path.

use crate::auth::verb::Verb;

/// What decides by whom a route's requests are answered.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct RouteReach<'a> {
    /// Its path in the API, with `{names}` for what varies.
    pub(in crate::http) path: &'a str,
    /// What it does.
    pub(in crate::http) verb: Verb,
    /// Which shards it is about.
    pub(in crate::http) reach: Reach,
}

/// Which shards a route is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Reach {
    /// None: this pod answers by itself.
    This,
    /// That of the table in the path.
    Table,
    /// The same, of which the answer says that all of it is in S3.
    TableFlush,
    /// That of the table in the query.
    QueryTable,
    /// That of the table in the body.
    BodyTable,
    /// Those of the tables in the body, one after the other.
    BodyTables,
    /// That whose number is in the path.
    Numbered,
    /// All of them.
    All(Gathered),
}

/// What all shards are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Gathered {
    /// A page of the tables.
    Tables,
    /// The consumer groups.
    Groups,
    /// How far a group is everywhere.
    Group,
    /// The end of a group.
    GroupDeleted,
    /// A flush of everything.
    Flush,
    /// The counts.
    Stats,
}

impl Gathered {
    /// Whether shards are only read.
    pub(super) fn is_read(self) -> bool {
        !matches!(self, Self::GroupDeleted | Self::Flush)
    }

    /// Whether nobody waits for the others once one shard is missing. What changes something is done where it
    /// can be, and counts are shown.
    pub(super) fn ends_early(self) -> bool {
        self.is_read() && self != Self::Stats
    }
}
