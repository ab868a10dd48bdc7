//! What will become of which disk: a value that can be shown, compared with the disks again, and carried out.

use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::device::DiskFacts;
use crate::api::layout::values::{Format, GptType, RaidLevel, VolumeKind};
pub use crate::sys::firmware::Firmware;
use crate::sys::units::Bytes;

/// Target of the log line that carries a plan as JSON in its field `plan`.
pub const LOG_TARGET: &str = "drophammer::plan";

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
    /// Device of the first disk that holds `/`: where a boot loader for BIOS goes.
    pub boot_disk: String,
    /// In the layout's order.
    pub disks: Vec<DiskPlan>,
    /// In the order of their creation.
    pub arrays: Vec<ArrayPlan>,
    /// In the order of their creation.
    pub groups: Vec<GroupPlan>,
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
    /// How the layout names the disk, when not by its path.
    pub selector: Option<String>,
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

/// What becomes of an array or a volume group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StackAction {
    Make,
    /// All of it is on kept disks: started and used as it is.
    Keep,
}

/// A device of the layout that an array or a volume group is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// As the layout names it.
    pub device: String,
    pub place: Place,
}

/// Software RAID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArrayPlan {
    /// `/dev/md0`, or `/dev/md/<name>`.
    pub device: String,
    pub action: StackAction,
    pub level: RaidLevel,
    /// Decided beforehand, so that the array is known again. Absent when it is kept.
    pub uuid: Option<Uuid>,
    /// Those with data first, then the spares.
    pub members: Vec<Member>,
    pub spares: u32,
    /// Arguments for mdadm, before the members.
    pub create_options: Vec<String>,
}

impl ArrayPlan {
    /// As mdadm prints it and `rd.md.uuid=` takes it: four groups of eight digits.
    pub fn uuid_text(&self) -> Option<String> {
        let digits = self.uuid?.simple().to_string();
        let groups: Vec<&str> = [0, 8, 16, 24].iter().filter_map(|at| digits.get(*at..at + 8)).collect();
        Some(groups.join(":"))
    }

    /// Version of the super block that the options ask for: `1.0`; `None`: mdadm's own choice, 1.2.
    pub fn metadata(&self) -> Option<&str> {
        let options = &self.create_options;
        let joined =
            options.iter().find_map(|option| option.strip_prefix("--metadata=").or(option.strip_prefix("-e=")));
        let next = || {
            let flag = options.iter().position(|option| option == "--metadata" || option == "-e")?;
            options.get(flag + 1).map(String::as_str)
        };
        joined.or_else(next)
    }
}

/// Volume group of LVM with its logical volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupPlan {
    pub name: String,
    pub action: StackAction,
    pub devices: Vec<Member>,
    /// Of the physical volumes, in the order of `devices`; decided beforehand. Empty when the group is kept.
    pub device_uuids: Vec<Uuid>,
    pub tags: Vec<String>,
    /// In the order of their creation.
    pub volumes: Vec<VolumePlan>,
}

