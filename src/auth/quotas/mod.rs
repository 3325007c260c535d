//! What each principal has used of its quota, in this process. All clients of a principal share it.
//!
//! Rates are token buckets on tokio's clock. Requests and flushes are refused when their bucket is empty.
//! Bytes are counted after they have arrived, so their bucket may be overdrawn. Then bodies that have begun
//! are slowed down, and new ones are refused until the debt is paid.

mod bucket;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use self::bucket::TokenBucket;
use super::{
    policy::{Policy, Quota},
    principal::Principal,
};

/// Principals whose use is remembered.
const MAX_PRINCIPALS: usize = 10_000;
/// One in so many is forgotten when all of them are in use.
const FORGOTTEN_PART: usize = 10;
/// When to retry if other requests of the same principal hold everything: nobody knows how long they will.
const HOLD_WAIT: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A principal is over a quota. Nothing was taken from any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("over the quota {quota}")]
pub struct OverQuota {
    /// The quota: `requests`, `write_bytes`, `read_bytes`, `inflight`, `streams`, `flushes`, `tables`,
    /// `partitions` or `groups`.
    pub quota: &'static str,
    /// When to try again; at most a day.
    pub retry_after: Duration,
}

/// What all principals use. At most 10,000 are remembered; those that use nothing are forgotten first.
#[derive(Debug)]
pub struct Quotas {
    /// The least that a bucket of bytes holds, so that one whole body fits.
    body_bytes: u64,
    known: Mutex<KnownPrincipals>,
}

#[derive(Debug)]
struct KnownPrincipals {
    policy: Arc<Policy>,
    /// The number of the next usage.
    next: u64,
    usages: HashMap<Principal, Arc<Usage>>,
}

/// Whether a request uses it now.
fn is_at_work(usage: &Arc<Usage>) -> bool {
    Arc::strong_count(usage) > 1
}

impl Quotas {
    /// Nothing is used yet. `body_bytes` is the setting `limits.body_bytes`.
    pub fn new(policy: Arc<Policy>, body_bytes: u64) -> Self {
        let known = KnownPrincipals { policy, next: 0, usages: HashMap::new() };
        Self { body_bytes, known: Mutex::new(known) }
    }

    /// What a principal uses. Between requests keep no more than a [`Weak`](std::sync::Weak) of it, and that
    /// not for long: a principal without a request for a while may be forgotten, and then starts with full
    /// buckets.
    pub fn usage(&self, principal: &Principal) -> Arc<Usage> {
        let mut known = self.known.lock();
        let everybody = contracts::mutant("quota_of_each").then_some(Principal::Anonymous);
        let key = everybody.as_ref().unwrap_or(principal);
        if let Some(usage) = known.usages.get(key) {
            return Arc::clone(usage);
        }
        let now = Instant::now();
        if known.usages.len() >= MAX_PRINCIPALS {
            make_room(&mut known.usages, now);
        }
        let (number, quota) = (known.next, known.policy.quota(principal));
        known.next += 1;
        let usage = Arc::new(Usage::new(number, quota, self.body_bytes, now));
        known.usages.insert(key.clone(), Arc::clone(&usage));
        usage
    }

    /// What a request uses whose requests and bytes were counted elsewhere: only what it makes is limited.
    pub(crate) fn beyond(&self, principal: &Principal) -> Arc<Usage> {
        let usage = self.usage(principal);
        let Quota { tables, partitions, groups, .. } = usage.quota();
        let made = Quota { tables, partitions, groups, ..Quota::default() };
        Arc::new(Usage::new(usage.number(), made, self.body_bytes, Instant::now()))
    }

    /// Takes the quotas of another policy. What has been used stays used.
    pub fn adopt(&self, policy: Arc<Policy>) {
        let now = Instant::now();
        let mut known = self.known.lock();
        for (principal, usage) in &known.usages {
            usage.set_quota(policy.quota(principal), now);
        }
        known.policy = policy;
    }
}

