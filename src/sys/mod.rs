//! The kernel's interfaces: ioctl, netlink, raw sockets, `unsafe`. No policy.

pub mod ata;
pub mod block;
pub mod chroot;
pub mod clock;
pub mod clock_state;
pub mod device_mapper;
pub mod ethtool;
pub mod ethtool_flags;
pub mod filesystem_size;
pub mod firmware;
pub mod ipmi;
pub mod kexec;
pub mod module;
pub mod nvme;
pub mod packet;
pub mod pages;
pub mod roots;
pub mod scsi;
pub mod swap;
pub mod udp;
pub mod units;
pub mod watchdog;
pub mod write_behind;
