//! Server-sent events out of a body that arrives in pieces, by the rules of the HTML standard.

use std::mem;

/// The longest event, and the longest line, that is kept.
const MAX_EVENT_BYTES: usize = 32 << 20;

/// What stands between two blank lines of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseItem {
    /// What kind of event it is; `message` if the stream does not say.
    pub name: String,
    /// Its data; none if there is only a place.
    pub data: Option<String>,
    /// The place after it, if it has one.
    pub id: Option<String>,
}

/// An event is longer than anybody would send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is over {MAX_EVENT_BYTES} bytes")]
pub struct EventTooLong;

/// Takes a stream apart.
#[derive(Debug, Default)]
pub struct SseParser {
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// Whether the last piece ended with a carriage return: a line feed behind it ends no second line.
    is_after_return: bool,
    has_begun: bool,
    name: String,
    data: Option<String>,
    id: Option<String>,
}

impl SseParser {
    /// Takes a piece, and hands what ends in it to `take`.
    ///
    /// # Errors
    /// [`EventTooLong`].
    pub fn feed(&mut self, mut piece: &[u8], mut take: impl FnMut(SseItem)) -> Result<(), EventTooLong> {
        if mem::take(&mut self.is_after_return) && piece.first() == Some(&b'\n') {
            piece = &piece[1..];
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', piece) {
            self.extend(&piece[..end])?;
            let line = mem::take(&mut self.line);
            self.end_line(&line, &mut take)?;
            let is_return = piece[end] == b'\r';
            piece = &piece[end + 1..];
            match piece.first() {
                Some(b'\n') if is_return => piece = &piece[1..],
                None => self.is_after_return = is_return,
                Some(_) => {}
            }
        }
        self.extend(piece)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        if self.line.len() + bytes.len() > MAX_EVENT_BYTES {
            return Err(EventTooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], take: &mut impl FnMut(SseItem)) -> Result<(), EventTooLong> {
        let line = match line.strip_prefix("\u{feff}".as_bytes()) {
            Some(rest) if !self.has_begun => rest,
            _ => line,
        };
        self.has_begun = true;
        if line.is_empty() {
            let item =
                SseItem { name: mem::take(&mut self.name), data: self.data.take(), id: self.id.take() };
            if item.data.is_some() || item.id.is_some() {
                let name = if item.name.is_empty() { "message".to_owned() } else { item.name };
                take(SseItem { name, ..item });
            }
            return Ok(());
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) if data.len() + value.len() >= MAX_EVENT_BYTES => return Err(EventTooLong),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // A comment, a time to wait that is the client's to choose, or what nobody knows.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(pieces: &[&[u8]]) -> Vec<SseItem> {
        let (mut parser, mut items) = (SseParser::default(), Vec::new());
        for piece in pieces {
            parser.feed(piece, |item| items.push(item)).unwrap();
        }
        items
    }

    fn item(name: &str, data: Option<&str>, id: Option<&str>) -> SseItem {
        SseItem { name: name.to_owned(), data: data.map(str::to_owned), id: id.map(str::to_owned) }
    }

    #[test]
    fn events_have_data_names_and_places() {
        let stream = "\u{feff}: hello\n\ndata: {\"a\":1}\nid: x\n\nevent: caught-up\r\nid:y\r\n\r\n\
                      data\rdata: two\rretry: 5\r\rid: z\n\ndata: cut off\n";
        let expected = [
            item("message", Some("{\"a\":1}"), Some("x")),
            item("caught-up", None, Some("y")),
            item("message", Some("\ntwo"), None),
            item("message", None, Some("z")),
        ];
        assert_eq!(items(&[stream.as_bytes()]), expected);
    }

    #[test]
    fn an_event_without_an_end_is_given_up() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; MAX_EVENT_BYTES / 4];
        let fed = (0..5).map(|_| parser.feed(&piece, |_| {})).collect::<Result<Vec<()>, _>>();
        assert_eq!(fed, Err(EventTooLong));
        let mut parser = SseParser::default();
        let line = [b"data: ", piece.as_slice(), b"\n"].concat();
        let fed = (0..5).map(|_| parser.feed(&line, |_| {})).collect::<Result<Vec<()>, _>>();
        assert_eq!(fed, Err(EventTooLong));
    }

    proptest! {
        #[test]
        fn wherever_pieces_end_the_events_are_the_same(
            text in "(data: a|id: 1|event: e|: c|\r|\n|\r\n|\n\n){0,20}",
            cuts in prop::collection::vec(0usize..200, 0..6),
        ) {
            let whole = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &whole[ends[0]..ends[1]]).collect();
            prop_assert_eq!(items(&pieces), items(&[whole]));
        }
    }
}
