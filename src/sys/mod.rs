//! The kernel's interfaces: ioctl, netlink, raw sockets, `unsafe`. No policy.

pub mod clock;
pub mod packet;
pub mod roots;
pub mod udp;
pub mod units;
