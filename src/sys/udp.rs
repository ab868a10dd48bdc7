//! UDP sockets with options that the standard library does not set.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddrV4, UdpSocket};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};

/// A non-blocking socket that sends and receives on one link only, broadcasts included. Needs CAP_NET_RAW.
pub fn bind_on_link(link_name: &str, address: SocketAddrV4) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::Broadcast, &true)?;
    setsockopt(&fd, sockopt::BindToDevice, &OsString::from(link_name))?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(address))?;
    Ok(UdpSocket::from(fd))
}
