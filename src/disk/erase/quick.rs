//! Where tables, super blocks and key slots lie.

use std::ops::Range;

use super::super::device::DiskFacts;

/// From the beginning of a disk or partition. Holds GPT, MBR, md 1.1 and 1.2, the labels of LVM, the first two of ZFS, of
/// Ceph, and all of LUKS 1 and LUKS 2 with their key slots (16 MiB is where LUKS 2 begins its data).
const HEAD_BYTES: u64 = 16 << 20;
/// Up to the end. Holds the backup GPT, md 0.90 (in the last 128 KiB) and 1.0, the last two labels of ZFS, metadata of
/// firmware RAIDs (DDF, IMSM).
const TAIL_BYTES: u64 = 4 << 20;
/// A super block somewhere in between.
const BLOCK_BYTES: u64 = 1 << 20;
/// From the beginning: copies of btrfs' super block.
const BTRFS: [u64; 2] = [64 << 20, 256 << 30];
/// Ceph's BlueStore keeps copies of its label at 1, 10, 100 and 1000 GiB.
const CEPH: [u64; 4] = [1 << 30, 10 << 30, 100 << 30, 1000 << 30];

/// What is wiped, in rising order and without overlaps, on the grid of sectors.
pub fn signature_ranges(disk: &DiskFacts) -> Vec<Range<u64>> {
    let whole = 0..disk.size.0;
    let volumes = std::iter::once(whole).chain(disk.old_ranges());
    let sector = u64::from(disk.sector_bytes.max(1));
    let mut ranges: Vec<Range<u64>> = volumes.flat_map(|volume| ranges_of(&volume)).collect();
    for range in &mut ranges {
        *range = range.start / sector * sector..range.end.next_multiple_of(sector).min(disk.size.0);
    }
    merge(ranges)
}

fn ranges_of(volume: &Range<u64>) -> Vec<Range<u64>> {
    let Range { start, end } = *volume;
    let head = start..end.min(start.saturating_add(HEAD_BYTES));
    let tail = end.saturating_sub(TAIL_BYTES).max(start)..end;
    let between = BTRFS.into_iter().chain(CEPH).map(|offset| {
        let at = start.saturating_add(offset);
        at..at.saturating_add(BLOCK_BYTES).min(end)
    });
    [head, tail].into_iter().chain(between).filter(|range| range.start < range.end).collect()
}

fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_is_one_range_and_a_large_one_has_its_ends_and_copies() {
        assert_eq!(merge(ranges_of(&(0..10 << 20))).first(), Some(&(0..10 << 20)));
        let expected =
            [0..16 << 20, 64 << 20..65 << 20, 1 << 30..(1 << 30) + (1 << 20), (2 << 30) - (4 << 20)..2 << 30];
        assert_eq!(merge(ranges_of(&(0..2 << 30))), expected);
        assert_eq!(merge(ranges_of(&(0..0))), []);
    }

    #[test]
    fn overlaps_are_joined() {
        assert_eq!(merge(vec![5..7, 0..3, 3..4, 6..9]), [0..4, 5..9]);
    }
}
