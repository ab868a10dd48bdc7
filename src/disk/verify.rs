//! Reading back whether a disk is really empty.

use std::collections::BTreeSet;
use std::io;

use serde::Serialize;
use thiserror::Error;

use super::block::{AlignedBuffer, BlockDevice};

/// Size of one sample.
const SAMPLE_BYTES: u64 = 1 << 20;
/// Disks up to this are read whole.
const LEAST_BYTES: u64 = 64 << 20;
/// A hundredth of a large disk would take longer than erasing it. 256 samples find a disk of which one percent was left
/// out with 92 %, and one that did nothing always.
const MOST_BYTES: u64 = 256 << 20;

/// What an erased sector may read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blank {
    Zeros,
    /// Flash that was erased by its own command may read as either.
    ZerosOrOnes,
}

#[derive(Debug, Error)]
pub enum NotBlank {
    #[error("at offset {offset}, expected {}, found {found}", expected_text(*.expected))]
    Found {
        /// Of the first byte that differs.
        offset: u64,
        expected: Blank,
        /// Up to 16 bytes in hex.
        found: String,
    },
    #[error("reading {length} bytes back at offset {offset}")]
    Read { offset: u64, length: usize, source: io::Error },
}

fn expected_text(expected: Blank) -> &'static str {
    match expected {
        Blank::Zeros => "zeros",
        Blank::ZerosOrOnes => "zeros or 0xff throughout",
    }
}

/// How much was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub bytes: u64,
}

/// Reads both ends, the places in `known` (where old partitions began), and a random sample; small disks whole.
pub fn verify(device: &dyn BlockDevice, expected: Blank, known: &[u64], seed: u64) -> Result<Verified, NotBlank> {
    let mut buffer = AlignedBuffer::zeroed(SAMPLE_BYTES as usize);
    let mut bytes = 0;
    for (offset, length) in samples(device.size_bytes(), known, seed) {
        let buffer = &mut buffer.as_mut_slice()[..length];
        device.read_at(buffer, offset).map_err(|source| NotBlank::Read { offset, length, source })?;
        check(buffer, offset, expected)?;
        bytes += length as u64;
    }
    Ok(Verified { bytes })
}

fn check(sample: &[u8], start: u64, expected: Blank) -> Result<(), NotBlank> {
    let filler = match (expected, sample.first()) {
        (Blank::ZerosOrOnes, Some(0xff)) => 0xff,
        (Blank::Zeros | Blank::ZerosOrOnes, _) => 0,
    };
    let Some(position) = sample.iter().position(|byte| *byte != filler) else { return Ok(()) };
    let found = &sample[position..sample.len().min(position + 16)];
    Err(NotBlank::Found { offset: start + position as u64, expected, found: hex::encode(found) })
}

/// Ranges in rising order, without overlaps. All lie on the grid of [`SAMPLE_BYTES`], so only the last can be shorter.
fn samples(size_bytes: u64, known: &[u64], seed: u64) -> Vec<(u64, usize)> {
    let count = size_bytes.div_ceil(SAMPLE_BYTES);
    // A sliver at the end does not count as a sample.
    let sliver = u64::from(!size_bytes.is_multiple_of(SAMPLE_BYTES));
    let budget = (size_bytes / 100).clamp(LEAST_BYTES, MOST_BYTES) / SAMPLE_BYTES + sliver;
    let mut chosen = BTreeSet::new();
    if count <= budget {
        chosen.extend(0..count);
    } else {
        // The last two, since the last may be a sliver.
        chosen.extend([0, count - 2, count - 1]);
        chosen.extend(known.iter().map(|offset| offset / SAMPLE_BYTES).filter(|index| *index < count));
        let wanted = chosen.len().max(usize::try_from(budget).unwrap_or(usize::MAX));
        let mut random = Random(seed);
        while chosen.len() < wanted {
            chosen.insert(random.next() % count);
        }
    }
    let range = |index: u64| {
        let offset = index * SAMPLE_BYTES;
        (offset, (size_bytes - offset).min(SAMPLE_BYTES) as usize)
    };
    chosen.into_iter().map(range).collect()
}

/// SplitMix64: good enough to spread samples, and the same on every machine for one seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_disks_are_read_whole_and_large_ones_by_sample() {
        let total = |size| samples(size, &[], 1).iter().map(|(_, length)| *length as u64).sum::<u64>();
        assert_eq!(total(0), 0);
        assert_eq!(total((60 << 20) + 512), (60 << 20) + 512);
        assert_eq!(total(8 << 30), 81 << 20);
        assert_eq!(total(4 << 40), 256 << 20);
    }

    #[test]
    fn samples_hold_both_ends_and_known_places() {
        let size = (10 << 30) + 4096;
        let ranges = samples(size, &[5 << 30, u64::MAX], 7);
        for place in [0, 5 << 30, size - 1] {
            let holds = |(offset, length): &(u64, usize)| (*offset..*offset + *length as u64).contains(&place);
            assert!(ranges.iter().any(holds), "{place}");
        }
        assert!(ranges.iter().all(|(offset, length)| offset + *length as u64 <= size));
        assert_ne!(ranges, samples(size, &[5 << 30, u64::MAX], 8), "the seed makes no difference");
    }

    #[test]
    fn one_wrong_byte_is_told_with_its_offset() {
        let mut sample = vec![0; 4096];
        sample[100] = 0x41;
        let error = check(&sample, 1 << 20, Blank::Zeros).unwrap_err().to_string();
        assert_eq!(error, "at offset 1048676, expected zeros, found 41000000000000000000000000000000");
        assert!(check(&[0xff; 512], 0, Blank::ZerosOrOnes).is_ok());
        assert!(check(&[0xff; 512], 0, Blank::Zeros).is_err());
    }
}
