//! The kernel's interfaces: ioctl, netlink, raw sockets, `unsafe`. No policy.

pub mod chroot;
pub mod kexec;
pub mod roots;
pub mod units;
