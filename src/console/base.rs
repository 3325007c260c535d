//! Where the console is, and what its pages are made with.

use tokio::sync::Semaphore;

use super::settings::ConsoleSettings;
use crate::http::{pages::PageApi, state::AppState};

/// Where the console is.
pub(super) const PATH: &str = "/console";

/// What pages are made with.
pub(super) struct Console {
    pub(super) state: AppState,
    pub(super) api: PageApi,
    pub(super) settings: ConsoleSettings,
    /// Whether the main port speaks TLS.
    pub(super) has_tls: bool,
    /// Places for pages that are being made.
    pub(super) places: Semaphore,
}
