//! SCSI commands through the generic interface (`include/scsi/sg.h`), on the block device itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use nix::libc::{c_int, c_uchar, c_uint, c_ushort, c_void};

const SG_IO: nix::libc::c_ulong = 0x2285;
/// Enough for descriptor sense with the registers of an ATA disk.
const SENSE_BYTES: usize = 64;
/// The longest command block that the interface takes without extras.
const MOST_COMMAND_BYTES: usize = 16;

/// `struct sg_io_hdr`.
#[repr(C)]
struct SgIoHeader {
    interface_id: c_int,
    transfer_direction: c_int,
    command_bytes: c_uchar,
    most_sense_bytes: c_uchar,
    iovec_count: c_ushort,
    transfer_bytes: c_uint,
    transfer: *mut c_void,
    command: *const c_uchar,
    sense: *mut c_uchar,
    timeout_ms: c_uint,
    flags: c_uint,
    pack_id: c_int,
    user_pointer: *mut c_void,
    status: c_uchar,
    masked_status: c_uchar,
    message_status: c_uchar,
    sense_bytes: c_uchar,
    host_status: c_ushort,
    driver_status: c_ushort,
    resident: c_int,
    duration_ms: c_uint,
    info: c_uint,
}

const _: () = assert!(size_of::<SgIoHeader>() == 88);

mod raw {
    nix::ioctl_readwrite_bad!(sg_io, super::SG_IO, super::SgIoHeader);
}

/// What a command moves beside itself.
#[derive(Debug)]
pub enum Transfer<'a> {
    None,
    /// From the device.
    In(&'a mut [u8]),
    /// To the device.
    Out(&'a [u8]),
}

/// How a device answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// SAM status: 0 good, 2 check condition.
    pub status: u8,
    /// Sense data, as long as the device made it.
    pub sense: Vec<u8>,
}

/// One command. An error means that it did not reach the device or was not answered; a refusal is in the answer.
/// Needs CAP_SYS_RAWIO.
pub fn execute(fd: BorrowedFd<'_>, command: &[u8], transfer: Transfer<'_>, limit: Duration) -> io::Result<Answer> {
    const NO_TRANSFER: c_int = -1;
    const TO_DEVICE: c_int = -2;
    const FROM_DEVICE: c_int = -3;
    if command.len() > MOST_COMMAND_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "SCSI command block above 16 bytes"));
    }
    let (direction, address, length) = match transfer {
        Transfer::None => (NO_TRANSFER, ptr::null_mut(), 0),
        Transfer::In(buffer) => (FROM_DEVICE, buffer.as_mut_ptr(), buffer.len()),
        Transfer::Out(data) => (TO_DEVICE, data.as_ptr().cast_mut(), data.len()),
    };
    let mut sense = [0_u8; SENSE_BYTES];
    let mut header = SgIoHeader {
        interface_id: c_int::from(b'S'),
        transfer_direction: direction,
        command_bytes: command.len() as c_uchar,
        most_sense_bytes: SENSE_BYTES as c_uchar,
        iovec_count: 0,
        transfer_bytes: c_uint::try_from(length).map_err(io::Error::other)?,
        transfer: address.cast(),
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        flags: 0,
        pack_id: 0,
        user_pointer: ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_bytes: 0,
        host_status: 0,
        driver_status: 0,
        resident: 0,
        duration_ms: 0,
        info: 0,
    };
    // SAFETY: the descriptor is open, the structure is the kernel's, and its pointers refer to buffers of the lengths
    // beside them that outlive the call. The kernel writes to `transfer` only when the direction is from the device,
    // and then it came from a `&mut`.
    unsafe { raw::sg_io(fd.as_raw_fd(), &raw mut header) }?;
    if header.host_status != 0 {
        return Err(io::Error::other(format!("the disk's adapter answers with status {:#04x}", header.host_status)));
    }
    let sense = sense[..usize::from(header.sense_bytes).min(SENSE_BYTES)].to_vec();
    Ok(Answer { status: header.status, sense })
}
