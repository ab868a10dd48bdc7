//! How much memory an image may cost.
//!
//! Everything in the agent but the decoder takes a fixed amount; the decoder's window is what the image's maker chose.
//! So the limit decides which windows are taken, and an image with a larger one is refused before it costs anything.

use crate::sys::units::Bytes;

const MIB: u64 = 1 << 20;
/// Program, inventory, connections and the engine's queues: 22 MiB measured, and room.
const REST: u64 = 32 * MIB;
/// The least that leaves room for the window of `zstd -19`, 8 MiB.
const LEAST: u64 = 48 * MIB;

/// For all of the agent, at its peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit(Bytes);

impl Default for MemoryLimit {
    fn default() -> Self {
        Self(Bytes(64 * MIB))
    }
}

impl MemoryLimit {
    /// What a decoder may take.
    pub(super) fn decoder_bytes(self) -> u64 {
        self.0.0.saturating_sub(REST)
    }

    /// How the decoder's share is divided on a machine with so many cores.
    pub(super) fn decoder_memory(self, cores: usize) -> DecoderMemory {
        let bytes = self.decoder_bytes();
        // what a thread needs must leave it a piece to work on
        let threads = cores.min(usize::try_from(bytes / (2 * MIB)).unwrap_or(usize::MAX)).max(1);
        DecoderMemory { bytes, threads }
    }

    /// Log2 of the largest zstd window. Beside it the decoder has tables and two blocks of 128 KiB.
    pub(super) fn zstd_window_log(self) -> u32 {
        self.decoder_bytes().saturating_sub(MIB).max(1).ilog2()
    }
}

/// The decoder's share where pieces of a stream are decompressed side by side.
///
/// All of it but the threads' own goes to buffers: what is being read, compressed pieces that wait, decompressed
/// ones, those that the next stage holds, and spares. Who asks for a buffer when there is none left waits for pieces
/// that were begun earlier, so more cores find less work, not more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DecoderMemory {
    bytes: u64,
    threads: usize,
}

impl DecoderMemory {
    /// Stack that is touched, and a zstd context without a window (160 KiB).
    const THREAD: u64 = 256 << 10;

    /// Threads that decompress. With one, it is the stage's own.
    pub(super) fn threads(self) -> usize {
        self.threads
    }

    /// For all buffers.
    pub(super) fn buffer_bytes(self) -> usize {
        let threads = if self.threads > 1 { Self::THREAD * self.threads as u64 } else { 0 };
        usize::try_from(self.bytes.saturating_sub(threads)).unwrap_or(usize::MAX)
    }

    /// Of those, what the next stage may hold. Less than a half, so that there is always room for a piece beside it,
    /// and more than its queue, so that copies are seldom needed.
    pub(super) fn lent_bytes(self) -> usize {
        self.buffer_bytes() / 4
    }

    /// The largest zstd frame that is decompressed as one piece, compressed and decompressed: two must fit.
    pub(super) fn piece_bytes(self) -> u64 {
        self.buffer_bytes() as u64 / 2
    }

    /// The most that is collected of a frame of unknown length. If it is longer its decoder's window comes on top.
    pub(super) fn collected_bytes(self) -> u64 {
        self.buffer_bytes() as u64 / 5
    }
}

/// A number of MiB.
impl std::str::FromStr for MemoryLimit {
    type Err = NoMemoryLimit;

    fn from_str(text: &str) -> Result<Self, NoMemoryLimit> {
        let bytes = text.parse::<u64>().ok().and_then(|mib| mib.checked_mul(MIB));
        bytes.filter(|bytes| *bytes >= LEAST).map(|bytes| Self(Bytes(bytes))).ok_or(NoMemoryLimit)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number of MiB, 48 or more")]
pub struct NoMemoryLimit;

impl std::fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB", self.0.0 / MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tool `lz4` makes, and `pzstd -3` of what compresses to a third.
    #[test]
    fn the_default_is_enough_for_two_threads_and_usual_pieces() {
        let memory = MemoryLimit::default().decoder_memory(2);
        let buffers = memory.buffer_bytes() - memory.lent_bytes();
        assert_eq!(memory.threads(), 2);
        assert!(buffers >= (2 * (4 + 4)) << 20);
        assert!(memory.piece_bytes() >= 11 << 20);
    }

    #[test]
    fn the_sum_does_not_grow_with_the_cores() {
        for (text, threads) in [("48", 8), ("64", 16), ("1056", 64)] {
            let limit: MemoryLimit = text.parse().unwrap();
            let memory = limit.decoder_memory(64);
            assert_eq!(memory.threads(), threads);
            let sum = memory.buffer_bytes() as u64 + memory.threads() as u64 * DecoderMemory::THREAD;
            assert_eq!(sum, limit.decoder_bytes());
            // the largest blocks of lz4, which don't compress
            assert!(memory.buffer_bytes() - memory.lent_bytes() >= 8 << 20);
        }
        assert_eq!(MemoryLimit::default().decoder_memory(1).buffer_bytes(), 32 << 20);
    }

    #[test]
    fn windows_grow_with_the_limit() {
        let logs = ["48", "64", "168", "1056"].map(|text| text.parse::<MemoryLimit>().unwrap().zstd_window_log());
        assert_eq!(logs, [23, 24, 27, 29]);
        for text in ["47", "", "-64", "64MiB", "18446744073709551615"] {
            assert_eq!(text.parse::<MemoryLimit>(), Err(NoMemoryLimit), "{text}");
        }
        assert_eq!(MemoryLimit::default().to_string(), "64 MiB");
    }
}
