//! From pieces of the compressed stream to chunks of the decompressed one, in order.

use std::hash::Hasher;
use std::io::{self, Read};
use std::ops::Range;

use twox_hash::XxHash32;

use super::budget::{Budget, Buffer};
use super::fault::Fault;
use super::lz4;
use super::ordered::Ordered;
use super::output::{Broken, Emit, Output};
use super::zstd_frames;
use crate::image::memory::DecoderMemory;

/// A part of the stream that is decompressed for itself.
pub(super) enum Piece {
    Lz4(lz4::Piece),
    Zstd(zstd_frames::Piece),
}

/// What a piece became, or a mark between two.
pub(super) enum Step {
    Content {
        buffer: Buffer,
        part: Range<usize>,
    },
    /// Content of a frame follows that is to be hashed.
    Hash,
    FrameEnd {
        /// In the compressed stream.
        offset: u64,
        checksum: Option<u32>,
        content_bytes: Option<u64>,
    },
}

/// What a thread keeps from piece to piece.
#[derive(Default)]
struct Tools {
    zstd: zstd_frames::Context,
}

fn decompress(tools: &mut Tools, piece: Piece) -> Result<Step, Fault> {
    match piece {
        Piece::Lz4(piece) => piece.decompress(&[]),
        Piece::Zstd(piece) => piece.decompress(&mut tools.zstd),
    }
}

/// Pieces go in at one end, and at the other content goes to the next stage.
pub(super) struct Line<'a> {
    budget: Budget,
    memory: DecoderMemory,
    pieces: Ordered<Tools, Piece, Result<Step, Fault>>,
    output: Output<'a>,
    frame: Frame,
}

/// The frame that leaves the line.
#[derive(Default)]
struct Frame {
    bytes: u64,
    hasher: Option<XxHash32>,
}

impl<'a> Line<'a> {
    pub(super) fn new(memory: DecoderMemory, emit: Emit<'a>) -> Self {
        Self {
            budget: Budget::new(memory.buffer_bytes(), memory.lent_bytes()),
            memory,
            pieces: Ordered::new(memory.threads(), decompress),
            output: Output::new(emit),
            frame: Frame::default(),
        }
    }

    pub(super) fn memory(&self) -> DecoderMemory {
        self.memory
    }

    /// A buffer of at least `bytes`. Waits for pieces before it that hold memory; `None` if it is too much even
    /// without them.
    pub(super) fn buffer(&mut self, bytes: usize) -> Result<Option<Buffer>, Fault> {
        loop {
            if let Some(buffer) = self.budget.buffer(bytes) {
                return Ok(Some(buffer));
            }
            if self.pieces.len() == 0 {
                return Ok(None);
            }
            self.deliver()?;
        }
    }

    /// Puts a piece into the line, and sends what is ready at its other end.
    pub(super) fn submit(&mut self, piece: Piece) -> Result<(), Fault> {
        self.pieces.submit(piece);
        self.deliver_ready()
    }

    /// As [`Line::submit`], for what is decompressed already.
    pub(super) fn push(&mut self, step: Result<Step, Fault>) -> Result<(), Fault> {
        self.pieces.push(step);
        self.deliver_ready()
    }

    /// Empties the line.
    pub(super) fn settle(&mut self) -> Result<(), Fault> {
        while self.pieces.len() > 0 {
            self.deliver()?;
        }
        Ok(())
    }

    /// Sends what a reader gives, on this thread alone. `offset` tells where that stands in the compressed stream.
    pub(super) fn stream(&mut self, reader: &mut dyn Read) -> Result<(), Broken> {
        self.budget.drop_spares();
        self.output.stream(reader)
    }

    /// Two pieces for each thread are enough: one at hand and one to follow.
    fn deliver_ready(&mut self) -> Result<(), Fault> {
        while self.pieces.is_ready() || self.pieces.len() > 2 * self.memory.threads() {
            self.deliver()?;
        }
        Ok(())
    }

    /// Sends the first piece in the line. After an error the line is empty.
    fn deliver(&mut self) -> Result<(), Fault> {
        let died = || Fault::Bad { offset: 0, source: io::Error::other("a thread that decompressed ended early") };
        let delivered = self.pieces.take().unwrap_or_else(|| Err(died())).and_then(|step| self.step(step));
        if delivered.is_err() {
            self.pieces.clear();
        }
        delivered
    }

    fn step(&mut self, step: Step) -> Result<(), Fault> {
        match step {
            Step::Content { buffer, part } => {
                self.frame.add(buffer.bytes().get(part.clone()).unwrap_or_default());
                Ok(self.output.send(buffer, part)?)
            }
            Step::Hash => {
                self.frame.hasher = Some(XxHash32::with_seed(0));
                Ok(())
            }
            Step::FrameEnd { offset, checksum, content_bytes } => {
                let frame = std::mem::take(&mut self.frame);
                frame.check(checksum, content_bytes).map_err(|text| Fault::damage(offset, text))
            }
        }
    }
}

impl Frame {
    fn add(&mut self, content: &[u8]) {
        self.bytes += content.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.write(content);
        }
    }

    fn check(self, checksum: Option<u32>, content_bytes: Option<u64>) -> Result<(), String> {
        if let Some(expected) = content_bytes
            && expected != self.bytes
        {
            return Err(format!("frame's content is {} bytes, its header says {expected}", self.bytes));
        }
        match (checksum, self.hasher.map(|hasher| hasher.finish_32())) {
            (Some(expected), Some(found)) if expected != found => {
                Err(format!("checksum of the frame's content is wrong: expected {expected:08x}, found {found:08x}"))
            }
            _ => Ok(()),
        }
    }
}
