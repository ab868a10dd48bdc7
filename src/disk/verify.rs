//! Reading back whether a disk is really empty.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::ops::Range;

use serde::Serialize;
use thiserror::Error;

use super::block::{AlignedBuffer, BlockDevice};

/// Size of one sample.
const SAMPLE_BYTES: u64 = 1 << 20;
/// Disks up to this are read whole.
const LEAST_BYTES: u64 = 64 << 20;
/// One percent of larger ones is.
const SHARE: u64 = 100;
/// Samples that are read before a method after which a disk may read as anything. A disk that does nothing, or leaves
/// out as little as one percent, is found by them (with 92 %).
const MOST_BEFORE: usize = 256;

/// What an erased sector may read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blank {
    Zeros,
    /// Flash that was erased by its own command may read as either.
    ZerosOrOnes,
    /// As before, or as anything but what it was: with a new key, old data is noise.
    Changed,
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
    #[error("stopped at offset {offset}")]
    Stopped { offset: u64 },
}

fn expected_text(expected: Blank) -> &'static str {
    match expected {
        Blank::Zeros => "zeros",
        Blank::ZerosOrOnes => "zeros or 0xff throughout",
        Blank::Changed => "anything but what was there before",
    }
}

/// How much was read, and as what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub bytes: u64,
    /// Places that were read, each of up to 1 MiB.
    pub places: u64,
    /// Of these, places of zeros, of 0xff, and of something else than before.
    pub zeros: u64,
    pub ones: u64,
    pub changed: u64,
}

/// What lay at some places before the erasure.
#[derive(Clone, Debug, Default)]
pub struct Before {
    hashes: BTreeMap<u64, u64>,
}

impl Before {
    /// Reads some of the places that [`verify`] will read with the same `known` and `seed`. Those that can't be read,
    /// as on a locked disk, are left out.
    pub fn read(device: &dyn BlockDevice, known: &[u64], seed: u64) -> Self {
        let places = samples(device.size_bytes(), known, seed);
        let step = places.len().div_ceil(MOST_BEFORE).max(1);
        let last = places.last().copied();
        let mut buffer = AlignedBuffer::zeroed(SAMPLE_BYTES as usize);
        let mut hashes = BTreeMap::new();
        for (offset, length) in places.into_iter().step_by(step).chain(last) {
            let sample = &mut buffer.as_mut_slice()[..length];
            if device.read_at(sample, offset).is_ok() {
                hashes.insert(offset, hash(sample));
            }
        }
        Self { hashes }
    }

    /// Without anything to compare with, nothing is known to have changed.
    fn has_changed(&self, sample: &[u8], offset: u64) -> bool {
        !self.hashes.is_empty() && self.hashes.get(&offset).is_none_or(|before| *before != hash(sample))
    }
}

fn hash(sample: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(sample);
    hasher.finish()
}

/// What and how to read back.
pub struct Check<'a> {
    pub expected: Blank,
    /// Places to read for certain: where old partitions began and ended.
    pub known: &'a [u64],
    /// For the places in between.
    pub seed: u64,
    pub before: &'a Before,
}

/// Reads both ends, the known places, and a random sample of one percent; small disks whole. `go_on` hears how many
/// bytes were read, and answers whether to.
pub fn verify(device: &dyn BlockDevice, check: &Check<'_>, go_on: &dyn Fn(u64) -> bool) -> Result<Verified, NotBlank> {
    let places = samples(device.size_bytes(), check.known, check.seed);
    verify_places(device, &places, check.expected, check.before, go_on)
}

/// Reads every byte of some ranges, which must be zeros.
pub fn verify_ranges(
    device: &dyn BlockDevice,
    ranges: &[Range<u64>],
    go_on: &dyn Fn(u64) -> bool,
) -> Result<Verified, NotBlank> {
    let cut = |range: &Range<u64>| {
        let end = range.end;
        let starts = (range.start..end).step_by(SAMPLE_BYTES as usize);
        starts.map(move |start| (start, (end - start).min(SAMPLE_BYTES) as usize)).collect::<Vec<_>>()
    };
    let places: Vec<(u64, usize)> = ranges.iter().flat_map(cut).collect();
    verify_places(device, &places, Blank::Zeros, &Before::default(), go_on)
}

