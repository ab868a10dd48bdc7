//! The watchdog device's ioctls (linux/watchdog.h).

use std::fs::File;
use std::os::fd::AsRawFd;

nix::ioctl_readwrite!(wdioc_settimeout, b'W', 6, libc::c_int);

/// Asks the driver for a time-out; returns the seconds that it took instead.
pub fn set_timeout(device: &File, seconds: i32) -> nix::Result<i32> {
    let mut value: libc::c_int = seconds;
    // SAFETY: the descriptor is open for the length of the call, and the kernel reads and writes one int.
    unsafe { wdioc_settimeout(device.as_raw_fd(), &raw mut value) }?;
    Ok(value)
}
