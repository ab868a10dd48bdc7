//! Messages to the BMC through the kernel's IPMI driver (`include/uapi/linux/ipmi.h`).

use std::ffi::{c_int, c_long, c_short, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `IPMI_SYSTEM_INTERFACE_ADDR_TYPE`: the BMC of this machine, not another one on its buses.
const SYSTEM_INTERFACE: c_int = 0x0c;
/// `IPMI_BMC_CHANNEL`.
const BMC_CHANNEL: c_short = 0x0f;
/// `IPMI_RESPONSE_RECV_TYPE`.
const RESPONSE: c_int = 1;
/// More than `IPMI_MAX_MSG_LENGTH` (272).
const LONGEST_MESSAGE_BYTES: u16 = 512;

/// `struct ipmi_system_interface_addr`.
#[repr(C)]
struct SystemInterfaceAddress {
    kind: c_int,
    channel: c_short,
    lun: u8,
}

/// `struct ipmi_msg`.
#[repr(C)]
struct Message {
    net_function: u8,
    command: u8,
    data_bytes: u16,
    data: *mut u8,
}

/// `struct ipmi_req`.
#[repr(C)]
struct Request {
    address: *mut SystemInterfaceAddress,
    address_bytes: c_uint,
    id: c_long,
    message: Message,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct Receive {
    kind: c_int,
    address: *mut [u8; ADDRESS_BYTES],
    address_bytes: c_uint,
    id: c_long,
    message: Message,
}

/// `sizeof(struct ipmi_addr)`: the longest of all addresses.
const ADDRESS_BYTES: usize = 40;

mod raw {
    // The kernel calls it a reading request, although it takes the structure.
    nix::ioctl_read!(send_command, b'i', 13, super::Request);
    nix::ioctl_readwrite!(receive_truncated, b'i', 11, super::Receive);
}

/// What the driver handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The number of the request, when this is the response to one: not so are events and foreign commands.
    pub response_to: Option<i64>,
    /// With the completion code first.
    pub data: Vec<u8>,
}

/// Sends a command to the BMC. Its response comes by [`receive`], when the descriptor can be read.
pub fn send(fd: BorrowedFd<'_>, id: i64, net_function: u8, command: u8, data: &[u8]) -> io::Result<()> {
    let mut address = SystemInterfaceAddress { kind: SYSTEM_INTERFACE, channel: BMC_CHANNEL, lun: 0 };
    let mut data = data.to_vec();
    let data_bytes = u16::try_from(data.len()).map_err(io::Error::other)?;
    let mut request = Request {
        address: &raw mut address,
        address_bytes: size_of::<SystemInterfaceAddress>() as c_uint,
        id,
        message: Message { net_function, command, data_bytes, data: data.as_mut_ptr() },
    };
    // SAFETY: the descriptor is open, the structures are the kernel's, and address and data outlive the call, in
    // which the kernel copies them.
    unsafe { raw::send_command(fd.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

/// The next message that the driver has for this descriptor; EAGAIN when there is none.
pub fn receive(fd: BorrowedFd<'_>) -> io::Result<Received> {
    let mut address = [0_u8; ADDRESS_BYTES];
    let mut data = vec![0_u8; usize::from(LONGEST_MESSAGE_BYTES)];
    let mut received = Receive {
        kind: 0,
        address: &raw mut address,
        address_bytes: ADDRESS_BYTES as c_uint,
        id: 0,
        message: Message { net_function: 0, command: 0, data_bytes: LONGEST_MESSAGE_BYTES, data: data.as_mut_ptr() },
    };
    // SAFETY: the descriptor is open, the structure is the kernel's, and both buffers have the lengths that it is
    // told and outlive the call.
    unsafe { raw::receive_truncated(fd.as_raw_fd(), &raw mut received) }?;
    data.truncate(usize::from(received.message.data_bytes));
    Ok(Received { response_to: (received.kind == RESPONSE).then_some(received.id), data })
}
