//! What a route does. It is given where the route is added; nothing that depends on it guesses it from a
//! method or a path.

/// What a route does, and so the right that a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Appends events to a table, which it may create. A problem says whether anything was written.
    Append,
    /// Reads a table's events, its settings or the state of its partitions.
    Read,
    /// Moves a consumer group's offsets forward, or shows them.
    Commit,
    /// Moves a consumer group's offsets back, or deletes the group.
    Rewind,
    /// Changes a table's settings, flushes the table or deletes it.
    Manage,
    /// Concerns the whole server: its numbers, its log level, a flush of every table.
    Operate,
    /// Needs no right: probes, documentation, and the metrics of the admin port.
    Open,
}

impl Verb {
    /// Its name, as policies have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Read => "read",
            Self::Commit => "commit",
            Self::Rewind => "rewind",
            Self::Manage => "manage",
            Self::Operate => "operate",
            Self::Open => "open",
        }
    }

    /// How far it reaches, as people ask about it later: what changes no more than events and offsets, then a
    /// group, a table, the server.
    pub(crate) fn reach(self) -> u8 {
        match self {
            Self::Append | Self::Read | Self::Commit | Self::Open => 0,
            Self::Rewind => 1,
            Self::Manage => 2,
            Self::Operate => 3,
        }
    }
}