impl GroupPlan {
    /// The id of a physical volume as lvm writes it.
    pub fn lvm_uuid(uuid: &Uuid) -> String {
        let digits = uuid.simple().to_string();
        let groups = [(0, 6), (6, 10), (10, 14), (14, 18), (18, 22), (22, 26), (26, 32)];
        groups.iter().filter_map(|(from, to)| digits.get(*from..*to)).collect::<Vec<_>>().join("-")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumePlan {
    pub name: String,
    pub kind: VolumeKind,
    /// As the layout says; lvm rounds up to its extents. Absent: what is left of the group.
    pub size: Option<Bytes>,
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
    Array {
        device: String,
    },
    Volume {
        group: String,
        name: String,
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
    /// As in fstab: decided before it is made, or read from one that is kept. Absent: none, tmpfs, and what is kept on an
    /// array or logical volume, which is not running while the plan is made.
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

    pub fn array(&self, device: &str) -> Option<&ArrayPlan> {
        self.arrays.iter().find(|array| array.device == device)
    }

    pub fn group(&self, name: &str) -> Option<&GroupPlan> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// Disks that hold something, at the bottom of arrays and volume groups; each once, in the order of the members.
    pub fn disks_below(&self, place: &Place) -> Vec<String> {
        self.bottom(place).into_iter().filter_map(|place| place.disk().map(str::to_owned)).fold(
            Vec::new(),
            |mut disks, disk| {
                if !disks.contains(&disk) {
                    disks.push(disk);
                }
                disks
            },
        )
    }

    /// Partitions and whole disks below a place.
    pub fn bottom(&self, place: &Place) -> Vec<Place> {
        let members = |members: &[Member]| members.iter().flat_map(|member| self.bottom(&member.place)).collect();
        match place {
            Place::Partition { .. } | Place::WholeDisk { .. } => vec![place.clone()],
            Place::Array { device } => self.array(device).map(|array| members(&array.members)).unwrap_or_default(),
            Place::Volume { group, .. } => self.group(group).map(|group| members(&group.devices)).unwrap_or_default(),
            Place::Memory => Vec::new(),
        }
    }

    /// Id of the array below `/`, directly or under its volume group, as the kernel's `rd.md.uuid=` takes it.
    pub fn root_array_uuid(&self) -> Option<String> {
        let root = &self.filesystem_at("/")?.place;
        let places: Vec<&Place> = match root {
            Place::Volume { group, .. } => self.group(group)?.devices.iter().map(|member| &member.place).collect(),
            Place::Array { .. } | Place::Partition { .. } | Place::WholeDisk { .. } | Place::Memory => vec![root],
        };
        places.into_iter().find_map(|place| match place {
            Place::Array { device } => self.array(device)?.uuid_text(),
            Place::Partition { .. } | Place::WholeDisk { .. } | Place::Volume { .. } | Place::Memory => None,
        })
    }

    /// Disk and number of each partition that a mirrored EFI system partition lies on; empty when it is no array.
    pub fn esp_members(&self) -> Vec<(String, u32)> {
        let Some(FilesystemPlan { place: place @ Place::Array { .. }, .. }) = self.esp() else { return Vec::new() };
        let partition = |place| match place {
            Place::Partition { disk, number } => Some((disk, number)),
            Place::WholeDisk { .. } | Place::Array { .. } | Place::Volume { .. } | Place::Memory => None,
        };
        self.bottom(place).into_iter().filter_map(partition).collect()
    }

    /// All arrays with their ids, for the installed system's mdadm.conf; empty when one is kept, whose id only it knows.
    pub fn array_uuids(&self) -> Vec<(String, String)> {
        let pair = |array: &ArrayPlan| Some((array.device.clone(), array.uuid_text()?));
        self.arrays.iter().map(pair).collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// All disks that hold `/`: each can boot the machine by BIOS when it is a mirror.
    pub fn boot_disks(&self) -> Vec<String> {
        self.filesystem_at("/").map(|root| self.disks_below(&root.place)).unwrap_or_default()
    }
}

/// Where boot loaders look for the EFI system partition.
pub const ESP_PATHS: [&str; 3] = ["/boot/efi", "/efi", "/boot"];

impl FilesystemPlan {
    /// Whether it is mounted below the target while installing.
    pub fn is_mounted(&self) -> bool {
        match self.format {
            Format::Vfat | Format::Ext3 | Format::Ext4 | Format::Xfs | Format::Btrfs => self.path.is_some(),
            Format::Swap | Format::Tmpfs | Format::None => false,
        }
    }
}

impl Place {
    /// The disk it is on, when that is one only by its kind.
    pub fn disk(&self) -> Option<&str> {
        match self {
            Self::Partition { disk, .. } | Self::WholeDisk { disk } => Some(disk),
            Self::Array { .. } | Self::Volume { .. } | Self::Memory => None,
        }
    }
}
