//! The words that a layout may use, as types.

use serde::Serialize;
use uuid::{Uuid, uuid};

/// Type of a GPT partition, by sgdisk's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum GptType {
    #[serde(rename = "ef00")]
    EfiSystem,
    #[serde(rename = "8300")]
    Linux,
    #[serde(rename = "fd00")]
    LinuxRaid,
    #[serde(rename = "8e00")]
    LinuxLvm,
    /// Where GRUB's core image lies on a GPT disk that a BIOS boots. An addition of ours: metal-stack's model lacks it.
    #[serde(rename = "ef02")]
    BiosBoot,
}

impl GptType {
    const ALL: [Self; 5] = [Self::EfiSystem, Self::Linux, Self::LinuxRaid, Self::LinuxLvm, Self::BiosBoot];

    /// Lower case only, as upstream.
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    pub fn code(self) -> &'static str {
        match self {
            Self::EfiSystem => "ef00",
            Self::Linux => "8300",
            Self::LinuxRaid => "fd00",
            Self::LinuxLvm => "8e00",
            Self::BiosBoot => "ef02",
        }
    }

    pub fn guid(self) -> Uuid {
        match self {
            Self::EfiSystem => uuid!("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
            Self::Linux => uuid!("0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
            Self::LinuxRaid => uuid!("A19D880F-05FC-4D3B-A006-743F0F84911E"),
            Self::LinuxLvm => uuid!("E6D6D379-F507-44C2-A23C-238F2A3DF928"),
            Self::BiosBoot => uuid!("21686148-6449-6E6F-744E-656564454649"),
        }
    }
}

/// Format of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Vfat,
    Ext3,
    Ext4,
    /// An addition of ours, as btrfs: metal-stack's model lacks them.
    Xfs,
    Btrfs,
    Swap,
    Tmpfs,
    /// The device is left as it is.
    None,
}

impl Format {
    const ALL: [Self; 8] =
        [Self::Vfat, Self::Ext3, Self::Ext4, Self::Xfs, Self::Btrfs, Self::Swap, Self::Tmpfs, Self::None];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vfat => "vfat",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Swap => "swap",
            Self::Tmpfs => "tmpfs",
            Self::None => "none",
        }
    }

    /// Longest label in bytes, by the on-disk formats; `None`: has no label.
    pub fn label_limit(self) -> Option<usize> {
        match self {
            Self::Vfat => Some(11),
            Self::Ext3 | Self::Ext4 => Some(16),
            Self::Xfs => Some(12),
            Self::Btrfs => Some(255),
            // 16 bytes on disk, of which mkswap uses 15.
            Self::Swap => Some(15),
            Self::Tmpfs | Self::None => None,
        }
    }
}

impl Format {
    /// The smallest device that its maker takes, in bytes; `None`: none that a partition of MiB could miss.
    pub fn minimum_bytes(self) -> Option<u64> {
        match self {
            // xfsprogs since 5.19.
            Self::Xfs => Some(300 << 20),
            // btrfs-progs: btrfs_min_dev_size() with metadata in two copies.
            Self::Btrfs => Some(109 << 20),
            Self::Vfat | Self::Ext3 | Self::Ext4 | Self::Swap | Self::Tmpfs | Self::None => None,
        }
    }
}

/// Level of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RaidLevel {
    /// Data spread over all members; the loss of one is the loss of all.
    Raid0,
    /// The same data on every member.
    Raid1,
}

impl RaidLevel {
    /// Empty: a mirror, as upstream.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::Raid0),
            "" | "1" => Some(Self::Raid1),
            _ => None,
        }
    }

    /// As mdadm and the kernel name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
        }
    }
}

/// How a logical volume lies on its volume group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    Linear,
    /// Over all devices of the volume group.
    Striped,
    /// Two copies.
    Raid1,
}

impl VolumeKind {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "linear" => Some(Self::Linear),
            "striped" => Some(Self::Striped),
            "raid1" => Some(Self::Raid1),
            _ => None,
        }
    }

    /// As lvm names the segment type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Striped => "striped",
            Self::Raid1 => "raid1",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
