//! What decoders read.

use std::io::{self, BufRead, ErrorKind, Read};

use bytes::{Buf, Bytes};

/// What has arrived of the coded body. Reading it blocks (`WouldBlock`) where more is to come.
#[derive(Debug, Default)]
pub struct Input {
    pub(super) bytes: Bytes,
    pub(super) has_ended: bool,
}

impl Read for Input {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.len().min(out.len());
        out[..count].copy_from_slice(&self.bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.has_ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
