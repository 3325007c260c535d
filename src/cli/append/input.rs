//! The input: a file or the standard input, read on a thread of its own and cut into lines. What has been
//! read and not yet been sent is bounded: the thread waits.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use flate2::read::MultiGzDecoder;
use tokio::sync::{mpsc, oneshot};

/// What is read at once.
const READ_BYTES: usize = 256 << 10;
/// The longest line; no server takes a longer one unless its settings say so.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Chunks that may wait to be sent.
const WAITING_CHUNKS: usize = 4;

/// A line of the input, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InputLine {
    /// From 1.
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
}

/// The lines that end in what was read at once.
#[derive(Debug)]
pub(super) struct InputChunk {
    pub(super) lines: Vec<InputLine>,
    /// Bytes of the file up to here; fewer than there are in the lines if it is compressed.
    pub(super) read: u64,
}

/// The input cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// The system or the decompression says so.
    #[error("line {line} cannot be read: {source}")]
    Read {
        /// The line that is incomplete.
        line: u64,
        source: io::Error,
    },
    /// A line has no end.
    #[error("line {0} is over {MAX_LINE_BYTES} bytes")]
    TooLong(u64),
    /// All of it is to be one event.
    #[error("the input is over {MAX_LINE_BYTES} bytes, which is too much for one event")]
    TooLarge,
}

/// An input that was found.
pub(super) struct OpenInput {
    reader: Box<dyn Read + Send>,
    bytes: Option<u64>,
    read: Arc<AtomicU64>,
}

impl OpenInput {
    /// Opens a file, or the standard input for `-`.
    ///
    /// # Errors
    /// What is wrong with the file, as a sentence.
    pub(super) fn open(path: &Path, decompresses: bool) -> Result<Self, String> {
        let read = Arc::new(AtomicU64::new(0));
        if path == Path::new("-") {
            return Ok(Self { reader: Box::new(io::stdin()), bytes: None, read });
        }
        let wrong = |error: io::Error| format!("{}: {error}", path.display());
        let file = File::open(path).map_err(wrong)?;
        let metadata = file.metadata().map_err(wrong)?;
        if metadata.is_dir() {
            return Err(format!("{}: it is a directory", path.display()));
        }
        let counted = CountedReader { inner: file, read: Arc::clone(&read) };
        let has_ending = |ending: &str| decompresses && path.extension().is_some_and(|found| found == ending);
        let reader: Box<dyn Read + Send> = if has_ending("zst") {
            Box::new(zstd::stream::read::Decoder::new(counted).map_err(wrong)?)
        } else if has_ending("gz") {
            Box::new(MultiGzDecoder::new(counted))
        } else {
            Box::new(counted)
        };
        Ok(Self { reader, bytes: metadata.is_file().then_some(metadata.len()), read })
    }

    /// The bytes of the file; none if nobody knows, as of a pipe.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Begins to read lines.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub(super) fn read_lines(self) -> io::Result<mpsc::Receiver<Result<InputChunk, InputError>>> {
        let (sender, receiver) = mpsc::channel(WAITING_CHUNKS);
        // Not one of the runtime's threads: it may wait in a read for ever, and dies with the process.
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            let mut cutter = LineCutter::default();
            if let Err(error) = cutter.run(self, &sender) {
                // Nobody waits for it any more where it cannot be sent.
                let _ = sender.blocking_send(Err(error));
            }
        })?;
        Ok(receiver)
    }

    /// Begins to read all of it as one.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub(super) fn read_whole(self) -> io::Result<oneshot::Receiver<Result<Vec<u8>, InputError>>> {
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            let mut whole = Vec::new();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let done = match self.reader.take(limit).read_to_end(&mut whole) {
                Ok(_) if whole.len() > MAX_LINE_BYTES => Err(InputError::TooLarge),
                Ok(_) => Ok(whole),
                Err(source) => Err(InputError::Read { line: 1, source }),
            };
            let _ = sender.send(done);
        })?;
        Ok(receiver)
    }
}

/// Counts what is read.
struct CountedReader<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for CountedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Cuts what is read into lines.
#[derive(Debug, Default)]
struct LineCutter {
    /// The beginning of a line whose end has not been read.
    rest: Vec<u8>,
    /// Lines so far.
    count: u64,
}

