//! Starting a program with another root directory.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Makes `command` start with `root` as its root and working directory, and with umask 022.
///
/// The program and the shared libraries are then those inside `root`, and `PATH` is searched there.
pub fn set_root(command: &mut Command, root: &Path) -> io::Result<()> {
    let root = CString::new(root.as_os_str().as_bytes())?;
    let enter = move || {
        // SAFETY: both paths are NUL-terminated strings that live as long as the closure.
        let failed = unsafe { libc::chroot(root.as_ptr()) != 0 || libc::chdir(c"/".as_ptr()) != 0 };
        if failed {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: umask has no preconditions.
        unsafe { libc::umask(0o022) };
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(enter) };
    Ok(())
}
