//! LZ4 frames, one or several, with skippable frames between them.
//!
//! The frames are read here and the blocks by `lz4_flex`, whose own frame reader takes an end of input between two
//! blocks for the end of the frame, and knows one core only. Blocks that stand for themselves, as the tool `lz4`
//! makes them, are decompressed side by side; linked ones on the thread that reads.

mod header;
mod piece;

use std::io::ErrorKind;

use self::header::{Blocks, Header};
pub(super) use self::piece::Piece;
use self::piece::WINDOW_BYTES;
use super::fault::Fault;
use super::input::Input;
use super::line::{self, Line, Step};
use super::{LZ4_LEGACY_MAGIC, LZ4_MAGIC, is_skippable};

/// Blocks of `lz4 -l`: 8 MiB of content each but the last, and no frame around them.
const LEGACY: Blocks = Blocks { max_bytes: 8 << 20, linked: false, checked: false };
/// A word of so much is no size of such a block (`LZ4_COMPRESSBOUND` of lz4.h) but the next frame's magic number.
const LEGACY_MAX_BYTES: u32 = (8 << 20) + (8 << 20) / 255 + 16;

pub(super) fn read(input: &mut Input<'_>, line: &mut Line<'_>) -> Result<(), Fault> {
    let mut next = input.next_magic()?;
    while let Some(magic) = next {
        next = match magic {
            LZ4_MAGIC => {
                read_frame(input, line)?;
                input.next_magic()?
            }
            LZ4_LEGACY_MAGIC => read_legacy(input, line)?,
            other => return Err(input.no_frame("lz4", other)),
        };
    }
    Ok(())
}

fn read_frame(input: &mut Input<'_>, line: &mut Line<'_>) -> Result<(), Fault> {
    let header = Header::read(input)?;
    if header.checked {
        line.push(Ok(Step::Hash))?;
    }
    let mut run = Run { format: header.blocks, piece: None, history: Vec::new() };
    let blocks = run.read_blocks(input, line);
    // whatever follows, blocks before it come first
    run.submit(line)?;
    blocks?;
    let checksum = if header.checked { Some(input.read_u32("an lz4 frame's checksum")?) } else { None };
    line.push(Ok(Step::FrameEnd { offset: input.offset(), checksum, content_bytes: header.content_bytes }))
}

/// Returns the magic number of the frame behind it.
fn read_legacy(input: &mut Input<'_>, line: &mut Line<'_>) -> Result<Option<[u8; 4]>, Fault> {
    let mut run = Run { format: LEGACY, piece: None, history: Vec::new() };
    let next = loop {
        let mut word = [0; 4];
        match input.read_up_to(&mut word)? {
            0 => break None,
            4 => {}
            _ => return Err(input.fault(ErrorKind::UnexpectedEof, "stream ends inside an lz4 legacy frame".into())),
        }
        let size = u32::from_le_bytes(word);
        if size > LEGACY_MAX_BYTES {
            break Some(word);
        }
        run.read_block(size, false, input, line)?;
    };
    run.submit(line)?;
    line.push(Ok(Step::FrameEnd { offset: input.offset(), checksum: None, content_bytes: None }))?;
    match next {
        Some(magic) if is_skippable(magic) => {
            input.skip_frame()?;
            input.next_magic()
        }
        next => Ok(next),
    }
}

/// Blocks on their way into pieces.
struct Run {
    format: Blocks,
    piece: Option<Piece>,
    /// The last content of the frame, if its blocks are linked.
    history: Vec<u8>,
}

impl Run {
    fn read_blocks(&mut self, input: &mut Input<'_>, line: &mut Line<'_>) -> Result<(), Fault> {
        const STORED: u32 = 1 << 31;
        loop {
            let word = input.read_u32("an lz4 frame")?;
            if word == 0 {
                return Ok(());
            }
            let size = word & !STORED;
            if size as usize > self.format.max_bytes {
                let text = format!("lz4 block of {size} bytes, at most {} allowed", self.format.max_bytes);
                return Err(input.fault(ErrorKind::InvalidData, text));
            }
            self.read_block(size, word & STORED != 0, input, line)?;
        }
    }

    fn read_block(
        &mut self,
        size: u32,
        is_stored: bool,
        input: &mut Input<'_>,
        line: &mut Line<'_>,
    ) -> Result<(), Fault> {
        let bytes = size as usize;
        if self.piece.as_ref().is_some_and(|piece| !piece.has_room(bytes)) {
            self.submit(line)?;
        }
        let piece = match &mut self.piece {
            Some(piece) => piece,
            none => none.insert(Piece::new(self.format, bytes, input, line)?),
        };
        piece.read_block(bytes, is_stored, input)
    }

    fn submit(&mut self, line: &mut Line<'_>) -> Result<(), Fault> {
        let Some(piece) = self.piece.take() else { return Ok(()) };
        if !self.format.linked {
            return line.submit(line::Piece::Lz4(piece));
        }
        let step = piece.decompress(&self.history);
        if let Ok(Step::Content { buffer, part }) = &step {
            let window = part.end.saturating_sub(WINDOW_BYTES)..part.end;
            self.history.clear();
            self.history.extend_from_slice(buffer.bytes().get(window).unwrap_or_default());
        }
        line.push(step)
    }
}

#[cfg(test)]
mod tests;
