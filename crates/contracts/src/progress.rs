//! How far a long piece of work has come, for people who wait for it.

use std::fmt;

use parking_lot::Mutex;

/// What is being done, told by who does it and shown by who is asked.
#[derive(Debug, Default)]
pub struct Progress(Mutex<ProgressStep>);

#[derive(Debug, Default, Clone)]
struct ProgressStep {
    what: &'static str,
    done: usize,
    of: usize,
    /// What keeps it from going on, if something does.
    trouble: Option<String>,
}

impl Progress {
    /// The next step begins, nobody knows how long it takes.
    pub fn begin(&self, what: &'static str) {
        self.begin_counted(what, 0);
    }

    /// The next step begins, and has so many parts.
    pub fn begin_counted(&self, what: &'static str, of: usize) {
        *self.0.lock() = ProgressStep { what, done: 0, of, trouble: None };
    }

    /// It does not go on for now, and why.
    pub fn trouble(&self, why: impl fmt::Display) {
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
