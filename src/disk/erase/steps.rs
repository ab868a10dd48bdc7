//! Methods that go over the disk piece by piece.

use std::ops::Range;

use anyhow::{Context, Result};

use super::watch::Watch;
use crate::disk::block::{AlignedBuffer, BlockDevice};

/// One piece of work between two reports of progress: about a second on a hard disk.
const STEP_BYTES: u64 = 256 << 20;
/// One write when zeros are written by hand.
const CHUNK_BYTES: u64 = 4 << 20;

pub fn zero_out(device: &dyn BlockDevice, watch: &Watch<'_>) -> Result<()> {
    in_steps(device, watch, &|at, length| device.zero_out(at, length).with_context(|| piece(at, length)))
}

pub fn secure_discard(device: &dyn BlockDevice, watch: &Watch<'_>) -> Result<()> {
    in_steps(device, watch, &|at, length| device.secure_discard(at, length).with_context(|| piece(at, length)))
}

pub fn overwrite(device: &dyn BlockDevice, watch: &Watch<'_>) -> Result<()> {
    let zeros = AlignedBuffer::zeroed(CHUNK_BYTES as usize);
    in_steps(device, watch, &|start, length| write_zeros(device, &zeros, start, length))
}

/// Zeros in some ranges only, by whichever way the disk takes.
pub fn wipe_ranges(device: &dyn BlockDevice, ranges: &[Range<u64>], watch: &Watch<'_>) -> Result<()> {
    let zeros = AlignedBuffer::zeroed(CHUNK_BYTES as usize);
    for range in ranges {
        let length = range.end - range.start;
        device.zero_out(range.start, length).or_else(|_| write_zeros(device, &zeros, range.start, length))?;
        watch.erased(range.end)?;
    }
    Ok(())
}

fn in_steps(device: &dyn BlockDevice, watch: &Watch<'_>, step: &dyn Fn(u64, u64) -> Result<()>) -> Result<()> {
    let (size, mut at) = (device.size_bytes(), 0);
    while at < size {
        let length = STEP_BYTES.min(size - at);
        step(at, length)?;
        at += length;
        watch.erased(at)?;
    }
    Ok(())
}

/// An error names the piece that could not be written.
fn write_zeros(device: &dyn BlockDevice, zeros: &AlignedBuffer, start: u64, length: u64) -> Result<()> {
    let mut at = start;
    while at < start + length {
        // Less than a chunk, so it fits usize. The tail of the disk counts: there lie backups of tables.
        let part = CHUNK_BYTES.min(start + length - at);
        device.write_at(&zeros.as_slice()[..part as usize], at).with_context(|| piece(at, part))?;
        at += part;
    }
    Ok(())
}

fn piece(offset: u64, length: u64) -> String {
    format!("{length} bytes at offset {offset}")
}
