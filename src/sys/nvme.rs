//! NVMe admin commands (`include/uapi/linux/nvme_ioctl.h`, NVM Express base and NVM command set specifications).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

const ADMIN_GET_LOG_PAGE: u8 = 0x02;
const ADMIN_FORMAT_NVM: u8 = 0x80;
const ADMIN_IDENTIFY: u8 = 0x06;
const ADMIN_SANITIZE: u8 = 0x84;
const ALL_NAMESPACES: u32 = u32::MAX;
/// Size of every identify answer.
pub const IDENTIFY_BYTES: usize = 4096;
/// Size of the SMART / health information log.
pub const SMART_LOG_BYTES: usize = 512;
/// Size of the sanitize status log, as far as it is read.
pub const SANITIZE_LOG_BYTES: usize = 32;

#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<AdminCommand>() == 72);

mod raw {
    nix::ioctl_none!(nvme_id, b'N', 0x40);
    nix::ioctl_readwrite!(nvme_admin, b'N', 0x41, super::AdminCommand);
}

/// Which part of a controller or namespace Identify tells about (its CNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identify {
    Namespace,
    Controller,
    /// Ids of the namespaces that are attached to the controller: up to 1024 little-endian u32, then zero.
    AttachedNamespaces,
    /// As before, of all namespaces that were created; only controllers with namespace management answer.
    AllocatedNamespaces,
}

/// Id of the namespace behind an open `/dev/nvme0n1`.
pub fn namespace_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: the descriptor is open; the request has no argument and answers by its return value.
    let id = unsafe { raw::nvme_id(fd.as_raw_fd()) }?;
    u32::try_from(id).map_err(io::Error::other)
}

pub fn identify(fd: BorrowedFd<'_>, namespace: u32, what: Identify) -> io::Result<Vec<u8>> {
    let mut answer = vec![0_u8; IDENTIFY_BYTES];
    let (cns, namespace) = match what {
        Identify::Namespace => (0, namespace),
        Identify::Controller => (1, 0),
        // The namespace is where the list begins, exclusively.
        Identify::AttachedNamespaces => (2, 0),
        Identify::AllocatedNamespaces => (0x10, 0),
    };
    let mut command = AdminCommand {
        opcode: ADMIN_IDENTIFY,
        namespace,
        address: answer.as_mut_ptr() as u64,
        data_bytes: IDENTIFY_BYTES as u32,
        cdw10: cns,
        ..AdminCommand::default()
    };
    submit(fd, &mut command)?;
    Ok(answer)
}

/// The controller's SMART / health information log (log page 02h), of the controller as a whole.
pub fn smart_log(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    read_log(fd, 0x02, ALL_NAMESPACES, SMART_LOG_BYTES)
}

/// The sanitize status log (log page 81h).
pub fn sanitize_log(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    read_log(fd, 0x81, ALL_NAMESPACES, SANITIZE_LOG_BYTES)
}

fn read_log(fd: BorrowedFd<'_>, page: u32, namespace: u32, bytes: usize) -> io::Result<Vec<u8>> {
    let mut answer = vec![0_u8; bytes];
    let mut command = AdminCommand {
        opcode: ADMIN_GET_LOG_PAGE,
        namespace,
        address: answer.as_mut_ptr() as u64,
        data_bytes: bytes as u32,
        // The number of dwords counts from zero.
        cdw10: (bytes as u32 / 4 - 1) << 16 | page,
        ..AdminCommand::default()
    };
    submit(fd, &mut command)?;
    Ok(answer)
}

/// Sanitize with dword 10 as the caller composed it; returns when it has begun, not when it is done.
pub fn sanitize(fd: BorrowedFd<'_>, cdw10: u32, limit: Duration) -> io::Result<()> {
    let timeout_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    let mut command = AdminCommand { opcode: ADMIN_SANITIZE, cdw10, timeout_ms, ..AdminCommand::default() };
    submit(fd, &mut command)
}

/// Format NVM with dword 10 as the caller composed it.
pub fn format(fd: BorrowedFd<'_>, namespace: u32, cdw10: u32, limit: Duration) -> io::Result<()> {
    let timeout_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    let mut command =
        AdminCommand { opcode: ADMIN_FORMAT_NVM, namespace, cdw10, timeout_ms, ..AdminCommand::default() };
    submit(fd, &mut command)
}

fn submit(fd: BorrowedFd<'_>, command: &mut AdminCommand) -> io::Result<()> {
    // SAFETY: the descriptor is open, the structure is the kernel's, and `address` is null or points to `data_bytes`
    // bytes that outlive the call, as the callers above see to.
    let status = unsafe { raw::nvme_admin(fd.as_raw_fd(), command) }?;
    match status {
        0 => Ok(()),
        status => Err(io::Error::other(format!("the NVMe controller answers with status {status:#06x}"))),
    }
}
