//! The kernel's interfaces: ioctl, netlink, raw sockets, `unsafe`. No policy.

pub mod clock_state;
pub mod roots;
pub mod udp;
pub mod units;
pub mod watchdog;
