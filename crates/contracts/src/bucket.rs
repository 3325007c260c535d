//! What is known of the bucket, for people: it never decides whether requests are served.

use parking_lot::Mutex;

/// What is known of the bucket, for people.
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
    /// It is being opened.
    pub fn opening(&self) {
        *self.state.lock() = Bucket::Opening(None);
    }

    /// It is open.
    pub fn opened(&self) {
        *self.state.lock() = Bucket::Open(None);
    }

    /// Something is wrong with it; nothing is, if there is no text.
    pub fn troubled(&self, why: Option<String>) {
        match &mut *self.state.lock() {
            Bucket::None => {}
            Bucket::Opening(trouble) | Bucket::Open(trouble) => *trouble = why,
        }
    }

    /// What is wrong with it, if something is.
    pub fn trouble(&self) -> Option<String> {
        match &*self.state.lock() {
            Bucket::None => None,
            Bucket::Opening(trouble) | Bucket::Open(trouble) => trouble.clone(),
        }
    }

    /// What it is, in words.
    pub fn says(&self) -> &'static str {
        match &*self.state.lock() {
            Bucket::None => "none is configured",
            Bucket::Opening(_) => "it is being opened",
            Bucket::Open(_) => "open",
        }
    }

    /// Whether there is one.
    pub fn is_configured(&self) -> bool {
        !matches!(&*self.state.lock(), Bucket::None)
    }
}
