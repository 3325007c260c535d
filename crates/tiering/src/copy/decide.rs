//! When a copy takes the shard over. Pure.

use std::time::Duration;

use crate::settings::CopySettings;

/// How much longer each copy waits than the one that ranks before it.
const RANK_WAIT: Duration = Duration::from_millis(500);

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
}

/// Whether it takes over now.
pub(super) fn takes_over(view: FollowerView<'_>, settings: CopySettings) -> bool {
    view.yielded_to == Some(view.pod) || view.silence >= settings.takeover() + RANK_WAIT * view.rank
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
        FollowerView { pod: "zombi-1", rank, silence: Duration::from_millis(silence_ms), yielded_to }
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
    fn whom_the_owner_yields_to_does_not_wait_and_nobody_waits_for_ever() {
        assert!(takes_over(view(2, 0, Some("zombi-1")), SETTINGS));
        assert!(!takes_over(view(0, 3999, Some("zombi-2")), SETTINGS));
        assert!(takes_over(view(0, 4000, Some("zombi-2")), SETTINGS), "it may have died since");
    }
}
