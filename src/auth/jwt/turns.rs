//! When a JWKS is fetched: who may ask for it, and who waits for a fetch that is under way.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// The least time between the beginnings of two fetches, failed ones included.
pub(super) const PAUSE: Duration = Duration::from_secs(10);
/// Names of unknown keys that are remembered; beyond that, the oldest are forgotten.
const MAX_UNKNOWN: usize = 128;

/// The turns of fetching, between the task that fetches and the tokens that ask for it.
#[derive(Default)]
pub(super) struct FetchTurns {
    state: Mutex<TurnState>,
    /// Wakes the task.
    wanted: Notify,
    /// Changes when a fetch has ended.
    ended: watch::Sender<()>,
}

#[derive(Default)]
struct TurnState {
    /// When the last fetch began.
    began: Option<Instant>,
    is_under_way: bool,
    /// Whether the task has ended: nobody is to wait for it.
    is_over: bool,
    /// Names that a fetch did not find, and when it ended; the oldest first.
    unknown: VecDeque<(String, Instant)>,
}

/// Ends the turns when the task does, however it does.
pub(super) struct EndOfTurns<'a>(&'a FetchTurns);

impl Drop for EndOfTurns<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_over = true;
        self.0.ended.send_replace(());
    }
}

impl FetchTurns {
    /// Asks for a fetch, because a token names a key that is not known. What is given changes when it has
    /// ended; `None` if there is none to wait for: this key was unknown a moment ago, or the last fetch is.
    pub(super) fn ask(&self, kid: &str) -> Option<watch::Receiver<()>> {
        let now = Instant::now();
        let is_recent = |then: Instant| now.duration_since(then) < PAUSE;
        let mut state = self.state.lock();
        while state.unknown.front().is_some_and(|(_, since)| !is_recent(*since)) {
            state.unknown.pop_front();
        }
        let is_unknown = state.unknown.iter().any(|(unknown, _)| unknown == kid);
        if state.is_over || (is_unknown && !contracts::mutant("fetch_unknown")) {
            return None;
        }
        if !state.is_under_way {
            if state.began.is_some_and(is_recent) && !contracts::mutant("fetch_pause") {
                return None;
            }
            (state.is_under_way, state.began) = (true, Some(now));
            self.wanted.notify_one();
        }
        // Subscribed under the lock, which the fetch needs to end.
        Some(self.ended.subscribe())
    }

    /// Remembers a key that a fetch did not find.
    pub(super) fn remember_unknown(&self, kid: &str) {
        let mut state = self.state.lock();
        if state.unknown.iter().any(|(unknown, _)| unknown == kid) {
            return; // by another token that waited for the same fetch
        }
        if state.unknown.len() == MAX_UNKNOWN {
            state.unknown.pop_front();
        }
        state.unknown.push_back((kid.to_owned(), Instant::now()));
    }

    /// For the task: waits until somebody has asked for a fetch, which is then under way.
    pub(super) async fn asked(&self) {
        loop {
            self.wanted.notified().await;
            // If not, a fetch that began by itself has served whoever asked.
            if self.state.lock().is_under_way {
                return;
            }
        }
    }

    /// For the task: a fetch begins by itself.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock();
        (state.is_under_way, state.began) = (true, Some(Instant::now()));
    }

    /// For the task: the fetch has ended.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.is_under_way = false;
        self.ended.send_replace(());
    }

    /// Only with a check switched off: the last fetch counts for nothing.
    pub(super) fn forget(&self) {
        self.state.lock().began = None;
    }

    /// For the task: whoever waits is woken once this is dropped, and nobody waits from then on.
    pub(super) fn end_when_dropped(&self) -> EndOfTurns<'_> {
        EndOfTurns(self)
    }
}
