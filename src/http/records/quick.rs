//! Plain events as JSON in one pass. `None` means that a text is not plain, whatever is unusual or wrong in
//! it: `json` reads it then, and says what is wrong. Only another value where a number should be is refused
//! here, in the same words.

use super::{Charged, Headers, NewEvent, RecordParser, SentEvent};
#[cfg(any(test, feature = "fuzz"))]
use crate::http::memory::Share;
use crate::http::{
    error::Problem,
    json_body::{bad_json, no_whole_number},
    limits::Limits,
};
use contracts::{
    json::{JsonScanner, ValidJson},
    payload::Payload,
};

/// The fields of an event, each at most once and none `null`.
#[derive(Default)]
struct QuickEvent<'a> {
    payload: Option<ValidJson<'a>>,
    payload_base64: Option<&'a str>,
    partition: Option<i64>,
    timestamp_ms: Option<i64>,
    key: Option<&'a str>,
    idempotency_key: Option<&'a str>,
    headers: Option<Headers>,
    offset: Option<i64>,
    /// What stands where a number should be. Nothing behind it has been read.
    no_number: Option<ValidJson<'a>>,
}

impl RecordParser<'_> {
    /// Reads a text that is one event, of several at `place`.
    pub(super) fn quick_event(&self, text: &[u8], place: Option<u64>) -> Option<Result<NewEvent, Problem>> {
        let mut from = JsonScanner::new(text)?;
        let mut event = QuickEvent::default();
        if fields(&mut from, self.limits, &mut event).is_none() {
            return event.no_number.map(|value| Err(not_whole(text, value, from.left())));
        }
        if from.is_at_end() { self.of_quick(event, place) } else { None }
    }

    /// Reads a bulk write whose events are all good, and charges them one by one.
    pub(super) fn quick_bulk(&self, body: &[u8], charged: &mut Charged<'_>) -> Option<Vec<NewEvent>> {
        let mut from = JsonScanner::new(body)?;
        from.take(b'{')?;
        from.take(b'"')?;
        from.takes(b"records\":").then_some(())?;
        from.take(b'[')?;
        let mut events = Vec::new();
        loop {
            let index = events.len();
            self.count(index).ok()?;
            let mut event = QuickEvent::default();
            fields(&mut from, self.limits, &mut event)?;
            let new = self.of_quick(event, Some(index as u64))?.ok()?;
            charged.take(new.event.footprint()).ok()?;
            events.push(new);
            match from.token()? {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
        from.take(b'}')?;
        from.is_at_end().then_some(events)
    }

    #[inline]
    fn of_quick(&self, event: QuickEvent<'_>, place: Option<u64>) -> Option<Result<NewEvent, Problem>> {
        let payload = match (event.payload, event.payload_base64) {
            (Some(value), None) => Payload::scanned(value),
            (None, text) => Payload::from_json(None, text).ok()?,
            (Some(_), Some(_)) => return None,
        };
        Some(self.event(SentEvent {
            payload,
            partition: event.partition.map(i128::from),
            timestamp_ms: event.timestamp_ms.map(i128::from),
            key: event.key.map(str::to_owned),
            idempotency_key: event.idempotency_key.map(str::to_owned).or_else(|| self.key_at(place)),
            headers: event.headers.unwrap_or_default(),
        }))
    }
}

/// Reads the object that is an event.
fn fields<'a>(from: &mut JsonScanner<'a>, limits: &Limits, event: &mut QuickEvent<'a>) -> Option<()> {
    from.take(b'{')?;
    loop {
        from.take(b'"')?;
        if from.takes(b"payload\":") {
            put(&mut event.payload, from.value())?;
        } else if from.takes(b"timestamp_ms\":") {
            put_number(&mut event.timestamp_ms, from, &mut event.no_number)?;
        } else if from.takes(b"idempotency_key\":") {
            put(&mut event.idempotency_key, from.string())?;
        } else if from.takes(b"key\":") {
            put(&mut event.key, from.string())?;
        } else if from.takes(b"partition\":") {
            put_number(&mut event.partition, from, &mut event.no_number)?;
        } else if from.takes(b"headers\":") {
            put(&mut event.headers, headers(from, limits))?;
        } else if from.takes(b"payload_base64\":") {
            put(&mut event.payload_base64, from.string())?;
        } else if from.takes(b"offset\":") {
            put_number(&mut event.offset, from, &mut event.no_number)?;
        } else {
            return None;
        }
        match from.token()? {
            b',' => {}
            b'}' => return Some(()),
            _ => return None,
        }
    }
}

