//! What will become of which disk: a value that can be shown, compared with the disks again, and carried out.

use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::device::DiskFacts;
use crate::api::layout::values::{Format, GptType};
pub use crate::sys::firmware::Firmware;
use crate::sys::units::Bytes;

/// Whether disks with `wipeonreinstall: false` are to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every disk of the layout is made anew; the machine's disks were erased before.
    Install,
    Reinstall,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Id of the layout; empty when it has none.
    pub layout: String,
    pub firmware: Firmware,
    pub mode: Mode,
    /// Device of the disk that holds `/`: where a boot loader for BIOS goes.
    pub boot_disk: String,
    /// In the layout's order.
    pub disks: Vec<DiskPlan>,
    /// In the order of their creation.
    pub filesystems: Vec<FilesystemPlan>,
    /// Mount points, parents first. tmpfs and swap are not mounted during an installation.
    pub mount_order: Vec<String>,
    /// Devices outside the layout, which are left alone.
    pub untouched: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiskPlan {
    /// What was found when the plan was made; compared again before anything is written.
    pub disk: DiskFacts,
    pub action: DiskAction,
    /// Of the partition table; absent without one.
    pub guid: Option<Uuid>,
    /// What is on the disk now and will be gone, for people.
    pub loses: Vec<String>,
    /// In the layout's order.
    pub partitions: Vec<PartitionPlan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskAction {
    /// A new partition table.
    Partition,
    /// No partitions in the layout: signatures are removed, then the disk is a device for a file system or stays empty.
    Blank,
    /// Not written to.
    Keep,
}

impl DiskAction {
    pub fn is_made(self) -> bool {
        match self {
            Self::Partition | Self::Blank => true,
            Self::Keep => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionPlan {
    /// 1 to 128; its entry in the table is this − 1.
    pub number: u32,
    /// In the GPT; at most 36 UTF-16 units.
    pub name: String,
    #[serde(rename = "type")]
    pub gpt_type: GptType,
    pub guid: Uuid,
    /// In sectors of the disk.
    pub first_lba: u64,
    /// Inclusive.
    pub last_lba: u64,
    pub size: Bytes,
    /// Not in the layout, added by us, and why.
    pub added: Option<&'static str>,
}

/// Where a file system lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Partition {
        /// The disk's device.
        disk: String,
        number: u32,
    },
    WholeDisk {
        disk: String,
    },
    Memory,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilesystemPlan {
    /// As the layout names it; the kernel's node may differ: see [`super::device::partition_node`].
    pub device: String,
    pub place: Place,
    pub format: Format,
    pub action: FilesystemAction,
    /// Where it is mounted in the installed system, without `.` or double slashes. Absent: made and not mounted.
    pub path: Option<String>,
    /// Never empty.
    pub label: Option<String>,
    /// As in fstab: decided before it is made, or read from one that is kept. Absent: none, tmpfs.
    pub uuid: Option<FilesystemUuid>,
    pub mount_options: Vec<String>,
    pub create_options: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesystemAction {
    Make,
    /// It is on a kept disk: only mounted.
    Keep,
    /// `none` and `tmpfs`.
    Nothing,
}

/// A file system's id in the form that its format uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesystemUuid {
    Full(Uuid),
    /// FAT's serial number.
    Fat(u32),
    /// As read from a kept file system.
    Found(String),
}

impl std::fmt::Display for FilesystemUuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(uuid) => write!(f, "{uuid}"),
            Self::Fat(serial) => write!(f, "{:04X}-{:04X}", serial >> 16, serial & 0xffff),
            Self::Found(text) => f.write_str(text),
        }
    }
}

impl Serialize for FilesystemUuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Plan {
    /// File systems that are mounted while installing, parents first.
    pub fn mounted(&self) -> impl Iterator<Item = &FilesystemPlan> {
        self.mount_order.iter().filter_map(|path| self.filesystem_at(path))
    }

    /// The file system mounted at `path`, such as `/` or `/boot/efi`.
    pub fn filesystem_at(&self, path: &str) -> Option<&FilesystemPlan> {
        self.filesystems.iter().find(|fs| fs.is_mounted() && fs.path.as_deref() == Some(path))
    }

    /// UUID of the file system at `/`, for the kernel's `root=`. (Upstream goes by the label `root`, and has none when
    /// the layout labels it otherwise.)
    pub fn root_uuid(&self) -> Option<String> {
        self.filesystem_at("/")?.uuid.as_ref().map(ToString::to_string)
    }

    /// The EFI system partition, as mounted.
    pub fn esp(&self) -> Option<&FilesystemPlan> {
        ESP_PATHS.iter().filter_map(|path| self.filesystem_at(path)).find(|fs| fs.format == Format::Vfat)
    }

    pub fn disk(&self, device: &str) -> Option<&DiskPlan> {
        self.disks.iter().find(|disk| disk.disk.device == device)
    }
}

/// Where boot loaders look for the EFI system partition.
pub const ESP_PATHS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];

impl FilesystemPlan {
    /// Whether it is mounted below the target while installing.
    pub fn is_mounted(&self) -> bool {
        match self.format {
            Format::Vfat | Format::Ext3 | Format::Ext4 => self.path.is_some(),
            Format::Swap | Format::Tmpfs | Format::None => false,
        }
    }
}

impl Place {
    /// The disk it is on.
    pub fn disk(&self) -> Option<&str> {
        match self {
            Self::Partition { disk, .. } | Self::WholeDisk { disk } => Some(disk),
            Self::Memory => None,
        }
    }
}
