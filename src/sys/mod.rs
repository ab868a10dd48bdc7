//! The kernel's interfaces: ioctl, netlink, raw sockets, `unsafe`. No policy.

pub mod block;
pub mod nvme;
pub mod roots;
pub mod units;