/// Sets a field that was not set before.
#[inline(always)]
fn put<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    match field.replace(value?) {
        None => Some(()),
        Some(_) => None,
    }
}

/// The same with the number that comes next. Keeps what comes instead, unless `json` may see a number in it.
#[inline(always)]
fn put_number<'a>(
    field: &mut Option<i64>,
    from: &mut JsonScanner<'a>,
    no_number: &mut Option<ValidJson<'a>>,
) -> Option<()> {
    let before = from.clone();
    let number = from.integer();
    if number.is_none() && field.is_none() {
        *from = before;
        *no_number =
            from.value().filter(|value| matches!(value.text(), [b'"' | b'{' | b'[' | b't' | b'f', ..]));
    }
    put(field, number)
}

/// The refusal of a value where a number should be, as serde says it. `left` is how much stands behind the
/// value; the place in the text is behind the brace that follows, if one does.
#[cold]
fn not_whole(text: &[u8], value: ValidJson<'_>, left: usize) -> Problem {
    let end = text.len() - left;
    let space = text[end..].iter().take_while(|byte| b" \n\t\r".contains(*byte)).count();
    let end = end + space;
    let end = end + usize::from(text.get(end) == Some(&b'}'));
    let line_start = memchr::memrchr(b'\n', &text[..end]).map_or(0, |place| place + 1);
    let line = 1 + memchr::memchr_iter(b'\n', &text[..line_start]).count();
    let value = String::from_utf8_lossy(value.text());
    bad_json(format!("{} at line {line} column {}", no_whole_number(&value), end - line_start))
}

/// Reads headers, no more of them and of their bytes than allowed.
fn headers(from: &mut JsonScanner<'_>, limits: &Limits) -> Option<Headers> {
    let (mut headers, mut bytes) = (Headers::new(), 0);
    from.take(b'{')?;
    if from.takes(b"}") {
        return Some(headers);
    }
    loop {
        let name = from.string()?;
        from.take(b':')?;
        let value = from.string()?;
        bytes += name.len() + value.len();
        if headers.len() == limits.record_headers || bytes > limits.record_bytes {
            return None;
        }
        if headers.insert(name.to_owned(), value.to_owned()).is_some() {
            return None;
        }
        match from.token()? {
            b',' => {}
            b'}' => return Some(headers),
            _ => return None,
        }
    }
}

#[cfg(any(test, feature = "fuzz"))]
impl RecordParser<'_> {
    /// Whether the quick way takes an event.
    ///
    /// # Panics
    /// If it makes something else of it than the other way.
    pub fn is_quick(&self, text: &[u8]) -> bool {
        let quick = self.quick_event(text, None);
        if let Some(quick) = &quick {
            let quick = quick.as_ref().map(Some);
            assert_eq!(format!("{quick:?}"), format!("{:?}", self.any_event(text, None)));
        }
        quick.is_some()
    }

    /// Whether the quick way takes a bulk write.
    ///
    /// # Panics
    /// If it makes something else of it than the other way, or charges its share otherwise. The shares begin
    /// alike.
    pub fn is_quick_bulk(&self, body: &[u8], shares: [&mut Share; 2]) -> bool {
        let [one, other] = shares;
        let quick = self.quick_bulk(body, &mut Charged::new(one, self.limits));
        let slow = self.any_bulk(body, Charged::new(other, self.limits));
        if let Some(quick) = &quick {
            assert_eq!(Some(quick), slow.as_ref().ok());
            assert_eq!(one.bytes(), other.bytes());
        }
        quick.is_some()
    }
}

#[cfg(test)]
mod tests;
