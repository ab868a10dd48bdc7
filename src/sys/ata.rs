//! ATA commands through the SCSI generic interface (`include/scsi/sg.h`, SAT-4: ATA PASS-THROUGH).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use nix::libc::{c_int, c_uchar, c_uint, c_ushort, c_void};

const SG_IO: nix::libc::c_ulong = 0x2285;
const SENSE_BYTES: usize = 32;
const ATA_PASS_THROUGH_16: u8 = 0x85;
const COMMAND_BYTES: usize = 16;

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

/// SMART RETURN STATUS (ACS-4, 7.43.8). The answer is in the registers that come back as sense data, which is returned
/// as it is. Needs CAP_SYS_RAWIO.
pub fn smart_return_status(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<Vec<u8>> {
    const NO_DATA: u8 = 3 << 1;
    const RETURN_REGISTERS: u8 = 0x20;
    let mut command = [0_u8; COMMAND_BYTES];
    command[0] = ATA_PASS_THROUGH_16;
    command[1] = NO_DATA;
    command[2] = RETURN_REGISTERS;
    command[4] = 0xda; // feature: SMART RETURN STATUS
    command[10] = 0x4f; // LBA (15:8) and (23:16): the signature without which no SMART command is taken
    command[12] = 0xc2;
    command[14] = 0xb0; // SMART
    without_data(fd, &command, limit)
}

/// One command that transfers no data; its sense data.
fn without_data(fd: BorrowedFd<'_>, command: &[u8; COMMAND_BYTES], limit: Duration) -> io::Result<Vec<u8>> {
    const NO_TRANSFER: c_int = -1;
    let mut sense = [0_u8; SENSE_BYTES];
    let mut header = SgIoHeader {
        interface_id: c_int::from(b'S'),
        transfer_direction: NO_TRANSFER,
        command_bytes: COMMAND_BYTES as c_uchar,
        most_sense_bytes: SENSE_BYTES as c_uchar,
        iovec_count: 0,
        transfer_bytes: 0,
        transfer: ptr::null_mut(),
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
    // SAFETY: the descriptor is open, the structure is the kernel's, and its command and sense pointers refer to live
    // buffers of the lengths beside them; nothing is transferred.
    unsafe { raw::sg_io(fd.as_raw_fd(), &raw mut header) }?;
    if header.host_status != 0 {
        return Err(io::Error::other(format!("the disk's adapter answers with status {:#04x}", header.host_status)));
    }
    Ok(sense[..usize::from(header.sense_bytes).min(SENSE_BYTES)].to_vec())
}