/// Forgets the principals that use nothing, which makes no difference to them. If all use something, it
/// forgets a tenth: first those without a request now, by the time of their last one.
fn make_room(usages: &mut HashMap<Principal, Arc<Usage>>, now: Instant) {
    usages.retain(|_, usage| is_at_work(usage) || !usage.is_idle(now));
    if usages.len() < MAX_PRINCIPALS {
        return;
    }
    let rank = |(principal, usage): (&Principal, &Arc<Usage>)| {
        (is_at_work(usage), usage.levels.lock().asked, principal.clone())
    };
    let mut ranked: Vec<(bool, Instant, Principal)> = usages.iter().map(rank).collect();
    ranked.sort_unstable();
    for (_, _, principal) in ranked.iter().take(MAX_PRINCIPALS / FORGOTTEN_PART) {
        usages.remove(principal);
    }
}

/// What one principal uses.
#[derive(Debug)]
pub struct Usage {
    number: u64,
    levels: Mutex<UsageLevels>,
}

#[derive(Debug)]
struct UsageLevels {
    quota: Quota,
    /// When its last request came.
    asked: Instant,
    requests: TokenBucket,
    write_bytes: TokenBucket,
    read_bytes: TokenBucket,
    flushes: TokenBucket,
    inflight_bytes: u64,
    streams: u64,
}

impl Usage {
    fn new(number: u64, quota: Quota, body_bytes: u64, now: Instant) -> Self {
        let levels = Mutex::new(UsageLevels {
            quota,
            asked: now,
            requests: TokenBucket::new(SECOND, 1, now),
            write_bytes: TokenBucket::new(SECOND, body_bytes, now),
            read_bytes: TokenBucket::new(SECOND, body_bytes, now),
            flushes: TokenBucket::new(MINUTE, 1, now),
            inflight_bytes: 0,
            streams: 0,
        });
        let usage = Self { number, levels };
        usage.set_quota(quota, now);
        usage
    }

    fn set_quota(&self, quota: Quota, now: Instant) {
        let mut levels = self.levels.lock();
        levels.quota = quota;
        levels.requests.set_rate(quota.requests_per_sec, now);
        levels.write_bytes.set_rate(quota.write_bytes_per_sec, now);
        levels.read_bytes.set_rate(quota.read_bytes_per_sec, now);
        levels.flushes.set_rate(quota.flushes_per_min, now);
    }

    /// Whether forgetting it changes nothing.
    fn is_idle(&self, now: Instant) -> bool {
        let mut levels = self.levels.lock();
        let is_held = levels.inflight_bytes > 0 || levels.streams > 0;
        let levels = &mut *levels;
        let mut buckets =
            [&mut levels.requests, &mut levels.write_bytes, &mut levels.read_bytes, &mut levels.flushes];
        !is_held && buckets.iter_mut().all(|bucket| bucket.is_full(now))
    }

    /// The number of whoever uses it: no two principals have the same. One that was forgotten in between has
    /// another.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The quota now, for what is counted elsewhere: tables, partitions, groups.
    pub fn quota(&self) -> Quota {
        self.levels.lock().quota
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`OverQuota`] if there are too many a second.
    pub fn request(&self, now: Instant) -> Result<(), OverQuota> {
        if contracts::mutant("quota_requests") {
            return Ok(());
        }
        let mut levels = self.levels.lock();
        levels.asked = levels.asked.max(now);
        let taken = levels.requests.take(1, now);
        taken.map_err(|retry_after| OverQuota { quota: "requests", retry_after })
    }

    /// Counts a flush that a caller asks for, or a write that waits for one.
    ///
    /// # Errors
    /// [`OverQuota`] if there are too many a minute.
    pub fn flush(&self, now: Instant) -> Result<(), OverQuota> {
        if contracts::mutant("quota_flushes") {
            return Ok(());
        }
        let taken = self.levels.lock().flushes.take(1, now);
        taken.map_err(|retry_after| OverQuota { quota: "flushes", retry_after })
    }

    /// Counts bytes of a body that have come.
    ///
    /// Returns how long to wait before more are read; zero within the quota, and at most a day.
    pub fn pace_write(&self, bytes: u64) -> Duration {
        let wait = pace(&mut self.levels.lock().write_bytes, bytes);
        if contracts::mutant("quota_write_pace") { Duration::ZERO } else { wait }
    }

    /// Counts bytes of an answer.
    ///
    /// Returns how long to wait before more are sent; zero within the quota, and at most a day.
    pub fn pace_read(&self, bytes: u64) -> Duration {
        let wait = pace(&mut self.levels.lock().read_bytes, bytes);
        if contracts::mutant("quota_read_pace") { Duration::ZERO } else { wait }
    }

