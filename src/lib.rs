//! The house of drophammer and anvil, as a map.
//!
//! A machine boots the agent over the network. [`init`] makes a usable PID 1 of it, [`agent`] runs the phases of its
//! life one after the other: [`net`] brings links up and gets an address, a time and names; [`config`] says what the
//! operator wants; [`inventory`] finds the hardware; [`client`] talks to the control plane; [`disk`] erases and lays
//! out; [`image`] streams the operating system onto the disk; [`os`] configures it and hands over to its kernel.
//! [`causes`] prints errors, [`redact`] keeps secrets out of what is shown, [`build_time`] is a time that is past; [`sys`] is the thin layer over the kernel's interfaces that all of them use, and the only place with `unsafe`.
//!
//! [`anvil`] is the other end: boot server, API and store. The two ends meet only in [`api`], the wire.
//!
//! Arrows point one way: `agent` → the parts → `sys`; `anvil` and `client` → `api`. Bundles are signed as
//! images are, so that [`anvil::bundle`] looks into [`image`] for that.

pub mod agent;
pub mod anvil;
pub mod api;
pub mod build_time;
pub mod causes;
pub mod client;
pub mod config;
pub mod disk;
pub mod image;
pub mod init;
pub mod inventory;
pub mod net;
pub mod os;
pub mod redact;
pub mod sys;

/// Version of both programs: the package's, with the commit when the build knew it.
pub const VERSION: &str = match option_env!("DROPHAMMER_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
