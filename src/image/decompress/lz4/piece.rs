//! A run of LZ4 blocks that are decompressed together.

use std::io::ErrorKind;

use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use twox_hash::XxHash32;

use super::header::Blocks;
use crate::image::decompress::budget::Buffer;
use crate::image::decompress::fault::Fault;
use crate::image::decompress::input::Input;
use crate::image::decompress::line::{Line, Step};

/// A linked block refers to so much content before it.
pub(super) const WINDOW_BYTES: usize = 64 << 10;
/// Small blocks are taken together up to so much content, so that handing them over does not count.
const PIECE_BYTES: usize = 1 << 20;

pub(in crate::image::decompress) struct Piece {
    format: Blocks,
    input: Buffer,
    /// Bytes of `input` that are used.
    filled: usize,
    blocks: Vec<Block>,
    output: Buffer,
    /// Content that may be added to `output`.
    room: usize,
}

struct Block {
    /// In the compressed stream.
    offset: u64,
    bytes: usize,
    is_stored: bool,
    checksum: Option<u32>,
}

impl Piece {
    /// With room for a first block of `bytes`.
    pub(super) fn new(format: Blocks, bytes: usize, input: &Input<'_>, line: &mut Line<'_>) -> Result<Self, Fault> {
        let content = PIECE_BYTES.max(format.max_bytes);
        // few sizes, so that buffers fit again
        let compressed = if format.max_bytes < PIECE_BYTES { PIECE_BYTES } else { bytes.next_power_of_two() };
        let history = if format.linked { WINDOW_BYTES } else { 0 };
        let buffers = (line.buffer(compressed)?, line.buffer(history + content)?);
        let (Some(buffer), Some(output)) = buffers else {
            let text = format!("lz4 blocks of {} bytes need more memory than is allowed", format.max_bytes);
            return Err(input.fault(ErrorKind::OutOfMemory, text));
        };
        Ok(Self { format, input: buffer, filled: 0, blocks: Vec::new(), output, room: content })
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.room >= self.format.max_bytes && self.input.bytes().len() - self.filled >= bytes
    }

    /// Reads a block, which is behind the word that told its size. There must be room for it.
    pub(super) fn read_block(&mut self, bytes: usize, is_stored: bool, input: &mut Input<'_>) -> Result<(), Fault> {
        let offset = input.offset();
        let Some(room) = self.input.bytes_mut().get_mut(self.filled..self.filled + bytes) else {
            return Err(input.fault(ErrorKind::InvalidData, "lz4 block is larger than its frame allows".to_owned()));
        };
        input.read_all(room, "an lz4 block")?;
        let checksum = if self.format.checked { Some(input.read_u32("an lz4 block's checksum")?) } else { None };
        self.filled += bytes;
        self.room = self.room.saturating_sub(self.format.max_bytes);
        self.blocks.push(Block { offset, bytes, is_stored, checksum });
        Ok(())
    }

    /// `history` is content before this piece, up to a window; only linked blocks have any.
    pub(in crate::image::decompress) fn decompress(self, history: &[u8]) -> Result<Step, Fault> {
        let Self { format, input, blocks, mut output, .. } = self;
        let start = history.len();
        if let Some(room) = output.bytes_mut().get_mut(..start) {
            room.copy_from_slice(history);
        }
        let mut end = start;
        let mut rest = input.bytes();
        for block in &blocks {
            let (compressed, behind) = rest.split_at_checked(block.bytes).unwrap_or_default();
            rest = behind;
            let (before, room) = output.bytes_mut().split_at_mut_checked(end).unwrap_or_default();
            let room = room.get_mut(..format.max_bytes).unwrap_or_default();
            let window = if format.linked { before.get(end.saturating_sub(WINDOW_BYTES)..) } else { None };
            end += block.decompress(compressed, room, window).map_err(|text| Fault::damage(block.offset, text))?;
        }
        Ok(Step::Content { buffer: output, part: start..end })
    }
}

impl Block {
    /// Returns the bytes of content.
    fn decompress(&self, compressed: &[u8], room: &mut [u8], window: Option<&[u8]>) -> Result<usize, String> {
        if let Some(expected) = self.checksum {
            let found = XxHash32::oneshot(0, compressed);
            if found != expected {
                return Err(format!("checksum of an lz4 block is wrong: expected {expected:08x}, found {found:08x}"));
            }
        }
        if self.is_stored {
            let Some(room) = room.get_mut(..compressed.len()) else {
                return Err(format!("lz4 block has {} bytes, at most {} allowed", compressed.len(), room.len()));
            };
            room.copy_from_slice(compressed);
            return Ok(compressed.len());
        }
        let decompressed = match window {
            Some(window) => decompress_into_with_dict(compressed, room, window),
            None => decompress_into(compressed, room),
        };
        decompressed.map_err(|err| format!("lz4 block is damaged: {err}"))
    }
}
