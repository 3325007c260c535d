//! The progress of long work, such as a recovery, for operators who wait for it.

use std::fmt;

use parking_lot::Mutex;

/// The current step, reported by the work itself and shown by probes.
#[derive(Debug, Default)]
pub struct Progress(Mutex<ProgressStep>);

#[derive(Debug, Default, Clone)]
struct ProgressStep {
    what: &'static str,
    done: usize,
    of: usize,
    /// What holds it up, if anything.
    trouble: Option<String>,
}

impl Progress {
    /// Begins the next step, of unknown length.
    pub fn begin(&self, what: &'static str) {
        self.begin_counted(what, 0);
    }

    /// Begins the next step, which has `of` parts.
    pub fn begin_counted(&self, what: &'static str, of: usize) {
        *self.0.lock() = ProgressStep { what, done: 0, of, trouble: None };
    }

    /// Says what holds up the current step; the next step clears it.
    pub fn set_trouble(&self, why: impl fmt::Display) {
        self.0.lock().trouble = Some(why.to_string());
    }

    /// One more part is done.
    pub fn advance(&self) {
        self.0.lock().done += 1;
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProgressStep { what, done, of, trouble } = self.0.lock().clone();
        match (trouble, of) {
            (Some(trouble), _) => write!(out, "{what}: {trouble}"),
            (None, 0) => out.write_str(what),
            (None, of) => write!(out, "{what}: {done} of {of}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_where_there_are_some() {
        let progress = Progress::default();
        progress.begin("looking");
        assert_eq!(progress.to_string(), "looking");
        progress.begin_counted("reading", 3);
        progress.advance();
        assert_eq!(progress.to_string(), "reading: 1 of 3");
    }
}
