//! Telling the kernel to put on the disk what was written to a file.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

/// Begins to put a range of a file on its disk, bytes, and does not wait for it, but for room in the disk's queue
/// (`SYNC_FILE_RANGE_WRITE`, fs/sync.c).
pub fn begin_writing(file: impl AsFd, range: &Range<u64>) -> io::Result<()> {
    let offset = i64::try_from(range.start).map_err(io::Error::other)?;
    let bytes = i64::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the descriptor is open; nothing of ours is read or written.
    match unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, bytes, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
