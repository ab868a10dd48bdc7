//! ioctls of block devices (`include/uapi/linux/fs.h`). All lengths and offsets are bytes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

mod raw {
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_write_ptr_bad!(blksecdiscard, nix::request_code_none!(0x12, 125), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
}

/// Capacity in bytes.
pub fn size_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // The kernel writes a u64 although the request code says size_t; on 64 bit both are the same.
    const { assert!(size_of::<usize>() == size_of::<u64>()) };
    let mut size = 0_usize;
    // SAFETY: the descriptor is open and `size` has the eight bytes that the kernel writes.
    unsafe { raw::blkgetsize64(fd.as_raw_fd(), &raw mut size) }?;
    Ok(size as u64)
}

/// Logical sector size in bytes.
pub fn sector_bytes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut size = 0;
    // SAFETY: the descriptor is open and `size` is the int that the kernel writes.
    unsafe { raw::blksszget(fd.as_raw_fd(), &raw mut size) }?;
    u32::try_from(size).map_err(io::Error::other)
}

/// Makes the kernel read the partition table anew; EBUSY while a partition is in use.
pub fn reread_partitions(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open; the request has no argument.
    unsafe { raw::blkrrpart(fd.as_raw_fd()) }?;
    Ok(())
}

/// Writes what is cached and forgets it, so that the next read comes from the medium.
pub fn flush_buffers(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open; the request has no argument.
    unsafe { raw::blkflsbuf(fd.as_raw_fd()) }?;
    Ok(())
}

/// Makes a range read as zeros, by the device's own command if it has one, else by the kernel writing zeros.
pub fn zero_out(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open; the kernel reads two u64.
    unsafe { raw::blkzeroout(fd.as_raw_fd(), &[offset, length]) }?;
    Ok(())
}

/// Tells the device that a range is no longer needed. What it then reads as is the device's own decision.
pub fn discard(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open; the kernel reads two u64.
    unsafe { raw::blkdiscard(fd.as_raw_fd(), &[offset, length]) }?;
    Ok(())
}

/// As [`discard`], and the device promises that no copy is left. In practice only eMMC can do it.
pub fn secure_discard(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    // SAFETY: the descriptor is open; the kernel reads two u64.
    unsafe { raw::blksecdiscard(fd.as_raw_fd(), &[offset, length]) }?;
    Ok(())
}
