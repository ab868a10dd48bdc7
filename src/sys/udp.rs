//! Sockets that the standard library cannot make: tied to one interface, with a chosen source address, or raw ICMPv6.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, sendmsg, setsockopt,
    socket, sockopt,
};

/// How a UDP socket is to be bound.
#[derive(Clone, Copy, Debug)]
pub struct UdpOptions<'a> {
    pub address: SocketAddrV4,
    /// Only packets of this interface are received and sent (SO_BINDTODEVICE, socket(7)).
    pub device: Option<&'a str>,
    /// Allows sending to 255.255.255.255.
    pub broadcast: bool,
    /// Lets another program of this host have the same port (both must ask for it).
    pub share_port: bool,
}

/// A bound, non-blocking socket.
pub fn bind_udp(options: &UdpOptions) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, SockProtocol::Udp)?;
    setsockopt(&fd, sockopt::ReuseAddr, &options.share_port)?;
    setsockopt(&fd, sockopt::Broadcast, &options.broadcast)?;
    if let Some(device) = options.device {
        setsockopt(&fd, sockopt::BindToDevice, &device.into())?;
    }
    bind(fd.as_raw_fd(), &SockaddrIn::from(options.address))?;
    Ok(UdpSocket::from(fd))
}

/// Sends one datagram with `source` as its source address (IP_PKTINFO, ip(7)), which picks the interface for a
/// broadcast, too.
pub fn send_from(socket: BorrowedFd, payload: &[u8], to: SocketAddrV4, source: Ipv4Addr) -> io::Result<usize> {
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    let to = SockaddrIn::from(to);
    Ok(sendmsg(socket.as_raw_fd(), &[IoSlice::new(payload)], &control, MsgFlags::empty(), Some(&to))?)
}

/// A raw ICMPv6 socket on one interface, for neighbour discovery as a router: hop limit 255 on all it sends, as
/// RFC 4861 section 6.1 demands, and member of the all-routers group ff02::2. The kernel fills in checksums.
///
/// It has the type of a UDP socket, whose calls do here what they do there, with ICMPv6 messages for datagrams.
pub fn icmpv6_router_socket(device: &str) -> io::Result<UdpSocket> {
    const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
    setsockopt(&fd, sockopt::BindToDevice, &device.into())?;
    setsockopt(&fd, sockopt::Ipv6Ttl, &255)?;
    setsockopt(&fd, sockopt::Ipv6MulticastHops, &255)?;
    join_group(&fd, ALL_ROUTERS, interface_index(device)?)?;
    Ok(UdpSocket::from(fd))
}

/// The kernel's number of an interface.
pub fn interface_index(device: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(device)?)
}

fn join_group(fd: &OwnedFd, group: Ipv6Addr, interface: u32) -> io::Result<()> {
    let request =
        libc::ipv6_mreq { ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() }, ipv6mr_interface: interface };
    // SAFETY: the option's value is an ipv6_mreq that lives through the call, and its exact size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_ADD_MEMBERSHIP,
            std::ptr::from_ref(&request).cast(),
            std::mem::size_of::<libc::ipv6_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
