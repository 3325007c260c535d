//! When a copy takes the shard over. Pure.

use std::time::Duration;

use crate::settings::{CopySettings, RANK_WAIT};

/// What a copy that follows knows, having applied all that the log has just answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct FollowerView<'a> {
    /// Its pod.
    pub(super) pod: &'a str,
    /// Its place among the copies of the shard; 0 is the first.
    pub(super) rank: u32,
    /// How long the log has been silent while it answered.
    pub(super) silence: Duration,
    /// The pod that the owner has yielded to, if it has.
    pub(super) yielded_to: Option<&'a str>,
    /// Whether it takes the shard over no more.
    pub(super) is_retired: bool,
}

/// Whether it takes over as soon as it is at the end of the log: only then does it wait for no entry.
pub(super) fn is_next(view: FollowerView<'_>) -> bool {
    !view.is_retired && view.yielded_to == Some(view.pod)
}

/// Whether it takes over now.
pub(super) fn takes_over(view: FollowerView<'_>, settings: CopySettings) -> bool {
    let has_waited = view.silence >= settings.takeover() + RANK_WAIT * view.rank;
    is_next(view) || (!view.is_retired && has_waited)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: CopySettings = CopySettings {
        tick_ms: 1000,
        takeover_ms: 4000,
        write_timeout_secs: contracts::settings::Seconds::new(10),
        read_timeout_secs: contracts::settings::Seconds::new(2),
    };

    fn view(rank: u32, silence_ms: u64, yielded_to: Option<&'static str>) -> FollowerView<'static> {
        let silence = Duration::from_millis(silence_ms);
        FollowerView { pod: "zombi-1", rank, silence, yielded_to, is_retired: false }
    }

    #[test]
    fn a_copy_that_is_retired_takes_nothing_over_and_waits_for_entries_whoever_is_next() {
        for (silence_ms, yielded_to) in [(0, Some("zombi-1")), (4000, Some("zombi-1")), (4000, None)] {
            let one = view(0, silence_ms, yielded_to);
            assert!(takes_over(one, SETTINGS));
            assert_eq!(is_next(one), yielded_to.is_some());
            let retired = FollowerView { is_retired: true, ..one };
            assert!(!takes_over(retired, SETTINGS) && !is_next(retired), "{retired:?}");
        }
        assert!(!is_next(view(0, 4000, Some("zombi-2"))));
    }

    #[test]
    fn silence_is_waited_for_by_rank() {
        for (rank, silence_ms, expected) in
            [(0, 3999, false), (0, 4000, true), (1, 4499, false), (1, 4500, true), (2, 4999, false)]
        {
            let decided = takes_over(view(rank, silence_ms, None), SETTINGS);
            assert_eq!(decided, expected, "rank {rank}, {silence_ms} ms");
        }
    }

    #[test]
    fn once_all_have_had_the_time_the_last_of_them_has_taken_over() {
        for copies in [2, 3] {
            let silence_ms = u64::try_from(SETTINGS.takeover_by_any(copies).as_millis()).unwrap();
            assert!(takes_over(view(copies - 1, silence_ms - SETTINGS.tick_ms, None), SETTINGS));
        }
    }

    #[test]
    fn whom_the_owner_yields_to_does_not_wait_and_nobody_waits_for_ever() {
        assert!(takes_over(view(2, 0, Some("zombi-1")), SETTINGS));
        assert!(!takes_over(view(0, 3999, Some("zombi-2")), SETTINGS));
        assert!(takes_over(view(0, 4000, Some("zombi-2")), SETTINGS), "it may have died since");
    }
}
