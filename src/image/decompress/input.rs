//! The compressed stream, with the place where it stands.

use std::io::{self, BufRead, ErrorKind, Read};

use super::fault::Fault;
use super::is_skippable;
use crate::image::fill::fill;

pub(super) struct Input<'a> {
    reader: &'a mut dyn BufRead,
    offset: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead) -> Self {
        Self { reader, offset: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `bytes` if there are so many. Returns how many there were.
    pub(super) fn read_up_to(&mut self, bytes: &mut [u8]) -> Result<usize, Fault> {
        fill(self, bytes).map_err(|err| Fault::new(self.offset, err))
    }

    /// Fills `bytes`, which are of `what`.
    pub(super) fn read_all(&mut self, bytes: &mut [u8], what: &str) -> Result<(), Fault> {
        match self.read_up_to(bytes)? == bytes.len() {
            true => Ok(()),
            false => Err(self.cut_off(what)),
        }
    }

    pub(super) fn read_u32(&mut self, what: &str) -> Result<u32, Fault> {
        let mut word = [0; 4];
        self.read_all(&mut word, what)?;
        Ok(u32::from_le_bytes(word))
    }

    /// The magic number of the next frame with content, `None` at the end of the stream.
    pub(super) fn next_magic(&mut self) -> Result<Option<[u8; 4]>, Fault> {
        loop {
            let mut magic = [0; 4];
            match self.read_up_to(&mut magic)? {
                0 => return Ok(None),
                4 if is_skippable(magic) => self.skip_frame()?,
                4 => return Ok(Some(magic)),
                _ => return Err(self.cut_off("a frame's magic number")),
            }
        }
    }

    /// What is behind the magic number of a skippable frame.
    pub(super) fn skip_frame(&mut self) -> Result<(), Fault> {
        const WHAT: &str = "a skippable frame";
        let length = u64::from(self.read_u32(WHAT)?);
        let skipped = io::copy(&mut self.by_ref().take(length), &mut io::sink());
        match skipped.map_err(|err| Fault::new(self.offset, err))? == length {
            true => Ok(()),
            false => Err(self.cut_off(WHAT)),
        }
    }

    fn cut_off(&self, what: &str) -> Fault {
        self.fault(ErrorKind::UnexpectedEof, format!("stream ends inside {what}"))
    }

    /// Something is wrong here.
    pub(super) fn fault(&self, kind: ErrorKind, text: String) -> Fault {
        Fault::new(self.offset, io::Error::new(kind, text))
    }

    pub(super) fn no_frame(&self, format: &str, magic: [u8; 4]) -> Fault {
        let text = format!("no {format} frame where one should follow: found {}", hex::encode(magic));
        self.fault(ErrorKind::InvalidData, text)
    }
}

impl Read for Input<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(bytes)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.reader.consume(count);
        self.offset += count as u64;
    }
}
