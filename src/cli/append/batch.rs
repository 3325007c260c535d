//! Events that are sent together.

use super::{
    input::InputLine,
    keys::KeyRule,
    records::{Additions, BadLine, LineFormat, write_record},
};

/// Events and bytes of a batch, both well below what a server takes by default.
const MAX_EVENTS: usize = 5000;
const MAX_BYTES: usize = 1 << 20;

/// An event, as it is sent.
#[derive(Debug)]
pub(super) struct PreparedRecord {
    /// The number of its line.
    pub(super) line: u64,
    /// The bytes of its line.
    pub(super) bytes: u64,
    pub(super) json: Vec<u8>,
}

/// Makes batches.
#[derive(Debug)]
pub(super) struct BatchBuilder {
    format: LineFormat,
    additions: Additions,
    keys: KeyRule,
    records: Vec<PreparedRecord>,
    bytes: usize,
}

impl BatchBuilder {
    pub(super) fn new(format: LineFormat, additions: Additions, keys: KeyRule) -> Self {
        Self { format, additions, keys, records: Vec::new(), bytes: 0 }
    }

    /// Adds the event of a line. A blank line is one only where lines are text.
    ///
    /// # Errors
    /// [`BadLine`].
    pub(super) fn push(&mut self, line: &InputLine) -> Result<(), BadLine> {
        let InputLine { number, bytes } = line;
        if self.format != LineFormat::Text && bytes.trim_ascii().is_empty() {
            return Ok(());
        }
        let key = self.keys.choose(*number, bytes)?;
        let mut json = Vec::with_capacity(bytes.len() + 96);
        write_record(&mut json, self.format, bytes, &key, &self.additions)?;
        self.bytes += json.len() + 1;
        self.records.push(PreparedRecord { line: *number, bytes: bytes.len() as u64, json });
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= MAX_EVENTS || self.bytes >= MAX_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The batch, and begins the next.
    pub(super) fn take(&mut self) -> Vec<PreparedRecord> {
        self.bytes = 0;
        std::mem::take(&mut self.records)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn builder(format: LineFormat) -> BatchBuilder {
        let keys = KeyRule::new(Some("line"), Some("s"), Path::new("-")).unwrap();
        BatchBuilder::new(format, Additions::default(), keys)
    }

    fn line(number: u64, bytes: &[u8]) -> InputLine {
        InputLine { number, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_batch_is_full_by_events_or_by_bytes() {
        let mut by_events = builder(LineFormat::Text);
        for number in 1..=MAX_EVENTS as u64 {
            assert!(!by_events.is_full());
            by_events.push(&line(number, b"x")).unwrap();
        }
        assert!(by_events.is_full());
        assert_eq!(by_events.take().len(), MAX_EVENTS);
        assert!(by_events.is_empty() && !by_events.is_full());
        by_events.push(&line(1, &vec![b'x'; MAX_BYTES])).unwrap();
        assert!(by_events.is_full());
    }

    #[test]
    fn blank_lines_are_events_only_as_text() {
        for (format, count) in [(LineFormat::Text, 2), (LineFormat::Json, 0), (LineFormat::Records, 0)] {
            let mut builder = builder(format);
            builder.push(&line(1, b"")).unwrap();
            builder.push(&line(2, b" \t")).unwrap();
            assert_eq!(builder.take().len(), count, "{format:?}");
        }
    }
}
