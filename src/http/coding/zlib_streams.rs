//! zlib streams in a row (RFC 1950), which is what `deflate` means in HTTP (RFC 9110 8.4.1.2).

use std::io::{self, BufRead, ErrorKind, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::input::Input;

/// Decodes a body of zlib streams.
pub struct ZlibStreams {
    decoder: Decompress,
    input: Input,
    /// Whether all of a stream has come, and nothing of the next.
    is_between: bool,
}

impl Default for ZlibStreams {
    fn default() -> Self {
        Self { decoder: Decompress::new(true), input: Input::default(), is_between: false }
    }
}

impl ZlibStreams {
    pub(super) fn input(&mut self) -> &mut Input {
        &mut self.input
    }
}

impl Read for ZlibStreams {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let coded = self.input.fill_buf()?;
            let has_ended = coded.is_empty();
            if self.is_between {
                if has_ended {
                    return Ok(0);
                }
                self.decoder.reset(true);
                self.is_between = false;
            }
            let (taken, given) = (self.decoder.total_in(), self.decoder.total_out());
            let status = self.decoder.decompress(coded, out, FlushDecompress::None);
            let status = status.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            let (taken, given) = (self.decoder.total_in() - taken, self.decoder.total_out() - given);
            self.input.consume(taken as usize);
            self.is_between = status == Status::StreamEnd;
            if given > 0 {
                return Ok(given as usize);
            }
            if has_ended && !self.is_between {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the last zlib stream is incomplete"));
            }
            if taken == 0 && !self.is_between {
                return Err(io::Error::new(ErrorKind::InvalidData, "the zlib stream makes no progress"));
            }
        }
    }
}
