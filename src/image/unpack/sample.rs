//! A sample of the files written.
//!
//! Reservoir sampling: of any number of files each has the same chance to be among the [`FILES`] kept, and only
//! files that enter the sample are hashed, about `FILES × ln(all / FILES)` of them.

use super::read_back::{Identity, Written};

const FILES: usize = 64;

pub(super) struct Sample {
    /// By slot; free ones are not taken yet, or their file was removed.
    slots: Vec<Option<Written>>,
    seen: u64,
    random: SplitMix,
}

/// A place in the sample that a file takes, maybe from another.
pub(super) struct Slot(usize);

impl Sample {
    pub(super) fn new() -> Self {
        // without a random source a fixed sample is still a sample
        let random = SplitMix(getrandom::u64().unwrap_or(1));
        Self { slots: (0..FILES).map(|_| None).collect(), seen: 0, random }
    }

    /// Whether the next file enters.
    pub(super) fn draw(&mut self) -> Option<Slot> {
        let slot = match self.seen < FILES as u64 {
            true => self.seen,
            false => self.random.below(self.seen + 1),
        };
        self.seen += 1;
        usize::try_from(slot).ok().filter(|slot| *slot < FILES).map(Slot)
    }

    pub(super) fn keep(&mut self, Slot(slot): Slot, written: Written) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(written);
        }
    }

    pub(super) fn forget(&mut self, gone: Identity) {
        for slot in self.slots.iter_mut().filter(|slot| slot.as_ref().is_some_and(|kept| kept.identity == gone)) {
            *slot = None;
        }
    }

    pub(super) fn kept(&self) -> impl Iterator<Item = &Written> {
        self.slots.iter().flatten()
    }

    /// A random number from 0 to below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }
}

/// Steele, Lea and Flood's generator: small, and random enough to choose files.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(inode: u64) -> Written {
        let identity = Identity { device: 1, inode };
        Written { path: b"a".to_vec(), identity, offset: 0, bytes: 0, sha256: [0; 32] }
    }

    #[test]
    fn the_sample_stays_small_and_draws_from_all() {
        let mut sample = Sample::new();
        for inode in 0..10_000 {
            if let Some(slot) = sample.draw() {
                sample.keep(slot, written(inode));
            }
        }
        assert_eq!(sample.kept().count(), FILES);
        assert!(sample.kept().any(|kept| kept.identity.inode >= 5000), "2⁻⁶⁴ to fail");
    }

    #[test]
    fn files_written_at_the_same_time_take_different_slots() {
        let mut sample = Sample::new();
        let slots: Vec<Slot> = (0..FILES).filter_map(|_| sample.draw()).collect();
        slots.into_iter().zip(0..).for_each(|(slot, inode)| sample.keep(slot, written(inode)));
        assert_eq!(sample.kept().count(), FILES);
        sample.forget(Identity { device: 1, inode: 7 });
        assert_eq!(sample.kept().count(), FILES - 1);
    }
}
