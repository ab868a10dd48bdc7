//! Drivers: what the hardware asks for is found in the kernel's own tables and loaded.
//!
//! Every device has a `modalias` that says what it is; `modules.alias` says which modules want such a device, and
//! `modules.dep` and `modules.softdep` what has to be loaded before them. That is all that udev and modprobe do.
//!
//! - [`glob`]: the patterns of `modules.alias`
//! - [`db`]: the tables of one kernel
//! - [`unwanted`]: modules that hardware may not pull in, and those the agent wants whatever the hardware
//! - [`parameters`]: module parameters on the kernel command line
//! - [`load`]: loading, in parallel and in order
//! - [`settle`]: waiting until the disks and links have appeared
//! - [`usb`]: waiting for the disks that come later than all others

pub mod db;
pub mod glob;
pub mod load;
pub mod parameters;
pub mod settle;
pub mod unwanted;
pub mod usb;

pub use db::ModuleDb;
pub use load::{LoadReport, Loader};
pub use settle::settle;
