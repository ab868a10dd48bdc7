//! Buffers for pieces of the stream, within a fixed sum whatever the number of threads.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::sys::pages::Pages;

/// Sizes are rounded up to an eighth of their power of two, and to this, so that buffers fit again.
const GRAIN_BYTES: usize = 64 << 10;

/// Hands out buffers. Clones share the sum.
#[derive(Clone)]
pub(super) struct Budget(Arc<Shared>);

struct Shared {
    total: usize,
    lent_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In buffers that someone has, those that are lent included.
    used: usize,
    /// In buffers that the next stage has.
    lent: usize,
    /// Buffers kept for the next who asks: new memory costs a page fault for each 4 KiB.
    spares: Vec<Pages>,
}

impl State {
    fn spare_bytes(&self) -> usize {
        self.spares.iter().map(|spare| spare.len()).sum()
    }

    /// The spare that fits best, if it is not much larger.
    fn take_spare(&mut self, size: usize) -> Option<Pages> {
        let fits = |spare: &&(usize, usize)| (size..=size + size / 2).contains(&spare.1);
        let sizes: Vec<(usize, usize)> = self.spares.iter().map(|spare| spare.len()).enumerate().collect();
        let (at, _) = sizes.iter().filter(fits).min_by_key(|(_, length)| *length)?;
        Some(self.spares.swap_remove(*at))
    }
}

impl Budget {
    /// `total` for all buffers, of which the next stage may hold `lent_max`.
    pub(super) fn new(total: usize, lent_max: usize) -> Self {
        Self(Arc::new(Shared { total, lent_max, state: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of at least `bytes`, with any bytes in it. `None` if that is too much beside those in use.
    pub(super) fn buffer(&self, bytes: usize) -> Option<Buffer> {
        if bytes > self.0.total {
            return None;
        }
        let size = rounded(bytes);
        let mut state = self.lock();
        let pages = match state.take_spare(size) {
            Some(spare) => spare,
            None => {
                if state.used + size > self.0.total {
                    return None;
                }
                while state.used + state.spare_bytes() + size > self.0.total && !state.spares.is_empty() {
                    state.spares.swap_remove(0);
                }
                Pages::zeroed(size).ok()?
            }
        };
        state.used += pages.len();
        drop(state);
        Some(Buffer { pages, lent: false, budget: self.clone() })
    }

    /// Gives back to the system what is not in use.
    pub(super) fn drop_spares(&self) {
        self.lock().spares.clear();
    }
}

fn rounded(bytes: usize) -> usize {
    let grain = (bytes.checked_next_power_of_two().unwrap_or(GRAIN_BYTES) / 8).max(GRAIN_BYTES);
    bytes.max(1).checked_next_multiple_of(grain).unwrap_or(bytes)
}

/// Returns to its budget when dropped.
pub(super) struct Buffer {
    pages: Pages,
    lent: bool,
    budget: Budget,
}

impl Buffer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.pages
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages
    }

    /// A part as bytes that others may hold. If they hold too much already the buffer comes back instead: then they
    /// are the slower ones, and a copy costs nothing that counts.
    pub(super) fn lend(mut self, part: Range<usize>) -> Result<Bytes, Self> {
        let mut state = self.budget.lock();
        if state.lent + self.pages.len() > self.budget.0.lent_max || part.end > self.pages.len() {
            drop(state);
            return Err(self);
        }
        state.lent += self.pages.len();
        drop(state);
        self.lent = true;
        Ok(Bytes::from_owner(self).slice(part))
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.pages
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let pages = std::mem::take(&mut self.pages);
        let mut state = self.budget.lock();
        state.used -= pages.len();
        if self.lent {
            state.lent -= pages.len();
        }
        if state.used + state.spare_bytes() + pages.len() <= self.budget.0.total {
            state.spares.push(pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_sum_is_kept_and_spares_make_room() {
        let budget = Budget::new(8 * MIB, 4 * MIB);
        let (one, two) = (budget.buffer(4 * MIB).unwrap(), budget.buffer(4 * MIB - 5).unwrap());
        assert!(budget.buffer(1).is_none());
        assert_eq!((one.bytes().len(), two.bytes().len()), (4 * MIB, 4 * MIB));
        drop(one);
        assert!(budget.buffer(4 * MIB).is_some(), "the same again");
        assert_eq!(budget.buffer(3 * MIB).map(|buffer| buffer.bytes().len()), Some(4 * MIB), "that spare, too");
        assert!(budget.buffer(MIB).is_some(), "another size");
        assert_eq!(budget.lock().spare_bytes(), MIB);
        assert!(budget.buffer(5 * MIB).is_none());
        assert!(budget.buffer(usize::MAX).is_none());
    }

    #[test]
    fn what_is_lent_has_a_limit_and_returns() {
        let budget = Budget::new(8 * MIB, 3 * MIB);
        let lent = budget.buffer(2 * MIB).unwrap().lend(5..9).ok().unwrap();
        assert_eq!((lent.len(), budget.lock().lent), (4, 2 * MIB));
        let refused = budget.buffer(2 * MIB).unwrap().lend(0..1).err().unwrap();
        let slice = lent.slice(1..2);
        drop(lent);
        assert_eq!(budget.lock().lent, 2 * MIB, "a part of it is held");
        drop(slice);
        assert_eq!(budget.lock().lent, 0);
        assert_eq!(budget.lock().used, 2 * MIB);
        drop(refused);
        assert_eq!(budget.lock().used, 0);
    }
}
