//! Why a layout can't be put on a machine. All faults at once, so that they are mended at once.

use thiserror::Error;

use super::device::DiskUse;
use crate::api::layout::validate::LayoutFault;
use crate::sys::units::Bytes;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("layout: {0}")]
    Layout(LayoutFault),
    #[error("{selector:?}: can't be understood as a disk: {why}")]
    SelectorBad { selector: String, why: String },
    #[error("{selector:?}: no disk of this machine is that; it has {}", list(.candidates))]
    SelectorNone { selector: String, candidates: Vec<String> },
    #[error("{selector:?}: {} disks are that: {}", .found.len(), list(.found))]
    SelectorSeveral { selector: String, found: Vec<String> },
    #[error("{device}: named twice in the layout, as {first:?} and {second:?}")]
    SelectorSame { device: String, first: String, second: String },
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
    #[error("{device}: the whole disk is used, which also has partitions")]
    UsedOverPartitions { device: String },
    #[error("{device}: used twice, by {first} and {second}")]
    DeviceTwice { device: String, first: String, second: String },
    #[error("{user}: only some of its devices are on disks that are kept over a reinstall")]
    PartlyKept { user: String },
    #[error("{device}: not a name for an array; those are /dev/md0 to /dev/md511 and /dev/md/NAME")]
    ArrayName { device: String },
    #[error("{device}: two arrays have this name")]
    ArrayTwice { device: String },
    #[error("{device}: white space inside one option: {option:?}; give each word as an option of its own")]
    ArrayOption { device: String, option: String },
    #[error("{device}: {level} needs 2 devices beside its spares; it has {devices}, of which {spares} are spares")]
    MembersTooFew { device: String, level: &'static str, devices: usize, spares: u32 },
    #[error("{device}: raid0 can't use a spare, it has {spares}")]
    SparesUseless { device: String, spares: u32 },
    #[error("{device}: mdadm makes no raid0 with metadata 0.90; leave the option out, or write --metadata=1.2")]
    Raid0Metadata { device: String },
    #[error("{member}: too small for a member of {array}")]
    MemberTooSmall { array: String, member: String },
    #[error("volume group {name}: two have this name")]
    GroupTwice { name: String },
    #[error("volume group {name}: has no devices")]
    GroupEmpty { name: String },
    #[error("volume group {group}: tag {tag:?} has characters that lvm does not take")]
    GroupTag { group: String, tag: String },
    #[error("{name:?}: lvm takes no such name for a group or volume")]
    VolumeName { name: String },
    #[error("/dev/{group}/{name}: two logical volumes have this name")]
    VolumeTwice { group: String, name: String },
    #[error(
        "volume group {group}: too small: its volumes need {needed_bytes} bytes, its devices have at most {usable_bytes}"
    )]
    VolumesTooLarge { group: String, needed_bytes: u64, usable_bytes: u64 },
    #[error("/dev/{group}/{name}: does not fit, as a {kind} volume needs its room on several devices")]
    VolumeTooLarge { group: String, name: String, kind: &'static str },
    #[error("{device}: {bytes} bytes are too small for {format}, which needs {needed_bytes}")]
    FilesystemTooSmall { device: String, format: String, bytes: u64, needed_bytes: u64 },
    #[error("{device}: firmware can't read an EFI system partition on {why}")]
    EspUnreadable { device: String, why: &'static str },
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
