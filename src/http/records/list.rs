//! Events in a JSON array, whichever form each has.

use std::fmt;

use serde::{
    Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Charged, NewEvent, RecordParser};
use crate::http::{
    error::Problem,
    json_body::{self, Stopped},
};

impl RecordParser<'_> {
    /// The events of an array, one by one: `read` makes one of an element and its place. `expected` says what
    /// the array should be. There may be none.
    ///
    /// # Errors
    /// Those of `read`, 413 and 503, with the `index` of the event; 400 for anything but an array.
    pub(super) fn event_list(
        &self,
        array: &RawValue,
        expected: &'static str,
        charged: Charged<'_>,
        read: impl FnMut(&RawValue, usize) -> Result<NewEvent, Problem>,
    ) -> Result<Vec<NewEvent>, Problem> {
        json_body::part(array, |from, stopped| {
            from.deserialize_seq(EventsVisitor { parser: self, expected, charged, stopped, read })
        })
    }
}

struct EventsVisitor<'a, 'b, F> {
    parser: &'a RecordParser<'a>,
    expected: &'static str,
    charged: Charged<'b>,
    stopped: &'a Stopped,
    read: F,
}

impl<'de, F> Visitor<'de> for EventsVisitor<'_, '_, F>
where
    F: FnMut(&RawValue, usize) -> Result<NewEvent, Problem>,
{
    type Value = Vec<NewEvent>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expected)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Vec<NewEvent>, A::Error> {
        let mut events = Vec::new();
        while let Some(element) = list.next_element::<&RawValue>()? {
            let index = events.len();
            let event = self.parser.count(index).and_then(|()| (self.read)(element, index));
            let charged = event.and_then(|new| self.charged.take(new.event.footprint()).map(|()| new));
            match charged {
                Ok(new) => events.push(new),
                Err(problem) => return Err(self.stopped.by(problem.at_index(index))),
            }
        }
        Ok(events)
    }
}
