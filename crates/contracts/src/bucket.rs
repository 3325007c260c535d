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

    /// Sets what is wrong with the bucket; `None` clears it. Ignored while no bucket is configured.
    pub fn set_trouble(&self, why: Option<String>) {
        match &mut *self.state.lock() {
            Bucket::None => {}
            Bucket::Opening(trouble) | Bucket::Open(trouble) => *trouble = why,
        }
    }

    /// What is wrong with the bucket, if anything.
    pub fn trouble(&self) -> Option<String> {
        match &*self.state.lock() {
            Bucket::None => None,
            Bucket::Opening(trouble) | Bucket::Open(trouble) => trouble.clone(),
        }
    }

    /// The state in words, as `/readyz?verbose` shows it.
    pub fn describe(&self) -> &'static str {
        match &*self.state.lock() {
            Bucket::None => "none is configured",
            Bucket::Opening(_) => "it is being opened",
            Bucket::Open(_) => "open",
        }
    }

    /// Whether a bucket is configured.
    pub fn is_configured(&self) -> bool {
        !matches!(&*self.state.lock(), Bucket::None)
    }
}
