//! Requests that are turned away with 503, in the log: the first of a reason at once, then, for as long as
//! there are more, one line in ten seconds that counts them. However many there are, the log does not fill
//! up.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tracing::warn;

/// For how long refusals are counted before they are said.
const TURN: Duration = Duration::from_secs(10);
/// How often turns are looked for that have ended.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Those of this process, as metrics are.
static TURNS: Mutex<RefusalTurns> = Mutex::new(RefusalTurns { turns: Vec::new() });

/// The refusals of the last seconds. Reasons are few, so a list will do.
#[derive(Debug)]
struct RefusalTurns {
    turns: Vec<RefusalTurn>,
}

/// What has been refused for one reason since its last line.
#[derive(Debug)]
struct RefusalTurn {
    reason: &'static str,
    /// When it is said.
    ends: Instant,
    count: u64,
    /// What the last one was told.
    detail: String,
}

/// Refusals of one reason that are to be said.
#[derive(Debug, PartialEq, Eq)]
struct DueRefusals {
    reason: &'static str,
    count: u64,
    detail: String,
}

impl RefusalTurns {
    /// Counts a refusal. Returns whether it begins a turn: then it is to be said at once, and is not counted.
    fn count(&mut self, reason: &'static str, detail: &str, now: Instant) -> bool {
        let Some(turn) = self.turns.iter_mut().find(|turn| turn.reason == reason) else {
            self.turns.push(RefusalTurn { reason, ends: now + TURN, count: 0, detail: String::new() });
            return true;
        };
        turn.count += 1;
        detail.clone_into(&mut turn.detail);
        false
    }

    /// Takes what was counted in turns that have ended. Where something was, another turn begins; otherwise
    /// the next refusal is said at once.
    fn take_due(&mut self, now: Instant) -> Vec<DueRefusals> {
        self.turns.retain(|turn| turn.count > 0 || now < turn.ends);
        let ended = self.turns.iter_mut().filter(|turn| turn.ends <= now);
        ended
            .map(|turn| {
                turn.ends = now + TURN;
                turn.take()
            })
            .collect()
    }

    /// Takes all that was counted, and ends all turns.
    fn take_all(&mut self) -> Vec<DueRefusals> {
        let mut turns = std::mem::take(&mut self.turns);
        turns.iter_mut().filter(|turn| turn.count > 0).map(RefusalTurn::take).collect()
    }
}

impl RefusalTurn {
    fn take(&mut self) -> DueRefusals {
        let (count, detail) = (std::mem::take(&mut self.count), std::mem::take(&mut self.detail));
        DueRefusals { reason: self.reason, count, detail }
    }
}

/// Counts a refusal, and logs it if it is the first for its reason. `request_id` is the id of the request.
pub(super) fn log(reason: &'static str, detail: &str, request_id: &str) {
    let is_first = TURNS.lock().count(reason, detail, Instant::now());
    if is_first {
        warn!(reason, detail, request_id, "turning a request away, more will be counted");
    }
}

/// Logs what is due, once a second, until it is dropped.
pub(crate) async fn keep() {
    loop {
        sleep(LOOK_INTERVAL).await;
        let due = TURNS.lock().take_due(Instant::now());
        say(due);
    }
}

/// Logs what was counted and not said yet. It is to be called after the last request.
pub(crate) fn say_all() {
    let rest = TURNS.lock().take_all();
    say(rest);
}

fn say(due: Vec<DueRefusals>) {
    for DueRefusals { reason, count, detail } in due {
        warn!(reason, count, detail, "requests turned away since the last line");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(reason: &'static str, count: u64, detail: &str) -> DueRefusals {
        DueRefusals { reason, count, detail: detail.to_owned() }
    }

    #[test]
    fn the_first_of_a_reason_is_said_at_once_and_the_others_together() {
        let (mut turns, start) = (RefusalTurns { turns: Vec::new() }, Instant::now());
        let after = |secs| start + Duration::from_secs(secs);
        assert!(turns.count("memory", "a", start));
        for number in 1..=5 {
            assert!(!turns.count("memory", &format!("detail {number}"), after(number)));
        }
        assert!(turns.count("hot_full", "b", after(6)), "each reason has turns of its own");
        assert!(turns.take_due(after(9)).is_empty());
        assert_eq!(turns.take_due(after(10)), [due("memory", 5, "detail 5")]);
        // It goes on: one line for the next ten seconds.
        assert!(!turns.count("memory", "c", after(12)));
        assert!(turns.take_due(after(19)).is_empty(), "hot_full had no more, and is forgotten");
        assert_eq!(turns.take_due(after(20)), [due("memory", 1, "c")]);
        // It is over: the next one is the first again.
        assert!(turns.take_due(after(30)).is_empty());
        assert!(turns.count("memory", "d", after(31)));
        assert!(turns.count("hot_full", "e", after(31)));
    }

    #[test]
    fn what_was_counted_is_said_at_the_end() {
        let (mut turns, start) = (RefusalTurns { turns: Vec::new() }, Instant::now());
        assert!(turns.count("closing", "a", start) && turns.count("memory", "b", start));
        assert!(!turns.count("closing", "c", start));
        assert_eq!(turns.take_all(), [due("closing", 1, "c")]);
        assert!(turns.take_all().is_empty());
    }
}
