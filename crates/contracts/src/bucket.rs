//! The bucket's state as operators see it. It never decides whether requests are served.

use parking_lot::Mutex;

/// The bucket's state as operators see it.
#[derive(Debug, Default)]
pub struct BucketState {
    state: Mutex<Bucket>,
}

#[derive(Debug, Default)]
enum Bucket {
    #[default]
    None,
    /// Nothing here needs it now.
    Unneeded,
    Opening(Option<String>),
    Open(Option<String>),
}

impl BucketState {
    /// Opening has begun.
    pub fn opening(&self) {
        *self.state.lock() = Bucket::Opening(None);
    }

    /// The bucket is open.
    pub fn opened(&self) {
        *self.state.lock() = Bucket::Open(None);
    }

    /// Nothing here needs the bucket now: another pod owns the shard. What was wrong with it is forgotten, as
    /// nobody would find out that it has healed.
    pub fn unneeded(&self) {
        *self.state.lock() = Bucket::Unneeded;
    }

    /// Sets what is wrong with the bucket; `None` clears it. Ignored while no bucket is configured, or none
    /// is needed.
    pub fn set_trouble(&self, why: Option<String>) {
        match &mut *self.state.lock() {
            Bucket::None | Bucket::Unneeded => {}
            Bucket::Opening(trouble) | Bucket::Open(trouble) => *trouble = why,
        }
    }

    /// What is wrong with the bucket, if anything.
    pub fn trouble(&self) -> Option<String> {
        match &*self.state.lock() {
            Bucket::None | Bucket::Unneeded => None,
            Bucket::Opening(trouble) | Bucket::Open(trouble) => trouble.clone(),
        }
    }

    /// The state in words, as `/readyz?verbose` shows it.
    pub fn describe(&self) -> &'static str {
        match &*self.state.lock() {
            Bucket::None => "none is configured",
            Bucket::Unneeded => "no shard that this pod owns needs it",
            Bucket::Opening(_) => "it is being opened",
            Bucket::Open(_) => "open",
        }
    }

    /// How far several of them are together, in words: as far as the one that is least far, of those that are
    /// needed.
    pub fn describe_all<'a>(buckets: impl IntoIterator<Item = &'a Self>) -> &'static str {
        let states = buckets.into_iter().map(|bucket| {
            let rank = match &*bucket.state.lock() {
                Bucket::None | Bucket::Opening(_) => 0,
                Bucket::Open(_) => 1,
                Bucket::Unneeded => 2,
            };
            (rank, bucket.describe())
        });
        states.min_by_key(|(rank, _)| *rank).map_or("", |(_, state)| state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_nothing_needs_any_more_has_no_trouble() {
        let bucket = BucketState::default();
        assert_eq!(bucket.describe(), "none is configured");
        bucket.opening();
        bucket.set_trouble(Some("denied".to_owned()));
        assert_eq!(bucket.trouble().as_deref(), Some("denied"));
        bucket.unneeded();
        bucket.set_trouble(Some("too late".to_owned()));
        assert_eq!(bucket.trouble(), None);
        bucket.opening();
        assert_eq!((bucket.describe(), bucket.trouble()), ("it is being opened", None));
    }

    #[test]
    fn of_several_the_one_that_is_least_far_is_shown_and_of_none_that_is_needed_that() {
        let [one, other] = [BucketState::default(), BucketState::default()];
        let shown = || BucketState::describe_all([&one, &other]);
        one.unneeded();
        other.unneeded();
        assert_eq!(shown(), "no shard that this pod owns needs it");
        other.opened();
        assert_eq!(shown(), "open");
        one.opening();
        assert_eq!(shown(), "it is being opened");
    }
}
