//! zstd frames, one or several, with skippable frames between them.
//!
//! Frames stand for themselves, and where each ends is told by the headers of its blocks. So frames that are small
//! enough for the memory there is are collected whole and decompressed side by side: those of `pzstd`, of the seekable
//! format, of files that were put one behind the other. A larger frame goes through zstd's own stream decoder.

use std::io::{Cursor, ErrorKind, Read};

use zstd::stream::read::Decoder;
use zstd::zstd_safe::{DCtx, get_error_name};

use super::ZSTD_MAGIC;
use super::budget::Buffer;
use super::fault::Fault;
use super::input::Input;
use super::line::{self, Line, Step};
use super::output::Broken;
use super::streamed::Told;
use super::zstd_header::{BLOCK_HEADER_BYTES, BlockHeader, CHECKSUM_BYTES, FrameHeader, HEADER_MAX_BYTES, MAGIC_BYTES};
use crate::image::memory::MemoryLimit;

/// Made when the first frame comes.
pub(super) type Context = Option<DCtx<'static>>;

/// A whole frame.
pub(super) struct Piece {
    /// In the compressed stream.
    offset: u64,
    input: Buffer,
    /// Bytes of `input` that are used.
    filled: usize,
    output: Buffer,
}

impl Piece {
    pub(super) fn decompress(mut self, context: &mut Context) -> Result<Step, Fault> {
        let damaged = |text: &str| Fault::damage(self.offset, format!("zstd frame is damaged: {text}"));
        let context = match context {
            Some(context) => context,
            none => none.insert(DCtx::try_create().ok_or_else(|| damaged("no memory for its decoder"))?),
        };
        let frame = self.input.bytes().get(..self.filled).unwrap_or_default();
        let decompressed = context.decompress(self.output.bytes_mut(), frame);
        let bytes = decompressed.map_err(|code| damaged(get_error_name(code)))?;
        Ok(Step::Content { buffer: self.output, part: 0..bytes })
    }
}

pub(super) fn read(input: &mut Input<'_>, line: &mut Line<'_>, limit: MemoryLimit) -> Result<(), Fault> {
    // frames of one file are alike, and a buffer that fits from the beginning need not be copied into a larger one
    let mut usual_bytes = 0;
    while let Some(magic) = input.next_magic()? {
        if magic != ZSTD_MAGIC {
            return Err(input.no_frame("zstd", magic));
        }
        let offset = input.offset() - MAGIC_BYTES as u64;
        match Collected::new(usual_bytes).read(magic, input, line)? {
            Frame::Whole { input, filled, output } => {
                usual_bytes = filled;
                line.submit(line::Piece::Zstd(Piece { offset, input, filled, output }))?;
            }
            Frame::Begun(collected) => stream(collected.bytes(), input, line, limit)?,
        }
    }
    Ok(())
}

/// Decompresses a frame whose beginning has been read.
fn stream(begun: &[u8], input: &mut Input<'_>, line: &mut Line<'_>, limit: MemoryLimit) -> Result<(), Fault> {
    line.settle()?;
    let decoder = Decoder::with_buffer(Cursor::new(begun).chain(input.by_ref())).and_then(|mut decoder| {
        decoder.window_log_max(limit.zstd_window_log())?;
        Ok(decoder.single_frame())
    });
    let streamed = match decoder {
        Ok(decoder) => line.stream(&mut Told { decoder, limit }),
        Err(error) => Err(Broken::Reading(error)),
    };
    streamed.map_err(|broken| Fault::after(broken, input.offset()))
}

/// What could be collected of a frame.
enum Frame {
    Whole { input: Buffer, filled: usize, output: Buffer },
    Begun(Collected),
}

/// The beginning of a frame.
struct Collected {
    /// The magic number and the header; more once there is a buffer.
    header: [u8; HEADER_MAX_BYTES],
    buffer: Option<Buffer>,
    filled: usize,
    usual_bytes: usize,
}

impl Collected {
    fn new(usual_bytes: usize) -> Self {
        Self { header: [0; HEADER_MAX_BYTES], buffer: None, filled: 0, usual_bytes }
    }

    fn bytes(&self) -> &[u8] {
        let bytes = self.buffer.as_ref().map_or(&self.header[..], Buffer::bytes);
        bytes.get(..self.filled).unwrap_or_default()
    }

