//! The root of a system that is installed already: found by its ids, and started so that nothing changes on any disk.
//!
//! Names such as `/dev/sdb` are not relied on where there is an id: a disk that failed or was added shifts them. The ids
//! are those on the installed kernel's command line, `root=UUID=` and `rd.md.uuid=`; a volume group has its name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tracing::{info, warn};
use uuid::Uuid;

use super::device::{DiskFacts, DiskKind, node_at, read_disks, read_signature};
use super::kernel::{array_modules, load_modules, volume_modules};
use super::lvm::{FoundDevices, activate_read_only, deactivate_volume, find_groups};
use super::probe::Signature;
use super::raid::{assemble_read_only, read_array_uuid, stop_device};
use super::selector::resolve;
use crate::api::layout::values::{RaidLevel, VolumeKind};
use crate::api::layout::{FilesystemLayout, LogicalVolume, Raid};
use crate::inventory::disk::device_name;
use crate::sys::roots::Roots;

/// A root whose arrays and volume run read-only. Dropped without [`InstalledRoot::stop`], they go on running.
#[derive(Debug, Default)]
pub struct InstalledRoot {
    node: PathBuf,
    format: &'static str,
    mounted: Option<PathBuf>,
    /// In the order of their start.
    arrays: Vec<String>,
    volume: Option<(LogicalVolume, Vec<PathBuf>)>,
}

impl InstalledRoot {
    /// Finds the root and mounts it at `target`. `layout` is what the system was installed by, `cmdline` its kernel's.
    pub fn mount(roots: &Roots, layout: &FilesystemLayout, cmdline: &str, target: &Path) -> Result<Self> {
        let mut root = Self::default();
        match root.mount_at(roots, layout, cmdline, target) {
            Ok(()) => Ok(root),
            Err(error) => {
                if let Err(error) = root.stop() {
                    warn!(error = format!("{error:#}"), "what was started can't be stopped again");
                }
                Err(error)
            }
        }
    }

    fn mount_at(&mut self, roots: &Roots, layout: &FilesystemLayout, cmdline: &str, target: &Path) -> Result<()> {
        let disks = read_disks(roots).context("listing the disks")?;
        let layout = resolve(layout, &disks).layout;
        let ids = RootIds::parse(cmdline);
        let device = root_device(&layout);
        let stack = Stack::of(&layout, device);
        load_modules(roots, &stack.modules());
        for raid in &stack.arrays {
            self.start_array(raid, &stack, &ids).with_context(|| format!("starting {}", raid.arrayname))?;
        }
        self.node = match (stack.volume, stack.arrays.last()) {
            (Some(volume), _) => self.start_volume(roots, &disks, &layout, volume)?,
            (None, Some(array)) => PathBuf::from(&array.arrayname),
            (None, None) => find_filesystem(&filesystems(roots, &disks), ids.filesystem.as_deref(), device)?,
        };
        let found = read_signature(&self.node).with_context(|| format!("no file system on {}", self.node.display()))?;
        if let Some(expected) = &ids.filesystem {
            let uuid = found.uuid.as_deref().unwrap_or("no id");
            ensure!(uuid == expected, "{} holds {uuid}, and not the root {expected}", self.node.display());
        }
        self.format = found.kind;
        self.mount_read_only(target)
    }

    /// Its kernel finishes what a power cut left in the journal; not we.
    fn mount_read_only(&mut self, target: &Path) -> Result<()> {
        let Self { node, format, .. } = self;
        let options = match *format {
            "ext3" | "ext4" => Some("noload"),
            "xfs" => Some("norecovery"),
            "btrfs" => Some("rescue=nologreplay"),
            _ => None,
        };
        fs::create_dir_all(target).with_context(|| format!("creating {}", target.display()))?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        mount(Some(&*node), target, Some(*format), flags, options)
            .with_context(|| format!("mounting {} ({format}) read-only", node.display()))?;
        info!("root of the installed system: {} ({format}), read-only", node.display());
        self.mounted = Some(target.to_owned());
        Ok(())
    }

