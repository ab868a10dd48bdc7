//! Runs of zeros, which are most of many an image, are not sent to the device.
//!
//! BLKZEROOUT makes them read as zeros whatever was there: by the device's own command where it has one, which takes
//! no time, else by the kernel writing zeros, which takes no more than sending them. A discard would be quicker on some
//! devices, and what they read as afterwards is theirs to decide.

use std::ops::Range;

use super::Target;
use crate::image::error::ImageError;
use crate::image::report::Counters;

/// Looked at as one; shorter runs are cheaper to send. Sectors of every size divide it.
const GRAIN_BYTES: usize = 64 << 10;
/// At most so much in one call, which can't be broken off.
const CALL_MAX_BYTES: u64 = 256 << 20;

static ZEROS: [u8; GRAIN_BYTES] = [0; GRAIN_BYTES];

/// Writes an image from front to back.
pub(super) struct Writer<'a> {
    target: &'a Target,
    counters: &'a Counters,
    /// Zeros that the device was not told of yet.
    pending: Range<u64>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(target: &'a Target, counters: &'a Counters) -> Self {
        Self { target, counters, pending: 0..0 }
    }

    /// `offset` and the length of `bytes` are multiples of a grain, but for the last of the image.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), ImageError> {
        for (zeros, range) in runs(bytes) {
            let (start, data) = (offset + range.start as u64, bytes.get(range).unwrap_or_default());
            if zeros {
                self.put_off(start..start + data.len() as u64)?;
            } else {
                self.settle()?;
                self.target.write(data, start)?;
            }
            Counters::add(&self.counters.bytes_out, data.len() as u64);
        }
        Ok(())
    }

    /// To be called at the end.
    pub(super) fn finish(mut self) -> Result<(), ImageError> {
        self.settle()
    }

    fn put_off(&mut self, range: Range<u64>) -> Result<(), ImageError> {
        if self.pending.end != range.start || self.pending.end - self.pending.start >= CALL_MAX_BYTES {
            self.settle()?;
            self.pending = range;
        } else {
            self.pending.end = range.end;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), ImageError> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        let length = pending.end - pending.start;
        self.target.zero(pending.start, length)?;
        Counters::add(&self.counters.bytes_zeroed, length);
        Ok(())
    }
}

/// Alternating runs: whether it is zeros, and where. A last grain that is not whole counts as data.
fn runs(bytes: &[u8]) -> Vec<(bool, Range<usize>)> {
    let mut runs: Vec<(bool, Range<usize>)> = Vec::new();
    let mut start = 0;
    for grain in bytes.chunks(GRAIN_BYTES) {
        // compared as memory, which is faster than byte by byte
        let zeros = grain == ZEROS;
        let end = start + grain.len();
        match runs.last_mut() {
            Some((same, range)) if *same == zeros => range.end = end,
            _ => runs.push((zeros, start..end)),
        }
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_found_grain_by_grain() {
        let mut bytes = vec![0; 6 * GRAIN_BYTES + 100];
        bytes[2 * GRAIN_BYTES] = 1;
        bytes[4 * GRAIN_BYTES - 1] = 1;
        let grain = GRAIN_BYTES;
        let expected = [
            (true, 0..2 * grain),
            (false, 2 * grain..4 * grain),
            (true, 4 * grain..6 * grain),
            (false, 6 * grain..6 * grain + 100),
        ];
        assert_eq!(runs(&bytes), expected);
        assert_eq!(runs(&[]), []);
    }
}
