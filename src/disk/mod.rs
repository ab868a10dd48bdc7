//! Disks: erase, plan, partition, file systems, mounts.
//!
//! In the order of an installation:
//!
//! 1. [`device`] reads what each disk is and holds now ([`probe`], [`table`]) and who uses it (`uses`), of all of them in
//!    the time that [`answers`] gives each; [`erase`] empties them and [`verify`] reads back.
//! 2. [`planner`] decides, without touching anything, what becomes of which disk: a [`plan`], or every [`fault`].
//! 3. [`apply`] looks at the disks once more, then writes partitions ([`partition`]), arrays ([`raid`]), volume groups
//!    ([`lvm`]) and file systems ([`filesystem`]).
//! 4. [`mount`] mounts them below one directory, [`fstab`] tells the installed system about them.
//! 5. [`release`] takes arrays and volumes from the kernel again, when all is unmounted.
//!
//! [`root`] starts what an earlier installation left, to read it.
//!
//! [`command`] is the same at the console.

pub mod answers;
pub mod apply;
pub mod block;
pub mod command;
pub mod device;
pub mod erase;
pub mod fault;
pub mod filesystem;
pub mod fstab;
pub mod kernel;
mod links;
pub mod lvm;
pub mod mount;
pub mod mount_options;
pub mod nodes;
pub mod partition;
pub mod plan;
pub mod plan_text;
pub mod planner;
pub mod probe;
pub mod raid;
pub mod release;
pub mod root;
pub mod selector;
pub mod table;
pub mod tool;
mod uses;
pub mod verify;