    fn start_array(&mut self, raid: &Raid, stack: &Stack, ids: &RootIds) -> Result<()> {
        let uuid = match (&ids.arrays[..], &stack.arrays[..]) {
            // The command line names the first array below the root. With several, each is asked itself.
            ([uuid], [_]) => uuid.clone(),
            _ => raid
                .devices
                .iter()
                .find_map(|member| read_array_uuid(Path::new(member)))
                .with_context(|| format!("none of {} is part of an array", raid.devices.join(", ")))?,
        };
        assemble_read_only(&raid.arrayname, &uuid)?;
        self.arrays.push(raid.arrayname.clone());
        Ok(())
    }

    fn start_volume(
        &mut self,
        roots: &Roots,
        disks: &[DiskFacts],
        layout: &FilesystemLayout,
        volume: &LogicalVolume,
    ) -> Result<PathBuf> {
        let arrays = self.arrays.iter().map(PathBuf::from);
        let on_disks = filesystems(roots, disks).into_iter().filter(|found| found.signature.kind == "lvm");
        let devices: Vec<PathBuf> = on_disks.map(|found| found.node).chain(arrays).collect();
        let group = layout.volumegroups.iter().find(|group| group.name == volume.volumegroup);
        let named: Vec<PathBuf> = group.iter().flat_map(|group| &group.devices).map(PathBuf::from).collect();
        let devices = choose_group(&volume.volumegroup, find_groups(&volume.volumegroup, &devices)?, &named)?;
        let node = activate_read_only(volume, &devices)?;
        self.volume = Some((volume.clone(), devices));
        Ok(node)
    }

    /// Unmounts it, and gives back what was started for it. All is tried; every fault is told.
    pub fn stop(self) -> Result<()> {
        let mut faults = Vec::new();
        if let Some(target) = &self.mounted
            && let Err(error) = umount2(target, MntFlags::UMOUNT_NOFOLLOW)
        {
            faults.push(format!("unmounting {}: {error}", target.display()));
        }
        if let Some((volume, devices)) = &self.volume
            && let Err(error) = deactivate_volume(volume, devices)
        {
            faults.push(format!("stopping volume {} of {}: {error:#}", volume.name, volume.volumegroup));
        }
        for array in self.arrays.iter().rev() {
            if let Err(error) = stop_device(array) {
                faults.push(format!("stopping {array}: {error:#}"));
            }
        }
        if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("; ")) }
    }
}

/// Device of the file system at `/`, as the layout names it; empty when it has none.
fn root_device(layout: &FilesystemLayout) -> &str {
    layout.filesystems.iter().find(|fs| fs.path.as_deref() == Some("/")).map_or("", |root| &root.device)
}

/// What a kernel command line says about its root.
#[derive(Debug, PartialEq, Eq)]
struct RootIds {
    /// Of `root=UUID=`.
    filesystem: Option<String>,
    /// Of `rd.md.uuid=`, as mdadm writes them.
    arrays: Vec<String>,
}

impl RootIds {
    fn parse(cmdline: &str) -> Self {
        let words = || cmdline.split_whitespace();
        Self {
            filesystem: words().filter_map(|word| word.strip_prefix("root=UUID=")).next_back().map(str::to_owned),
            arrays: words().filter_map(|word| word.strip_prefix("rd.md.uuid=")).filter_map(mdadm_uuid).collect(),
        }
    }
}

/// Four groups of eight digits, whatever the groups were before.
fn mdadm_uuid(text: &str) -> Option<String> {
    let digits = text.replace(':', "");
    let digits = Uuid::try_parse(&digits).ok()?.simple().to_string();
    let groups: Vec<&str> = [0, 8, 16, 24].iter().filter_map(|at| digits.get(*at..at + 8)).collect();
    Some(groups.join(":"))
}

/// What lies below a root.
struct Stack<'a> {
    /// In the order of their start.
    arrays: Vec<&'a Raid>,
    volume: Option<&'a LogicalVolume>,
}

