//! The settings of the console.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::Section;

/// The console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConsoleSettings {
    /// Whether there is a console, at `/console`.
    pub enabled: bool,
    /// Whether the console may change something, for who has the right: move a consumer group.
    pub writes: bool,
}

impl Default for ConsoleSettings {
    fn default() -> Self {
        Self { enabled: true, writes: false }
    }
}

impl Section for ConsoleSettings {
    const NAME: &'static str = "console";
}
