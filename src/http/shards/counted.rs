//! Counts the events in a stream that another pod answers: how many there were only its end shows, and a
//! client may leave before.

/// The forms of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamForm {
    /// An event a line; an empty line says nothing.
    Lines,
    /// Server-sent events. One with a name is none of the table's.
    Events,
}

/// Counts events, whatever pieces they come in.
pub(super) struct EventCounter {
    form: StreamForm,
    is_line_start: bool,
    /// Of the event that is coming: whether it has data, and whether it has a name.
    has_data: bool,
    has_name: bool,
}

impl EventCounter {
    /// At the beginning of a stream.
    pub(super) fn new(form: StreamForm) -> Self {
        Self { form, is_line_start: true, has_data: false, has_name: false }
    }

    /// How many events more there are by this piece.
    pub(super) fn count(&mut self, piece: &[u8]) -> u64 {
        let mut count = 0;
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.is_line_start {
                count += u64::from(self.is_one_more(line.first().copied().unwrap_or(b'\n')));
            }
            self.is_line_start = line.ends_with(b"\n");
        }
        count
    }

    /// Whether there is one more by a line that begins so: the line itself, or the event that it ends.
    fn is_one_more(&mut self, first: u8) -> bool {
        if self.form == StreamForm::Lines {
            return first != b'\n';
        }
        match first {
            b'd' => self.has_data = true,
            b'e' => self.has_name = true,
            b'\n' => {
                let is_one = self.has_data && !self.has_name;
                (self.has_data, self.has_name) = (false, false);
                return is_one;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_whatever_pieces_they_come_in() {
        let lines = "\n{\"a\":1}\n\n\n{\"a\":2}\n{\"a\":3}\n";
        let events = ": looking\n\ndata: {\"a\":1}\nid: x\n\nevent: caught-up\nid: y\ndata: {}\n\n\
                      : ping\nid: z\n\ndata: {\"a\":\ndata: 2}\n\nid: w\ndata: {\"event\":3}\n\n";
        for (form, text) in [(StreamForm::Lines, lines), (StreamForm::Events, events)] {
            for size in 1..=text.len() {
                let mut counter = EventCounter::new(form);
                let count: u64 = text.as_bytes().chunks(size).map(|piece| counter.count(piece)).sum();
                assert_eq!(count, 3, "{form:?} in pieces of {size}");
            }
        }
    }
}
