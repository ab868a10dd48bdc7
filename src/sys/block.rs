//! ioctls of block devices (`include/uapi/linux/fs.h`). All lengths and offsets are bytes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

mod raw {
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), super::PartitionRequest);
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

/// `struct blkpg_ioctl_arg` of `include/uapi/linux/blkpg.h`.
#[repr(C)]
struct PartitionRequest {
    operation: nix::libc::c_int,
    flags: nix::libc::c_int,
    data_bytes: nix::libc::c_int,
    data: *const PartitionRange,
}

/// `struct blkpg_partition`.
#[repr(C)]
struct PartitionRange {
    start_bytes: nix::libc::c_longlong,
    length_bytes: nix::libc::c_longlong,
    number: nix::libc::c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// Gives the kernel a partition, whatever the table on the disk says and whether or not it can read it.
pub fn add_partition(fd: BorrowedFd<'_>, number: u32, start: u64, length: u64) -> io::Result<()> {
    const ADD: nix::libc::c_int = 1;
    change_partition(fd, ADD, number, start, length)
}

/// Takes a partition from the kernel; EBUSY while it is open, ENXIO when it has none of this number.
pub fn delete_partition(fd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    const DELETE: nix::libc::c_int = 2;
    change_partition(fd, DELETE, number, 0, 0)
}

fn change_partition(
    fd: BorrowedFd<'_>,
    operation: nix::libc::c_int,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let range = PartitionRange {
        start_bytes: i64::try_from(start).map_err(io::Error::other)?,
        length_bytes: i64::try_from(length).map_err(io::Error::other)?,
        number: i32::try_from(number).map_err(io::Error::other)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let data_bytes = size_of::<PartitionRange>() as nix::libc::c_int;
    let request = PartitionRequest { operation, flags: 0, data_bytes, data: &raw const range };
    // SAFETY: the descriptor is open; the kernel reads the request and the range behind it, which outlive the call.
    unsafe { raw::blkpg(fd.as_raw_fd(), &raw const request) }?;
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
