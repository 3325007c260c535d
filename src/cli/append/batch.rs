//! Events that are sent together.

use super::{
    input::InputLine,
    keys::KeyRule,
    records::{Additions, BadLine, LineFormat, is_erased, write_record},
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
    /// Lines that were left out, of all batches.
    erased: u64,
}

impl BatchBuilder {
    pub(super) fn new(format: LineFormat, additions: Additions, keys: KeyRule) -> Self {
        Self { format, additions, keys, records: Vec::new(), bytes: 0, erased: 0 }
    }

    /// Adds the event of a line. A blank line is one only where lines are text; of an erased event nothing is
    /// left that could be sent.
    ///
    /// # Errors
    /// [`BadLine`].
    pub(super) fn push(&mut self, line: &InputLine) -> Result<(), BadLine> {
        let InputLine { number, bytes } = line;
        if self.format != LineFormat::Text && bytes.trim_ascii().is_empty() {
            return Ok(());
        }
        if self.format == LineFormat::Records && is_erased(bytes) {
            self.erased += 1;
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

    /// How many lines were left out.
    pub(super) fn erased(&self) -> u64 {
        self.erased
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

    #[test]
    fn erased_events_are_left_out_and_counted() {
        let mut records = builder(LineFormat::Records);
        for (number, text) in [
            r#"{"payload":null,"erased":true,"partition":0,"offset":0}"#,
            r#"{"payload":{"erased":true}}"#,
            r#"{"payload":1,"erased":false}"#,
        ]
        .into_iter()
        .enumerate()
        {
            records.push(&line(number as u64 + 1, text.as_bytes())).unwrap();
        }
        assert_eq!((records.erased(), records.take().len()), (1, 2));
        let mut json = builder(LineFormat::Json);
        json.push(&line(1, br#"{"erased":true}"#)).unwrap();
        assert_eq!((json.erased(), json.take().len()), (0, 1));
    }
}
