//! Swap areas.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Takes a swap area out of use. Fails with ENOMEM when what lies in it has no room in memory. Needs CAP_SYS_ADMIN.
pub fn swap_off(area: &Path) -> io::Result<()> {
    let path = CString::new(area.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the path is a string that ends in zero and outlives the call.
    match unsafe { libc::swapoff(path.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