    /// Collects the frame behind `magic`. What is damaged, cut off or too large is not judged here but left to zstd.
    fn read(mut self, magic: [u8; MAGIC_BYTES], input: &mut Input<'_>, line: &mut Line<'_>) -> Result<Frame, Fault> {
        let Some(header) = self.read_header(magic, input)? else { return Ok(Frame::Begun(self)) };
        if header.needs_dictionary {
            let text = "zstd frame needs a dictionary, which is not supported: compress without one".to_owned();
            return Err(input.fault(ErrorKind::Unsupported, text));
        }
        let memory = line.memory();
        let is_large = header.window_bytes.max(header.content_bytes.unwrap_or(0)) > memory.piece_bytes();
        if memory.threads() < 2 || is_large {
            return Ok(Frame::Begun(self));
        }
        let Some(content_bytes) = self.read_blocks(&header, input, line)? else {
            return Ok(Frame::Begun(self));
        };
        let fits = self.filled as u64 + content_bytes <= memory.piece_bytes();
        let output = match usize::try_from(content_bytes) {
            Ok(bytes) if fits => line.buffer(bytes)?,
            _ => None,
        };
        match (self.buffer, output) {
            (Some(input), Some(output)) => Ok(Frame::Whole { input, filled: self.filled, output }),
            (buffer, _) => Ok(Frame::Begun(Self { buffer, ..self })),
        }
    }

    fn read_header(&mut self, magic: [u8; MAGIC_BYTES], input: &mut Input<'_>) -> Result<Option<FrameHeader>, Fault> {
        let Some((start, rest)) = self.header.split_first_chunk_mut() else { return Ok(None) };
        *start = magic;
        self.filled = MAGIC_BYTES;
        let [descriptor, rest @ ..] = rest else { return Ok(None) };
        self.filled += input.read_up_to(std::slice::from_mut(descriptor))?;
        let rest = rest.get_mut(..FrameHeader::length(*descriptor) - MAGIC_BYTES - 1).unwrap_or_default();
        self.filled += input.read_up_to(rest)?;
        Ok(FrameHeader::parse(self.bytes()))
    }

    /// Collects all blocks and the checksum. Returns the most content that the frame can have.
    fn read_blocks(
        &mut self,
        header: &FrameHeader,
        input: &mut Input<'_>,
        line: &mut Line<'_>,
    ) -> Result<Option<u64>, Fault> {
        let mut content_bytes = 0;
        loop {
            let start = self.filled;
            if !self.collect(BLOCK_HEADER_BYTES as u64, input, line)? {
                return Ok(None);
            }
            let block = self.bytes().get(start..).and_then(|bytes| bytes.try_into().ok()).and_then(BlockHeader::parse);
            let Some(block) = block else { return Ok(None) };
            if block.bytes.max(block.content_bytes.unwrap_or(0)) > header.block_bytes() {
                return Ok(None);
            }
            content_bytes += block.content_bytes.unwrap_or(header.block_bytes());
            let checksum = if block.is_last && header.checked { CHECKSUM_BYTES } else { 0 };
            if !self.collect(block.bytes + checksum as u64, input, line)? {
                return Ok(None);
            }
            if block.is_last {
                break;
            }
            if header.content_bytes.unwrap_or(content_bytes) > line.memory().piece_bytes() {
                return Ok(None);
            }
        }
        match header.content_bytes {
            Some(told) if told <= content_bytes => Ok(Some(told)),
            // zstd will say so
            Some(_) => Ok(None),
            None => Ok(Some(content_bytes)),
        }
    }

    /// Takes `bytes` more. False if there is no memory for them, or they are not there.
    fn collect(&mut self, bytes: u64, input: &mut Input<'_>, line: &mut Line<'_>) -> Result<bool, Fault> {
        let Ok(bytes) = usize::try_from(bytes) else { return Ok(false) };
        let end = self.filled + bytes;
        if end as u64 > line.memory().collected_bytes() || !self.make_room(end, line)? {
            return Ok(false);
        }
        let room = self.buffer.as_mut().and_then(|buffer| buffer.bytes_mut().get_mut(self.filled..end));
        let count = input.read_up_to(room.unwrap_or_default())?;
        self.filled += count;
        Ok(count == bytes)
    }

    /// Sees to a buffer of at least `bytes`.
    fn make_room(&mut self, bytes: usize, line: &mut Line<'_>) -> Result<bool, Fault> {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.bytes().len() >= bytes) {
            return Ok(true);
        }
        let usual_bytes = self.usual_bytes + self.usual_bytes / 16;
        let bytes = if bytes > usual_bytes { 2 * bytes } else { usual_bytes };
        let Some(mut larger) = line.buffer(bytes)? else { return Ok(false) };
        if let Some(room) = larger.bytes_mut().get_mut(..self.filled) {
            room.copy_from_slice(self.bytes());
        }
        self.buffer = Some(larger);
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
