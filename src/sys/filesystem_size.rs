//! Growing mounted file systems. Descriptors are of any directory in them; sizes are bytes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::statfs::fstatfs;

mod raw {
    nix::ioctl_write_ptr!(ext4_resize_fs, b'f', 16, u64);
    nix::ioctl_read!(xfs_geometry, b'X', 100, super::XfsGeometry);
    nix::ioctl_write_ptr!(xfs_grow_data, b'X', 110, super::XfsGrowData);
    nix::ioctl_write_ptr!(btrfs_resize, 0x94, 3, super::BtrfsVolume);
}

/// Grows an ext4, or an ext3 or ext2 that its driver has mounted (`EXT4_IOC_RESIZE_FS`, fs/ext4/ioctl.c).
pub fn grow_ext4(mounted: BorrowedFd<'_>, size_bytes: u64) -> io::Result<()> {
    let block_bytes = u64::try_from(fstatfs(mounted)?.block_size()).map_err(io::Error::other)?;
    let blocks = size_bytes / block_bytes.max(1);
    // SAFETY: the descriptor is open; the kernel reads one u64, which outlives the call.
    unsafe { raw::ext4_resize_fs(mounted.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

/// `struct xfs_fsop_geom_v1` of fs/xfs/libxfs/xfs_fs.h.
#[repr(C)]
#[derive(Default)]
struct XfsGeometry {
    block_bytes: u32,
    realtime_extent: u32,
    group_blocks: u32,
    group_count: u32,
    log_blocks: u32,
    sector_bytes: u32,
    inode_bytes: u32,
    inode_percent: u32,
    data_blocks: u64,
    realtime_blocks: u64,
    realtime_extents: u64,
    log_start: u64,
    uuid: [u8; 16],
    stripe_unit: u32,
    stripe_width: u32,
    version: i32,
    flags: u32,
    log_sector_bytes: u32,
    realtime_sector_bytes: u32,
    directory_block_bytes: u32,
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrowData {
    blocks: u64,
    inode_percent: u32,
}

/// Grows an XFS (`XFS_IOC_FSGROWFSDATA`). One that is as large already stays.
pub fn grow_xfs(mounted: BorrowedFd<'_>, size_bytes: u64) -> io::Result<()> {
    let mut found = XfsGeometry::default();
    // SAFETY: the descriptor is open; the kernel writes one structure of this layout, whose size is in the request.
    unsafe { raw::xfs_geometry(mounted.as_raw_fd(), &raw mut found) }?;
    let blocks = size_bytes / u64::from(found.block_bytes.max(1));
    if blocks <= found.data_blocks {
        return Ok(());
    }
    let wanted = XfsGrowData { blocks, inode_percent: found.inode_percent };
    // SAFETY: the descriptor is open; the kernel reads one structure of this layout, which outlives the call.
    unsafe { raw::xfs_grow_data(mounted.as_raw_fd(), &raw const wanted) }?;
    Ok(())
}

const BTRFS_NAME_BYTES: usize = 4088;

/// `struct btrfs_ioctl_vol_args` of include/uapi/linux/btrfs.h.
#[repr(C)]
struct BtrfsVolume {
    descriptor: i64,
    name: [u8; BTRFS_NAME_BYTES],
}

/// Grows a Btrfs to all of its device (`BTRFS_IOC_RESIZE`).
pub fn grow_btrfs(mounted: BorrowedFd<'_>) -> io::Result<()> {
    const ALL: &[u8] = b"max";
    let mut wanted = BtrfsVolume { descriptor: 0, name: [0; BTRFS_NAME_BYTES] };
    wanted.name[..ALL.len()].copy_from_slice(ALL);
    // SAFETY: the descriptor is open; the kernel reads one structure of this layout, which outlives the call.
    unsafe { raw::btrfs_resize(mounted.as_raw_fd(), &raw const wanted) }?;
    Ok(())
}
