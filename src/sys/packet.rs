//! Whole Ethernet frames of one type on one link, by packet(7) sockets.

use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use tokio::io::unix::AsyncFd;

/// A raw socket bound to one link and one EtherType. It does not see the frames that this machine sends.
pub struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
    link_index: u32,
}

/// What came with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the frame in the buffer.
    pub len: usize,
    /// False when the sender on this same machine left the transport checksum to hardware that the frame never
    /// passed (veth, tap): it must not be checked then.
    pub checksum_filled: bool,
}

/// Room for one control message with `tpacket_auxdata`, aligned as the kernel wants it.
#[repr(C, align(8))]
struct ControlBuffer([u8; 64]);

impl PacketSocket {
    /// Needs CAP_NET_RAW, and a tokio runtime to be polled by.
    pub fn open(link_index: u32, ethertype: u16) -> io::Result<Self> {
        // Protocol 0 receives nothing: no frame of another link can slip in before the bind.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)?;
        bind(&fd, link_index, ethertype)?;
        // SAFETY: the OwnedFd keeps one open description until the AsyncFd drops it, and always names the same one.
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Self { fd, link_index })
    }

    /// Also receives what is sent to this multicast address, while the socket lives.
    pub fn join_multicast(&self, mac: [u8; 6]) -> io::Result<()> {
        let mut address = [0u8; 8];
        address[..6].copy_from_slice(&mac);
        let membership = libc::packet_mreq {
            mr_ifindex: link_index_as_int(self.link_index)?,
            mr_type: libc::PACKET_MR_MULTICAST as u16,
            mr_alen: 6,
            mr_address: address,
        };
        set_option(self.fd.get_ref(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
    }

    /// Queueing priority of what is sent, 0 to 7 (SO_PRIORITY).
    pub fn set_priority(&self, priority: i32) -> io::Result<()> {
        Ok(setsockopt(self.fd.get_ref(), sockopt::Priority, &priority)?)
    }

    /// Sends one frame, its Ethernet header included.
    pub async fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            let mut ready = self.fd.writable().await?;
            if let Ok(result) = ready.try_io(|fd| send_now(fd.get_ref(), frame)) {
                return result;
            }
        }
    }

    /// Waits for one frame. What does not fit into `buffer` is cut off. The socket reports ENETDOWN once when the
    /// link goes down, and works again when it is up.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(result) = ready.try_io(|fd| receive_now(fd.get_ref(), buffer)) {
                return result;
            }
        }
    }
}

fn link_index_as_int(index: u32) -> io::Result<i32> {
    i32::try_from(index).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "link index out of range"))
}

fn set_option<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of_val(value) as libc::socklen_t;
    // SAFETY: `value` is a live object of exactly `len` bytes, and the kernel only reads it during the call.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(fd: &OwnedFd, link_index: u32, ethertype: u16) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain integers; all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = link_index_as_int(link_index)?;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a live sockaddr_ll of `len` bytes, only read during the call.
    let done = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn send_now(fd: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe the live slice `frame`.
    let sent = unsafe { libc::send(fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Ok(sent) if sent == frame.len() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::WriteZero, "frame was cut short")),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn receive_now(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = ControlBuffer([0; 64]);
    // SAFETY: msghdr is integers and pointers; all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in `message` refers to a live buffer of the length beside it.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, 0) };
    let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
    let checksum_filled = auxdata_status(&message).is_none_or(|status| status & libc::TP_STATUS_CSUMNOTREADY == 0);
    Ok(Received { len: len.min(buffer.len()), checksum_filled })
}

/// `tp_status` of the PACKET_AUXDATA control message, when there is one.
fn auxdata_status(message: &libc::msghdr) -> Option<u32> {
    // SAFETY: the kernel filled msg_control and msg_controllen of this message; the CMSG functions stay inside.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points to a cmsghdr inside the control buffer, which is aligned for it.
        let found = unsafe { &*header };
        if found.cmsg_level == libc::SOL_PACKET && found.cmsg_type == libc::PACKET_AUXDATA {
            // SAFETY: a PACKET_AUXDATA message carries one tpacket_auxdata; read_unaligned needs no alignment.
            let data: libc::tpacket_auxdata =
                unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
            return Some(data.tp_status);
        }
        // SAFETY: `header` came from this message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}
