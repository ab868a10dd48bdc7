//! Handing over to the installed system's kernel without going through the firmware.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use tracing::info;

use super::BootInfo;
use super::tree::Tree;
use crate::sys;

/// Why there is no kexec; in every case the firmware can boot the disk instead.
#[derive(Debug, thiserror::Error)]
pub enum KexecError {
    #[error("{path} of the installed system cannot be opened: {reason}")]
    File { path: String, reason: String },
    #[error("the kernel command line contains a NUL")]
    Cmdline,
    /// Built without `CONFIG_KEXEC_FILE`.
    #[error("the running kernel has no kexec_file_load")]
    NotSupported,
    /// Lockdown (Secure Boot), `kernel.kexec_load_disabled`, or not root.
    #[error("the running kernel does not permit kexec (lockdown under Secure Boot, or kernel.kexec_load_disabled)")]
    NotPermitted,
    /// Not a kernel, not for this machine, or its signature is not accepted.
    #[error("the running kernel does not accept {kernel} with a command line of {cmdline_bytes} bytes: {errno}")]
    Refused { kernel: String, cmdline_bytes: usize, errno: Errno },
    #[error("loading {kernel} failed: {errno}")]
    Failed { kernel: String, errno: Errno },
}

/// Loads what `boot` names inside `root`. The kernel has copied both files when this returns, so that everything may be
/// unmounted afterwards.
pub fn load(root: &Path, boot: &BootInfo) -> Result<(), KexecError> {
    let file_error = |path: &str, reason: String| KexecError::File { path: path.to_owned(), reason };
    let tree = Tree::open(root).map_err(|error| file_error("/", format!("{error:#}")))?;
    let open = |path: &str| match tree.file(path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(file_error(path, "no such file".to_owned())),
        Err(error) => Err(file_error(path, format!("{error:#}"))),
    };
    let kernel = open(&boot.kernel)?;
    let initrd = if boot.initrd.is_empty() { None } else { Some(open(&boot.initrd)?) };
    load_files(&boot.kernel, &kernel, initrd.as_ref(), &boot.cmdline)?;
    info!(kernel = boot.kernel, cmdline = boot.cmdline, "kernel of the installed system is loaded");
    Ok(())
}

/// Loads open files; `name` is for the error.
pub fn load_files(name: &str, kernel: &File, initrd: Option<&File>, cmdline: &str) -> Result<(), KexecError> {
    let line = CString::new(cmdline).map_err(|_| KexecError::Cmdline)?;
    sys::kexec::load(kernel.as_fd(), initrd.map(AsFd::as_fd), &line).map_err(|errno| classify(name, cmdline, errno))
}

/// Source: `kexec_file_load(2)`, and `kernel/kexec_file.c` for the signature's errors.
fn classify(kernel: &str, cmdline: &str, errno: Errno) -> KexecError {
    let kernel = kernel.to_owned();
    match errno {
        Errno::ENOSYS => KexecError::NotSupported,
        Errno::EPERM => KexecError::NotPermitted,
        Errno::ENOEXEC
        | Errno::EINVAL
        | Errno::EKEYREJECTED
        | Errno::ENOKEY
        | Errno::EBADMSG
        | Errno::ENODATA
        | Errno::ELIBBAD => KexecError::Refused { kernel, cmdline_bytes: cmdline.len(), errno },
        errno => KexecError::Failed { kernel, errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_for_a_firmware_reboot_are_told_apart() {
        let shown = |errno| classify("/boot/vmlinuz-1", "quiet", errno).to_string();
        assert!(matches!(classify("k", "", Errno::ENOSYS), KexecError::NotSupported));
        assert!(shown(Errno::EPERM).contains("lockdown"));
        assert!(shown(Errno::ENOEXEC).starts_with("the running kernel does not accept /boot/vmlinuz-1"));
        assert!(shown(Errno::ENOMEM).starts_with("loading /boot/vmlinuz-1 failed"));
    }

    #[test]
    fn a_kernel_that_is_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let boot = BootInfo { kernel: "/boot/vmlinuz-1".into(), ..Default::default() };
        let error = load(dir.path(), &boot).unwrap_err();
        assert_eq!(error.to_string(), "/boot/vmlinuz-1 of the installed system cannot be opened: no such file");
    }

    #[test]
    fn what_is_no_kernel_is_never_loaded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vmlinuz"), "not a kernel").unwrap();
        let boot = BootInfo { kernel: "/vmlinuz".into(), cmdline: "quiet".into(), ..Default::default() };
        let error = load(dir.path(), &boot).unwrap_err();
        assert!(
            matches!(error, KexecError::NotSupported | KexecError::NotPermitted | KexecError::Refused { .. }),
            "{error}"
        );
    }
}
