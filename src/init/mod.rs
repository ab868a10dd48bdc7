//! PID 1: what turns a bare kernel with an initramfs into a place where programs can run, and ends it well.
//!
//! - `mounts`: the kernel's own file systems
//! - `console`: where lines for people go
//! - `modules`: drivers for the hardware that is there
//! - `reaper`: orphans
//! - `watchdog`: a machine that hangs is reset
//! - `exit`: the one door through which every life ends

pub mod console;
pub mod exit;
pub mod modules;
pub mod mounts;
pub mod reaper;
pub mod watchdog;
