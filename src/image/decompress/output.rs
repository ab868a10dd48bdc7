//! Decompressed bytes on their way to the next stage, in chunks of its size.

use std::io::{self, Read};
use std::ops::Range;

use bytes::Bytes;

use super::budget::Buffer;
use crate::image::fill::fill;
use crate::image::queue::{CHUNK_BYTES, Gone, Pool};

/// Takes a chunk, and waits while the next stage has enough of them.
pub(super) type Emit<'a> = &'a mut dyn FnMut(Bytes) -> Result<(), Gone>;

pub(super) struct Output<'a> {
    emit: Emit<'a>,
    pool: Pool,
}

/// What went wrong between a reader and the next stage.
pub(super) enum Broken {
    Gone,
    Reading(io::Error),
}

impl<'a> Output<'a> {
    pub(super) fn new(emit: Emit<'a>) -> Self {
        Self { emit, pool: Pool::default() }
    }

    /// Sends a part of a buffer: the buffer itself in slices, or if that is not possible, copies.
    pub(super) fn send(&mut self, buffer: Buffer, part: Range<usize>) -> Result<(), Gone> {
        match buffer.lend(part.clone()) {
            Ok(mut bytes) => {
                while !bytes.is_empty() {
                    (self.emit)(bytes.split_to(bytes.len().min(CHUNK_BYTES)))?;
                }
                Ok(())
            }
            Err(buffer) => self.send_copies(buffer.bytes().get(part).unwrap_or_default()),
        }
    }

    fn send_copies(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        for piece in bytes.chunks(CHUNK_BYTES) {
            let mut chunk = self.pool.take();
            let Some(room) = chunk.get_mut(..piece.len()) else { return Err(Gone) };
            room.copy_from_slice(piece);
            (self.emit)(self.pool.share(chunk, piece.len()))?;
        }
        Ok(())
    }

    /// Sends all that a reader gives.
    pub(super) fn stream(&mut self, reader: &mut dyn Read) -> Result<(), Broken> {
        loop {
            let mut chunk = self.pool.take();
            let filled = fill(reader, &mut chunk).map_err(Broken::Reading)?;
            if filled == 0 {
                return Ok(());
            }
            (self.emit)(self.pool.share(chunk, filled)).map_err(|Gone| Broken::Gone)?;
        }
    }
}