impl<'a> Stack<'a> {
    fn of(layout: &'a FilesystemLayout, device: &str) -> Self {
        let is_it = |volume: &&LogicalVolume| format!("/dev/{}/{}", volume.volumegroup, volume.name) == device;
        let volume = layout.logicalvolumes.iter().find(is_it);
        let below: Vec<&str> = match volume {
            Some(volume) => {
                let groups = layout.volumegroups.iter().filter(|group| group.name == volume.volumegroup);
                groups.flat_map(|group| group.devices.iter().map(String::as_str)).collect()
            }
            None => vec![device],
        };
        Self { arrays: layout.raid.iter().filter(|raid| below.contains(&raid.arrayname.as_str())).collect(), volume }
    }

    fn modules(&self) -> BTreeSet<&'static str> {
        let levels = self.arrays.iter().map(|raid| RaidLevel::parse(&raid.level).unwrap_or(RaidLevel::Raid1));
        let kinds = self.volume.map(|volume| VolumeKind::parse(&volume.lvmtype).unwrap_or(VolumeKind::Linear));
        let volume = kinds.into_iter().flat_map(volume_modules);
        // A root of another kind is told by its own signature, and its driver is small.
        levels.flat_map(array_modules).chain(volume).chain(["xfs", "btrfs"]).collect()
    }
}

/// Something that lies on a partition or a whole disk, and that nobody uses.
#[derive(Debug)]
struct Found {
    node: PathBuf,
    signature: Signature,
}

fn filesystems(roots: &Roots, disks: &[DiskFacts]) -> Vec<Found> {
    let fixed = disks.iter().filter(|disk| disk.kind == DiskKind::Fixed);
    let found = fixed.flat_map(|disk| {
        let whole = disk.content.as_ref().and_then(|content| content.signature.as_ref());
        let whole = whole.map(|signature| (disk.name.as_str(), signature));
        let partitions = disk.partitions.iter().filter_map(|p| Some((p.name.as_str(), p.signature.as_ref()?)));
        whole.into_iter().chain(partitions)
    });
    // A half of a mirror looks like what is on the mirror.
    let free = found.filter(|(name, _)| !is_held(roots, name));
    free.map(|(name, signature)| Found { node: node_at(roots, &device_name(name)), signature: signature.clone() })
        .collect()
}

/// Source: `/sys/class/block/<name>/holders`: arrays and mappings on it.
fn is_held(roots: &Roots, name: &str) -> bool {
    let holders = roots.sys.join("class/block").join(name).join("holders");
    fs::read_dir(holders).is_ok_and(|mut entries| entries.next().is_some())
}

/// By its id where that is known; the device's name decides only between copies.
fn find_filesystem(found: &[Found], uuid: Option<&str>, device: &str) -> Result<PathBuf> {
    let Some(uuid) = uuid else {
        ensure!(!device.is_empty(), "neither the layout nor the kernel's command line names a root");
        return Ok(PathBuf::from(device));
    };
    let fits: Vec<&PathBuf> =
        found.iter().filter(|f| f.signature.uuid.as_deref() == Some(uuid)).map(|f| &f.node).collect();
    match &fits[..] {
        [node] => Ok((*node).clone()),
        [] => bail!("no disk holds the root {uuid}"),
        several if several.iter().any(|node| *node == Path::new(device)) => Ok(PathBuf::from(device)),
        several => bail!("the root {uuid} is there {} times: {several:?}", several.len()),
    }
}

