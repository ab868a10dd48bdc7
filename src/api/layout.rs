//! File system layouts: which disks are partitioned how, and what is mounted where.
//!
//! The same object stands in `/v1/filesystemlayout` and in an allocation. Empty lists arrive as `null`.
//! What its words may be is in [`values`], what makes it valid in [`validate`].

pub mod validate;
pub mod values;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::null_as_default;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemLayout {
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub description: String,
    /// In the order of their creation.
    #[serde(default, deserialize_with = "null_as_default")]
    pub filesystems: Vec<Filesystem>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub disks: Vec<Disk>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub raid: Vec<Raid>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub volumegroups: Vec<VolumeGroup>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub logicalvolumes: Vec<LogicalVolume>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub constraints: Constraints,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Mount point; absent: made, but neither mounted nor in fstab.
    #[serde(default)]
    pub path: Option<String>,
    /// Full path of the device; for tmpfs any text.
    #[serde(default, deserialize_with = "null_as_default")]
    pub device: String,
    /// `vfat`, `ext3`, `ext4`, `xfs`, `btrfs`, `swap`, `tmpfs` or `none`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub format: String,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub mountoptions: Vec<String>,
    /// Arguments put first on mkfs's command line.
    #[serde(default, deserialize_with = "null_as_default")]
    pub createoptions: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `/dev/nvme0n1`; or, in the agent, `by-id:…`, `by-path:…`, `serial:…`, `wwn:…`, or words such as
    /// `smallest nvme`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub device: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub partitions: Vec<Partition>,
    #[serde(default)]
    pub wipeonreinstall: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// 1 to 255.
    #[serde(default)]
    pub number: u32,
    /// Name in the GPT.
    #[serde(default)]
    pub label: Option<String>,
    /// MiB; 0: the rest of the disk.
    #[serde(default)]
    pub size: u64,
    /// `ef00`, `8300`, `fd00`, `8e00` or `ef02`; absent: `8300`.
    #[serde(default)]
    pub gpttype: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raid {
    /// `/dev/md0`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub arrayname: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub devices: Vec<String>,
    /// `0` or `1`; empty: 1.
    #[serde(default, deserialize_with = "null_as_default")]
    pub level: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub createoptions: Vec<String>,
    #[serde(default)]
    pub spares: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeGroup {
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub devices: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogicalVolume {
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub volumegroup: String,
    /// MiB; 0: the rest of the volume group.
    #[serde(default)]
    pub size: u64,
    /// `linear`, `striped` or `raid1`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub lvmtype: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraints {
    #[serde(default, deserialize_with = "null_as_default")]
    pub sizes: Vec<String>,
    /// Operating system → version constraint.
    #[serde(default, deserialize_with = "null_as_default")]
    pub images: BTreeMap<String, String>,
}

/// Device node of partition `number` of `device`, as the model names it: a `p` between only for NVMe. A disk that is
/// selected by something else than its path has partitions named as udev's links are: `serial:S3R1AL-part1`.
pub fn partition_device(device: &str, number: u32) -> String {
    if is_selector(device) {
        format!("{device}-part{number}")
    } else if device.starts_with("/dev/nvme") {
        format!("{device}p{number}")
    } else {
        format!("{device}{number}")
    }
}

/// Whether a disk is named by something else than a path: an addition of ours, resolved on the machine.
pub fn is_selector(device: &str) -> bool {
    !device.is_empty() && !device.starts_with('/')
}
