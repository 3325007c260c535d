//! Which shards a route is about. Pure.

use axum::http::Method;

/// Which shards a route is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
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
pub(super) enum Gathered {
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

/// What a route is about, by its method and its path with `{names}`.
pub(super) fn reach(method: Option<&Method>, path: &str) -> Reach {
    let method = method.map_or("", Method::as_str);
    match (method, path) {
        ("GET", "/tables") => Reach::All(Gathered::Tables),
        ("GET", "/consumers") => Reach::All(Gathered::Groups),
        ("GET", "/consumers/{group}") => Reach::All(Gathered::Group),
        ("DELETE", "/consumers/{group}") => Reach::All(Gathered::GroupDeleted),
        ("POST", "/flush") => Reach::All(Gathered::Flush),
        ("GET", "/stats") => Reach::All(Gathered::Stats),
        ("GET", "/consumers/{group}/offset") => Reach::QueryTable,
        ("POST", "/consumers/{group}/commit") => Reach::BodyTables,
        ("POST", "/consumers/{group}/reset") => Reach::BodyTable,
        ("POST", "/cluster/shards/{shard}/move") => Reach::Numbered,
        // A handshake says what a pod takes, whatever the table.
        ("OPTIONS", _) => Reach::This,
        ("POST", "/tables/{table}/flush") => Reach::TableFlush,
        (_, path) if path.starts_with("/tables/{table}") => Reach::Table,
        _ => Reach::This,
    }
}

/// Whether a route appends events.
pub(super) fn appends(method: Option<&Method>, path: &str) -> bool {
    method == Some(&Method::POST)
        && matches!(path, "/tables/{table}" | "/tables/{table}/bulk" | "/tables/{table}/raw")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_a_table_goes_to_its_shard_and_lists_to_all() {
        for (method, path, expected) in [
            (Method::POST, "/tables/{table}", Reach::Table),
            (Method::GET, "/tables/{table}", Reach::Table),
            (Method::GET, "/tables/{table}/erase/{id}", Reach::Table),
            (Method::POST, "/tables/{table}/flush", Reach::TableFlush),
            (Method::OPTIONS, "/tables/{table}/raw", Reach::This),
            (Method::GET, "/tables", Reach::All(Gathered::Tables)),
            (Method::POST, "/consumers/{group}/commit", Reach::BodyTables),
            (Method::GET, "/settings", Reach::This),
            (Method::GET, "/cluster", Reach::This),
            (Method::POST, "/cluster/shards/{shard}/move", Reach::Numbered),
        ] {
            assert_eq!(reach(Some(&method), path), expected, "{method} {path}");
        }
    }
}