/// The devices of the only group of a name; of several, of the one that has a device which the layout names.
fn choose_group(name: &str, groups: Vec<FoundDevices>, named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let count = groups.len();
    let mut fits: Vec<FoundDevices> = groups
        .into_iter()
        .filter(|group| count == 1 || group.devices.iter().any(|device| named.contains(device)))
        .collect();
    match (fits.pop(), fits.is_empty()) {
        (Some(group), true) => Ok(group.devices),
        (None, _) if count == 0 => bail!("no disk has a part of volume group {name}"),
        (Some(_), false) | (None, _) => bail!("there are {count} volume groups {name}, and no telling which is meant"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(text: &str) -> FilesystemLayout {
        serde_json::from_str(text).unwrap()
    }

    fn found(node: &str, kind: &'static str, uuid: &str) -> Found {
        Found { node: node.into(), signature: Signature { kind, uuid: Some(uuid.into()), label: None } }
    }

    fn group(uuid: &str, devices: &[&str]) -> FoundDevices {
        FoundDevices { uuid: uuid.into(), devices: devices.iter().map(PathBuf::from).collect() }
    }

    #[test]
    fn ids_are_those_of_the_command_line() {
        let ids = RootIds::parse("quiet root=UUID=4d2f2d5e-01 rd.md.uuid=4d2f2d5e:00004000:80000000:000000AB ro");
        assert_eq!(ids.filesystem.as_deref(), Some("4d2f2d5e-01"));
        assert_eq!(ids.arrays, ["4d2f2d5e:00004000:80000000:000000ab"]);
        let other = RootIds::parse("root=/dev/md1 rd.md.uuid=what");
        assert_eq!(other, RootIds { filesystem: None, arrays: vec![] });
    }

    #[test]
    fn a_stack_holds_only_what_is_below_the_root() {
        let layout = layout(
            r#"{"raid": [{"arrayname": "/dev/md0", "level": "1"}, {"arrayname": "/dev/md1", "level": "1"},
                         {"arrayname": "/dev/md2", "level": "0"}],
                "volumegroups": [{"name": "system", "devices": ["/dev/md1"]}],
                "logicalvolumes": [{"name": "var", "volumegroup": "system", "lvmtype": "linear"},
                                   {"name": "root", "volumegroup": "system", "lvmtype": "raid1"}],
                "filesystems": [{"path": "/boot/efi", "device": "/dev/md0", "format": "vfat"},
                                {"path": "/", "device": "/dev/system/root", "format": "ext4"}]}"#,
        );
        let stack = Stack::of(&layout, root_device(&layout));
        assert_eq!(stack.volume.map(|volume| volume.name.as_str()), Some("root"));
        assert_eq!(stack.arrays.iter().map(|raid| raid.arrayname.as_str()).collect::<Vec<_>>(), ["/dev/md1"]);
        assert!(["md_mod", "raid1", "dm_mod", "dm_raid"].iter().all(|name| stack.modules().contains(name)));
        let mirror = Stack::of(&layout, "/dev/md2");
        assert!(mirror.volume.is_none() && mirror.arrays.len() == 1 && mirror.modules().contains("raid0"));
        let plain = Stack::of(&layout, "/dev/sda2");
        assert!(plain.volume.is_none() && plain.arrays.is_empty());
    }

    #[test]
    fn a_root_is_known_by_its_id_and_a_copy_of_it_is_told() {
        let disks = [found("/dev/sda2", "ext4", "a"), found("/dev/sdb2", "ext4", "b"), found("/dev/sdc2", "ext4", "b")];
        assert_eq!(find_filesystem(&disks, Some("a"), "/dev/sdb2").unwrap(), Path::new("/dev/sda2"));
        assert_eq!(find_filesystem(&disks, Some("b"), "/dev/sdb2").unwrap(), Path::new("/dev/sdb2"));
        assert_eq!(find_filesystem(&disks, None, "/dev/sdb2").unwrap(), Path::new("/dev/sdb2"));
        let error = find_filesystem(&disks, Some("b"), "/dev/sda2").unwrap_err().to_string();
        assert_eq!(error, r#"the root b is there 2 times: ["/dev/sdb2", "/dev/sdc2"]"#);
        assert_eq!(find_filesystem(&disks, Some("c"), "").unwrap_err().to_string(), "no disk holds the root c");
        assert!(find_filesystem(&disks, None, "").is_err());
    }

    #[test]
    fn of_groups_with_one_name_the_layout_s_is_taken() {
        let named = [PathBuf::from("/dev/sdb1")];
        let (ours, other) = (|| group("u1", &["/dev/sdb1", "/dev/sdd1"]), || group("u2", &["/dev/sdc1"]));
        assert_eq!(choose_group("v", vec![other(), ours()], &named).unwrap(), ours().devices);
        assert_eq!(choose_group("v", vec![other()], &named).unwrap(), other().devices, "its disk has another name now");
        let told = |groups| choose_group("v", groups, &[]).unwrap_err().to_string();
        assert_eq!(told(vec![]), "no disk has a part of volume group v");
        assert_eq!(told(vec![ours(), other()]), "there are 2 volume groups v, and no telling which is meant");
    }
}
