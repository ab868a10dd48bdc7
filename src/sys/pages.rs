//! Memory straight from the kernel, and back to it.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Zeroed memory of a fixed length that is the process's only while it lives.
///
/// The allocator keeps what is freed, in a heap for each thread, so that large buffers of changing sizes make a process
/// grow beyond the sum of those it has. These do not.
pub struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is private to this value, and plain memory.
unsafe impl Send for Pages {}
// SAFETY: shared references only read.
unsafe impl Sync for Pages {}

impl Pages {
    /// Takes no memory before it is touched.
    pub fn zeroed(length: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, length }),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }
}

/// No memory at all.
impl Default for Pages {
    fn default() -> Self {
        Self { start: NonNull::dangling(), length: 0 }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is the beginning of `length` bytes that are mapped and zeroed, or dangling with none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the mapping has no other owner.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: the mapping is ours, and nothing refers to it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeroed_and_keep_what_is_written() {
        let mut pages = Pages::zeroed(10_000).unwrap();
        assert!(pages.len() == 10_000 && pages.iter().all(|byte| *byte == 0));
        pages[9999] = 7;
        let moved = std::thread::spawn(move || pages).join().unwrap();
        assert_eq!(moved[9999], 7);
        assert!(Pages::default().is_empty());
        assert!(Pages::zeroed(usize::MAX / 2).is_err());
    }
}