impl LineCutter {
    /// Reads to the end, or until nobody wants it any more.
    fn run(
        &mut self,
        mut input: OpenInput,
        sender: &mpsc::Sender<Result<InputChunk, InputError>>,
    ) -> Result<(), InputError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let (lines, is_end) = match input.reader.read(&mut buffer) {
                Ok(0) => (self.last().into_iter().collect(), true),
                Ok(length) => (self.cut(&buffer[..length])?, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(InputError::Read { line: self.count + 1, source }),
            };
            let chunk = InputChunk { lines, read: input.read.load(Ordering::Relaxed) };
            if sender.blocking_send(Ok(chunk)).is_err() || is_end {
                return Ok(());
            }
        }
    }

    /// The lines that end in a piece.
    fn cut(&mut self, mut piece: &[u8]) -> Result<Vec<InputLine>, InputError> {
        let mut lines = Vec::new();
        while let Some(end) = memchr::memchr(b'\n', piece) {
            self.extend(&piece[..end])?;
            lines.push(self.end_line());
            piece = &piece[end + 1..];
        }
        self.extend(piece)?;
        Ok(lines)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), InputError> {
        if self.rest.len() + bytes.len() > MAX_LINE_BYTES {
            return Err(InputError::TooLong(self.count + 1));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// What stands behind the last line's end, if anything does.
    fn last(&mut self) -> Option<InputLine> {
        (!self.rest.is_empty()).then(|| self.end_line())
    }

    fn end_line(&mut self) -> InputLine {
        self.count += 1;
        let mut bytes = std::mem::take(&mut self.rest);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if self.count == 1 && bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..3);
        }
        InputLine { number: self.count, bytes }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// All lines of an input.
    fn lines(input: OpenInput) -> Result<Vec<String>, String> {
        let (mut receiver, mut lines) = (input.read_lines().unwrap(), Vec::new());
        while let Some(chunk) = receiver.blocking_recv() {
            for line in chunk.map_err(|error| error.to_string())?.lines {
                assert_eq!(line.number, lines.len() as u64 + 1);
                lines.push(String::from_utf8(line.bytes).unwrap());
            }
        }
        Ok(lines)
    }

    fn of_bytes(bytes: &[u8]) -> OpenInput {
        let reader = Box::new(io::Cursor::new(bytes.to_vec()));
        OpenInput { reader, bytes: None, read: Arc::default() }
    }

    #[test]
    fn lines_end_with_line_feeds_and_perhaps_a_carriage_return() {
        for (text, expected) in [
            ("", vec![]),
            ("\n", vec![""]),
            ("a\nb", vec!["a", "b"]),
            ("a\r\n\r\nb\r\n", vec!["a", "", "b"]),
            ("\u{feff}a\n\u{feff}b\n", vec!["a", "\u{feff}b"]),
            ("a\rb", vec!["a\rb"]),
        ] {
            assert_eq!(lines(of_bytes(text.as_bytes())).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let text = [b"one\n".to_vec(), vec![b'x'; MAX_LINE_BYTES + 1]].concat();
        assert!(lines(of_bytes(&text)).unwrap_err().starts_with("line 2 is over "));
    }

    #[test]
    fn compressed_files_are_read_as_what_is_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let text: String = (0..10_000).map(|number| format!("{{\"n\":{number}}}\n")).collect();
        let gzip = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let (one, two) = text.as_bytes().split_at(5000);
        for (name, bytes) in [
            ("t.ndjson", text.clone().into_bytes()),
            ("t.ndjson.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
            ("t.ndjson.gz", [gzip(one), gzip(two)].concat()),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            let input = OpenInput::open(&path, true).unwrap();
            assert_eq!(input.bytes(), Some(bytes.len() as u64));
            assert_eq!(lines(input).unwrap().len(), 10_000, "{name}");
        }
        let broken = directory.path().join("broken.gz");
        std::fs::write(&broken, "no gzip at all").unwrap();
        let said = lines(OpenInput::open(&broken, true).unwrap()).unwrap_err();
        assert!(said.starts_with("line 1 cannot be read: "), "{said}");
        assert!(OpenInput::open(directory.path(), true).err().unwrap().contains("directory"));
        assert!(OpenInput::open(&directory.path().join("none"), true).is_err());
    }

    proptest! {
        #[test]
        fn wherever_pieces_end_the_lines_are_the_same(
            pieces in prop::collection::vec("[ab\r\n]{0,8}", 0..12),
        ) {
            let cut = |pieces: &[String]| {
                let (mut cutter, mut lines) = (LineCutter::default(), Vec::new());
                for piece in pieces {
                    lines.extend(cutter.cut(piece.as_bytes()).unwrap());
                }
                lines.extend(cutter.last());
                lines
            };
            prop_assert_eq!(cut(&pieces), cut(&[pieces.concat()]));
        }
    }
}