    /// Holds bytes of a body, before the first of them is read.
    ///
    /// # Errors
    /// [`OverQuota`] if earlier bodies came faster than they may and the time for it is not over, or if too
    /// many are held.
    pub fn begin_body(self: &Arc<Self>, bytes: u64) -> Result<QuotaHold, OverQuota> {
        let mut levels = self.levels.lock();
        let debt = pace(&mut levels.write_bytes, 0);
        of_debt("write_bytes", if contracts::mutant("quota_write_bytes") { Duration::ZERO } else { debt })?;
        levels.hold_inflight(bytes)?;
        drop(levels);
        Ok(QuotaHold { usage: Arc::clone(self), inflight_bytes: bytes, streams: 0 })
    }

    /// Asked before the first byte of an answer is made.
    ///
    /// # Errors
    /// [`OverQuota`] if earlier answers went faster than they may and the time for it is not over.
    pub fn read_debt(&self) -> Result<(), OverQuota> {
        if contracts::mutant("quota_read_bytes") {
            return Ok(());
        }
        of_debt("read_bytes", pace(&mut self.levels.lock().read_bytes, 0))
    }

    /// Holds the place of a long answer.
    ///
    /// # Errors
    /// [`OverQuota`] if there are too many.
    pub fn hold_stream(self: &Arc<Self>) -> Result<QuotaHold, OverQuota> {
        let mut levels = self.levels.lock();
        let most = levels.quota.streams.filter(|_| !contracts::mutant("quota_streams"));
        levels.streams =
            more(levels.streams, 1, most).ok_or(OverQuota { quota: "streams", retry_after: HOLD_WAIT })?;
        drop(levels);
        Ok(QuotaHold { usage: Arc::clone(self), inflight_bytes: 0, streams: 1 })
    }
}

impl UsageLevels {
    /// Holds bytes of a body that is being received or worked on.
    fn hold_inflight(&mut self, bytes: u64) -> Result<(), OverQuota> {
        let most = self.quota.inflight_bytes.filter(|_| !contracts::mutant("quota_inflight"));
        let held = more(self.inflight_bytes, bytes, most);
        self.inflight_bytes = held.ok_or(OverQuota { quota: "inflight", retry_after: HOLD_WAIT })?;
        Ok(())
    }
}

/// Takes bytes that have come or gone, and tells how long to wait. Without a rate nobody asks for the time.
fn pace(bucket: &mut TokenBucket, bytes: u64) -> Duration {
    if bucket.has_no_rate() { Duration::ZERO } else { bucket.overdraw(bytes, Instant::now()) }
}

/// What a hold comes to with more of it, unless that is over the quota.
fn more(held: u64, added: u64, most: Option<u64>) -> Option<u64> {
    let together = held.checked_add(added)?;
    (together <= most.unwrap_or(u64::MAX)).then_some(together)
}

fn of_debt(quota: &'static str, debt: Duration) -> Result<(), OverQuota> {
    if debt.is_zero() { Ok(()) } else { Err(OverQuota { quota, retry_after: debt }) }
}

/// What is held of a quota; dropping it gives it back.
#[derive(Debug)]
#[must_use = "what is dropped is not held"]
pub struct QuotaHold {
    usage: Arc<Usage>,
    inflight_bytes: u64,
    streams: u64,
}

impl QuotaHold {
    /// Holds at least so many bytes of a body from now on.
    ///
    /// # Errors
    /// [`OverQuota`] if too many would be held. What was held before still is.
    pub fn grow_to(&mut self, bytes: u64) -> Result<(), OverQuota> {
        let added = bytes.saturating_sub(self.inflight_bytes);
        if added == 0 {
            return Ok(());
        }
        self.usage.levels.lock().hold_inflight(added)?;
        self.inflight_bytes += added;
        Ok(())
    }
}

impl Drop for QuotaHold {
    fn drop(&mut self) {
        let mut levels = self.usage.levels.lock();
        if !contracts::mutant("quota_inflight_given_back") {
            levels.inflight_bytes -= self.inflight_bytes;
        }
        if !contracts::mutant("quota_streams_given_back") {
            levels.streams -= self.streams;
        }
    }
}
