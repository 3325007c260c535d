//! Lines out of a body that arrives in pieces.

/// Splits pieces into lines. Only the beginning of a line that goes on in the next piece is copied.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    /// The beginning of a line whose end has not arrived.
    rest: Vec<u8>,
    /// Whether what comes up to the next line break is dropped.
    is_dropping: bool,
}

impl LineSplitter {
    /// Hands every line that ends in `piece` to `take`, without its line break.
    ///
    /// # Errors
    /// The first of `take`. What follows that line in the piece is dropped then.
    pub(super) fn split<E>(
        &mut self,
        mut piece: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.is_dropping {
            let Some(end) = memchr::memchr(b'\n', piece) else { return Ok(()) };
            piece = &piece[end + 1..];
            self.is_dropping = false;
        }
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let line = &piece[..end];
            if self.rest.is_empty() {
                take(line)?;
            } else {
                self.rest.extend_from_slice(line);
                take(&self.take_rest())?; // freed with the line: one long line leaves no large buffer behind
            }
            piece = &piece[end + 1..];
        }
        self.rest.extend_from_slice(piece);
        Ok(())
    }

    /// Drops the line whose end has not arrived, and what is still to come of it.
    pub(super) fn drop_rest(&mut self) {
        self.rest = Vec::new();
        self.is_dropping = true;
    }

    /// How many bytes of a line have arrived without its end.
    pub(super) fn rest_bytes(&self) -> usize {
        self.rest.len()
    }

    /// What stands behind the last line break.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_end_at_line_breaks_wherever_pieces_end() {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for piece in ["a", "b\n\nc\r\nd", "", "e", "f\n", "g"] {
            let Ok(()) = splitter.split::<Infallible>(piece.as_bytes(), |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            });
        }
        assert_eq!(lines, ["ab", "", "c\r", "def"]);
        assert_eq!((splitter.rest_bytes(), splitter.take_rest()), (1, b"g".to_vec()));
        assert_eq!(splitter.rest_bytes(), 0);
    }

    #[test]
    fn after_an_error_no_line_is_taken_and_nothing_is_kept() {
        let mut splitter = LineSplitter::default();
        splitter.split(b"a", |_| Err(())).unwrap();
        let mut taken = Vec::new();
        let error = splitter.split(b"b\nc\nd", |line| {
            taken.push(line.to_vec());
            Err("bad")
        });
        assert_eq!((error, taken), (Err("bad"), vec![b"ab".to_vec()]));
        assert_eq!(splitter.rest_bytes(), 0);
    }

    #[test]
    fn a_line_that_is_dropped_is_dropped_up_to_its_end() {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for piece in ["a\nbb", "bb", "bb\nc", "\n", "d"] {
            let Ok(()) = splitter.split::<Infallible>(piece.as_bytes(), |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            });
            if piece == "a\nbb" || piece == "d" {
                splitter.drop_rest();
            }
        }
        assert_eq!((lines, splitter.take_rest()), (vec!["a".to_owned(), "c".to_owned()], vec![]));
    }

    proptest! {
        #[test]
        fn pieces_make_the_lines_of_the_whole(pieces in prop::collection::vec("[ab\n]{0,12}", 0..20)) {
            let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
            for piece in &pieces {
                let Ok(()) = splitter.split::<Infallible>(piece.as_bytes(), |line| {
                    lines.push(line.to_vec());
                    Ok(())
                });
            }
            lines.push(splitter.take_rest());
            let whole = pieces.concat();
            let expected: Vec<&str> = whole.split('\n').collect();
            prop_assert_eq!(lines, expected.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
        }
    }
}
