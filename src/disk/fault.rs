//! Why a layout can't be put on a machine. All faults at once, so that they are mended at once.

use thiserror::Error;

use super::device::DiskUse;
use crate::api::layout::validate::LayoutFault;
use crate::sys::units::Bytes;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("layout: {0}")]
    Layout(LayoutFault),
    #[error("layout: RAID/LVM layouts are not supported yet ({what})")]
    RaidOrLvm { what: String },
    #[error("{device}: not in this machine, which has {}", list(.present))]
    DiskMissing { device: String, present: Vec<String> },
    #[error("{device}: listed twice in the layout")]
    DiskTwice { device: String },
    #[error("{device}: read-only")]
    DiskReadOnly { device: String },
    #[error("{device}: in use: {use_}")]
    DiskInUse { device: String, use_: DiskUse },
    #[error("{device}: sectors of {found} bytes; a GPT can be written for 512 and 4096")]
    SectorSize { device: String, found: u32 },
    #[error(
        "{device}: too small: the partitions need {needed_bytes} bytes, the disk has {usable_bytes} for them ({size})"
    )]
    DiskTooSmall { device: String, needed_bytes: u128, usable_bytes: u64, size: Bytes },
    #[error("{device}: partition number {number} is above 128, the length of the partition table")]
    NumberAboveTable { device: String, number: u32 },
    #[error("{device}: name {name:?} of partition {number} has {units} UTF-16 units; a GPT holds 36")]
    PartitionNameTooLong { device: String, number: u32, name: String, units: usize },
    #[error("{device}: all 128 partition numbers are taken, none is left for the BIOS boot partition")]
    NoNumberForBiosBoot { device: String },
    #[error("{device}: is to be kept, but {why}; nothing was written")]
    KeptDiskDiffers { device: String, why: String },
    #[error("{device}: two file systems on one device (entries {first} and {second} of the layout, counted from 1)")]
    FilesystemTwice { device: String, first: usize, second: usize },
    #[error("{device}: a file system on the whole disk, which also has partitions")]
    FilesystemOverPartitions { device: String },
    #[error("{device}: label {label:?} has {bytes} bytes; {format} holds {limit}")]
    LabelTooLong { device: String, label: String, format: String, bytes: usize, limit: usize },
    #[error("{device}: label {label:?} contains a control character")]
    LabelUnprintable { device: String, label: String },
    #[error("{device}: mount point {path:?} is not an absolute path without \"..\" and white space")]
    BadPath { device: String, path: String },
    #[error("{device}: mount point {path} belongs to the kernel")]
    ReservedPath { device: String, path: String },
    #[error("{path}: mount point of both {first} and {second}")]
    PathTwice { path: String, first: String, second: String },
    #[error("{device}: format none leaves nothing to be mounted at {path}")]
    NothingToMount { device: String, path: String },
    #[error("{device}: mount option {option:?} is empty or contains white space")]
    BadMountOption { device: String, option: String },
    #[error("/: no file system is mounted there")]
    NoRoot,
    #[error("/: format {format} can't hold an operating system")]
    RootFormat { format: String },
    #[error("/: {device} is to be kept over a reinstall, so there is no room for the new system")]
    RootKept { device: String },
    #[error("/boot/efi: the machine boots by UEFI, but no vfat file system is mounted there (nor at /efi, /boot)")]
    NoEsp,
}

/// All of them; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the layout does not fit this machine: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Faults(pub Vec<Fault>);

fn list(names: &[String]) -> String {
    if names.is_empty() { "no disks".to_owned() } else { names.join(", ") }
}
