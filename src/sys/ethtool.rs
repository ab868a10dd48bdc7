//! What a network driver tells by the ethtool ioctl (`include/uapi/linux/ethtool.h`).

use std::ffi::c_char;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const GET_DRIVER_INFO: u32 = 0x03;
const GET_PERMANENT_ADDRESS: u32 = 0x20;
/// `MAX_ADDR_LEN`.
const LONGEST_ADDRESS: usize = 32;

mod raw {
    nix::ioctl_readwrite_bad!(ethtool, super::SIOCETHTOOL, libc::ifreq);
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct RawDriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    private_flags: u32,
    statistics: u32,
    test_bytes: u32,
    eeprom_bytes: u32,
    register_bytes: u32,
}

const _: () = assert!(size_of::<RawDriverInfo>() == 196);

/// `struct ethtool_perm_addr` with room behind it.
#[repr(C)]
struct RawPermanentAddress {
    command: u32,
    size: u32,
    data: [u8; LONGEST_ADDRESS],
}

/// As the driver fills it in; empty texts where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverInfo {
    pub driver: String,
    pub firmware: String,
    /// Where the device is: a PCI address, `usb-0000:00:14.0-1`, …
    pub bus: String,
}

/// Any socket is good for asking about any link of its network namespace.
pub fn open() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

pub fn driver_info(socket: BorrowedFd<'_>, link: &str) -> io::Result<DriverInfo> {
    // SAFETY: integers and bytes only; all zeroes is a valid value.
    let mut info: RawDriverInfo = unsafe { zeroed() };
    info.command = GET_DRIVER_INFO;
    ask(socket, link, &mut info)?;
    let field = |bytes: &[u8]| text(bytes).trim().to_owned();
    Ok(DriverInfo { driver: field(&info.driver), firmware: field(&info.firmware), bus: field(&info.bus) })
}

/// What the card was made with; EOPNOTSUPP or zeros where there is no such thing.
pub fn permanent_address(socket: BorrowedFd<'_>, link: &str) -> io::Result<Vec<u8>> {
    let mut answer = RawPermanentAddress {
        command: GET_PERMANENT_ADDRESS,
        size: LONGEST_ADDRESS as u32,
        data: [0; LONGEST_ADDRESS],
    };
    ask(socket, link, &mut answer)?;
    let size = usize::try_from(answer.size).unwrap_or(LONGEST_ADDRESS).min(LONGEST_ADDRESS);
    Ok(answer.data[..size].to_vec())
}

/// `T` is one of the structures of this module or of `ethtool_flags`, its first field the command: what the kernel
/// writes for that command fits into it.
pub(super) fn ask<T>(socket: BorrowedFd<'_>, link: &str, command: &mut T) -> io::Result<()> {
    // SAFETY: a name and a union of plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if link.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the link's name is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = from as c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
    // SAFETY: the socket is open; the request points to a live structure, not borrowed elsewhere, with room for all that
    // the kernel writes for the command in its first field. For GSTRINGS that is as many strings as GSSET_INFO told a
    // moment before, for which `ethtool_flags` has ample room.
    unsafe { raw::ethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

/// Up to the first zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_loopback_has_no_driver_and_a_link_that_is_not_there_is_an_error() {
        let socket = open().expect("a socket");
        assert!(driver_info(socket.as_fd(), "lo").is_err());
        assert!(driver_info(socket.as_fd(), "no-such-link").is_err());
        let error = driver_info(socket.as_fd(), "a-name-longer-than-any-link").expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