fn verify_places(
    device: &dyn BlockDevice,
    places: &[(u64, usize)],
    expected: Blank,
    before: &Before,
    go_on: &dyn Fn(u64) -> bool,
) -> Result<Verified, NotBlank> {
    let mut buffer = AlignedBuffer::zeroed(SAMPLE_BYTES as usize);
    let mut verified = Verified::default();
    for (offset, length) in places.iter().copied() {
        let sample = &mut buffer.as_mut_slice()[..length];
        device.read_at(sample, offset).map_err(|source| NotBlank::Read { offset, length, source })?;
        match check(sample, offset, expected, before)? {
            Found::Zeros => verified.zeros += 1,
            Found::Ones => verified.ones += 1,
            Found::Changed => verified.changed += 1,
        }
        verified.places += 1;
        verified.bytes += length as u64;
        if !go_on(verified.bytes) {
            return Err(NotBlank::Stopped { offset });
        }
    }
    Ok(verified)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Zeros,
    Ones,
    Changed,
}

fn check(sample: &[u8], start: u64, expected: Blank, before: &Before) -> Result<Found, NotBlank> {
    let (filler, uniform) = match (expected, sample.first()) {
        (Blank::ZerosOrOnes | Blank::Changed, Some(0xff)) => (0xff, Found::Ones),
        (Blank::Zeros | Blank::ZerosOrOnes | Blank::Changed, _) => (0, Found::Zeros),
    };
    let Some(position) = sample.iter().position(|byte| *byte != filler) else { return Ok(uniform) };
    if expected == Blank::Changed && before.has_changed(sample, start) {
        return Ok(Found::Changed);
    }
    let found = &sample[position..sample.len().min(position + 16)];
    Err(NotBlank::Found { offset: start + position as u64, expected, found: hex::encode(found) })
}

/// Ranges in rising order, without overlaps. All lie on the grid of [`SAMPLE_BYTES`], so only the last can be shorter.
fn samples(size_bytes: u64, known: &[u64], seed: u64) -> Vec<(u64, usize)> {
    let count = size_bytes.div_ceil(SAMPLE_BYTES);
    // A sliver at the end does not count as a sample.
    let sliver = u64::from(!size_bytes.is_multiple_of(SAMPLE_BYTES));
    let budget = (size_bytes / SHARE).max(LEAST_BYTES).div_ceil(SAMPLE_BYTES) + sliver;
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
        assert_eq!(total(8 << 30), 82 << 20);
        assert_eq!(total(4 << 40), (4_u64 << 40).div_ceil(100).next_multiple_of(1 << 20));
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
        let none = Before::default();
        let mut sample = vec![0; 4096];
        sample[100] = 0x41;
        let error = check(&sample, 1 << 20, Blank::Zeros, &none).unwrap_err().to_string();
        assert_eq!(error, "at offset 1048676, expected zeros, found 41000000000000000000000000000000");
        assert_eq!(check(&[0xff; 512], 0, Blank::ZerosOrOnes, &none).unwrap(), Found::Ones);
        assert!(check(&[0xff; 512], 0, Blank::Zeros, &none).is_err());
    }

    #[test]
    fn noise_counts_as_changed_only_where_something_else_was_seen_before() {
        let (old, noise) = ([0x41; 512], [0x9d; 512]);
        let before = Before { hashes: BTreeMap::from([(0, hash(&old))]) };
        assert_eq!(check(&noise, 0, Blank::Changed, &before).unwrap(), Found::Changed);
        assert_eq!(check(&[0; 512], 0, Blank::Changed, &before).unwrap(), Found::Zeros);
        let error = check(&old, 0, Blank::Changed, &before).unwrap_err().to_string();
        assert!(error.starts_with("at offset 0, expected anything but what was there before, found 4141"), "{error}");
        assert!(check(&noise, 0, Blank::Changed, &Before::default()).is_err());
    }
}
