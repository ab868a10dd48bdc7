//! Device-mapper control (`include/uapi/linux/dm-ioctl.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const NAME_BYTES: usize = 128;
const UUID_BYTES: usize = 129;

/// `struct dm_ioctl`.
#[repr(C)]
struct Control {
    version: [u32; 3],
    data_bytes: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    padding: u32,
    device: u64,
    name: [u8; NAME_BYTES],
    uuid: [u8; UUID_BYTES],
    data: [u8; 7],
}

const _: () = assert!(size_of::<Control>() == 312);

mod raw {
    nix::ioctl_readwrite!(dm_dev_remove, 0xfd, 4, super::Control);
}

/// Removes a mapping, by its name; EBUSY while it is open or mounted. `control` is `/dev/mapper/control`.
pub fn remove(control: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() >= NAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a mapping")));
    }
    let mut request = Control {
        version: [4, 0, 0],
        data_bytes: size_of::<Control>() as u32,
        data_start: 0,
        target_count: 0,
        open_count: 0,
        flags: 0,
        event: 0,
        padding: 0,
        device: 0,
        name: [0; NAME_BYTES],
        uuid: [0; UUID_BYTES],
        data: [0; 7],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open; the kernel reads and writes `data_bytes`, which is the size of the structure.
    unsafe { raw::dm_dev_remove(control.as_raw_fd(), &raw mut request) }?;
    Ok(())
}
