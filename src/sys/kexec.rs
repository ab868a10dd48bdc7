//! Loading another kernel. The jump into it is a reboot, through PID 1's exit door.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `KEXEC_FILE_NO_INITRAMFS` of `linux/kexec.h`: there is no initrd, ignore its descriptor.
const NO_INITRAMFS: libc::c_ulong = 4;

/// Loads a kernel, and an initrd if there is one, for the next reboot by kexec.
///
/// The kernel reads both files before the call returns, so that they may go away afterwards.
/// Source: `kexec_file_load(2)`, since Linux 3.17.
pub fn load(kernel: BorrowedFd, initrd: Option<BorrowedFd>, cmdline: &CStr) -> Result<(), Errno> {
    let flags = if initrd.is_some() { 0 } else { NO_INITRAMFS };
    let initrd_fd = initrd.map_or(-1, |fd| fd.as_raw_fd());
    let cmdline = cmdline.to_bytes_with_nul();
    // SAFETY: the descriptors are borrowed for the call; pointer and length are those of one slice, whose last byte is
    // the NUL that the kernel asks for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd_fd,
            cmdline.len() as libc::c_ulong,
            cmdline.as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}
