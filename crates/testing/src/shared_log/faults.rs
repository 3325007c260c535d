//! What befalls a request to the log in memory.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};

/// How long a request takes where nothing befalls it.
const USUAL_MS: std::ops::Range<u64> = 1..5;
/// How long an answer takes that is slow, and still waited for.
const SLOW_MS: std::ops::Range<u64> = 100..1000;
/// How late what is late may be: long after whoever sent it has sent it again.
const LATE_MS: std::ops::Range<u64> = 100..5000;

/// How many appends of a thousand each of these befalls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogFaults {
    /// The entry is there, and no answer comes.
    pub lost_answers: u32,
    /// It never arrives.
    pub lost_requests: u32,
    /// It arrives long after whoever sent it has given up waiting, if its place is still free then.
    pub late: u32,
    /// It is there, and the answer takes a while.
    pub slow_answers: u32,
}

impl LogFaults {
    /// A bit of everything.
    pub const ALL: Self = Self { lost_answers: 30, lost_requests: 30, late: 30, slow_answers: 30 };
}

/// What befalls one append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AppendFate {
    /// It arrives, and the answer takes so long.
    Answered(Duration),
    LostAnswer,
    LostRequest,
    /// It arrives after so long.
    Late(Duration),
}

impl AppendFate {
    /// The next one.
    pub(super) fn draw(faults: LogFaults, rng: &mut StdRng) -> Self {
        let draw = rng.random_range(0..1000_u32);
        let LogFaults { lost_answers, lost_requests, late, slow_answers } = faults;
        let mut upto = 0;
        let mut is = |of_thousand: u32| {
            upto += of_thousand;
            draw < upto
        };
        if is(lost_answers) {
            Self::LostAnswer
        } else if is(lost_requests) {
            Self::LostRequest
        } else if is(late) {
            Self::Late(Duration::from_millis(rng.random_range(LATE_MS)))
        } else if is(slow_answers) {
            Self::Answered(Duration::from_millis(rng.random_range(SLOW_MS)))
        } else {
            Self::Answered(Duration::ZERO)
        }
    }
}

/// How long a request takes.
pub(super) fn usual_time(rng: &mut StdRng) -> Duration {
    Duration::from_millis(rng.random_range(USUAL_MS))
}
