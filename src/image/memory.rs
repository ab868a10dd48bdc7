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

    /// Log2 of the largest zstd window. Beside it the decoder has tables and two blocks of 128 KiB.
    pub(super) fn zstd_window_log(self) -> u32 {
        self.decoder_bytes().saturating_sub(MIB).max(1).ilog2()
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
