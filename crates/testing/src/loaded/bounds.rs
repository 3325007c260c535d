//! How long clients may be without writes: at most twice what was measured on a quick machine, times the
//! factor by which this one is slower. What pods wait for by the clock, as an owner's silence, is the same on
//! all machines, so that a factor is generous where most of the time is that.

use std::time::Duration;

use crate::nats::NatsTrio;

/// Once a shard's owner is killed.
pub const OWNER_KILLED: Duration = Duration::from_secs(10);
/// Once it stands still; clients wait for it too.
pub const OWNER_FROZEN: Duration = Duration::from_secs(15);
/// Once a pod is told to stop, and hands over what it owns.
pub const POD_STOPPED: Duration = Duration::from_secs(2);
/// Once a server that leads a log ends, or stands still.
pub const LEADER_LOST: Duration = Duration::from_secs(12);
/// Once an owner and the leader of its log do so together.
pub const BOTH_LOST: Duration = Duration::from_secs(22);

/// How many entries are appended to see how quick a machine is, and what a quick one takes for them.
const APPENDS: u32 = 100;
const QUICK: Duration = Duration::from_millis(500);
/// The least factor: while tests run beside each other, none is as quick as when it was measured.
const LEAST_FACTOR: f64 = 2.0;

/// How many times longer than a quick machine this one may take.
pub(super) async fn machine_factor(servers: &NatsTrio) -> f64 {
    let time = servers.time_appends(APPENDS).await;
    let factor = (time.as_secs_f64() / QUICK.as_secs_f64()).max(LEAST_FACTOR);
    println!("{APPENDS} entries take {time:?}: bounds count {factor:.1} times");
    factor
}
