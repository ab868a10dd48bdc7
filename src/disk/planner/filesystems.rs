//! What is made on which device, and mounted where.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Planner;
use super::kept::signature_at;
use super::stack::{bytes_at_most, is_kept};
use crate::api::layout::Filesystem;
use crate::api::layout::values::Format;
use crate::disk::fault::Fault;
use crate::disk::plan::{DiskPlan, FilesystemAction, FilesystemPlan, FilesystemUuid, Place, Plan};
use crate::disk::probe::Signature;

impl<I: FnMut() -> Uuid> Planner<'_, I> {
    pub(super) fn plan_filesystems(&mut self, plan: &Plan) -> Vec<FilesystemPlan> {
        let mut by_device: BTreeMap<String, usize> = BTreeMap::new();
        let mut by_path: BTreeMap<String, String> = BTreeMap::new();
        let mut plans = Vec::new();
        for (i, filesystem) in (1..).zip(&self.layout.filesystems) {
            let Some(format) = Format::parse(&filesystem.format) else { continue };
            let device = filesystem.device.clone();
            if format != Format::Tmpfs
                && let Some(first) = by_device.insert(device.clone(), i)
            {
                self.faults.push(Fault::FilesystemTwice { device: device.clone(), first, second: i });
            }
            let path = self.check_path(filesystem, format);
            if let Some(path) = &path
                && let Some(first) = by_path.insert(path.clone(), device.clone())
            {
                self.faults.push(Fault::PathTwice { path: path.clone(), first, second: device.clone() });
            }
            self.check_label(filesystem, format);
            self.check_mount_options(filesystem);
            if let Some(place) = self.place_of(filesystem, format) {
                plans.extend(self.plan_filesystem(filesystem, format, path, place, plan));
            }
        }
        plans
    }

    /// `None`: not of this layout, which is told already.
    fn place_of(&mut self, filesystem: &Filesystem, format: Format) -> Option<Place> {
        if format == Format::Tmpfs {
            return Some(Place::Memory);
        }
        let device = &filesystem.device;
        let place = self.locate(device)?;
        self.check_bare(device, &place);
        if let Some(user) = self.user_of(device) {
            let second = format!("a file system ({format})");
            self.faults.push(Fault::DeviceTwice { device: device.clone(), first: user, second });
        }
        Some(place)
    }

    fn plan_filesystem(
        &mut self,
        filesystem: &Filesystem,
        format: Format,
        path: Option<String>,
        place: Place,
        plan: &Plan,
    ) -> Option<FilesystemPlan> {
        let (action, uuid) = match (format, is_kept(&place, plan)) {
            (Format::Tmpfs | Format::None, _) => (FilesystemAction::Nothing, None),
            (_, false) => {
                self.check_minimum(filesystem, format, &place, plan);
                (FilesystemAction::Make, Some(self.new_uuid(format)))
            }
            (_, true) => match place.disk().and_then(|device| plan.disk(device)) {
                Some(disk) => {
                    let found = self.kept_uuid(filesystem, format, &place, disk)?;
                    (FilesystemAction::Keep, Some(FilesystemUuid::Found(found)))
                }
                // Its array or group is started, and what is on it looked at, right before anything is written.
                None => (FilesystemAction::Keep, None),
            },
        };
        Some(FilesystemPlan {
            device: filesystem.device.clone(),
            place,
            format,
            action,
            path,
            label: filesystem.label.clone().filter(|label| !label.is_empty()),
            uuid,
            mount_options: filesystem.mountoptions.clone(),
            create_options: filesystem.createoptions.clone(),
        })
    }

    fn check_minimum(&mut self, filesystem: &Filesystem, format: Format, place: &Place, plan: &Plan) {
        if let Some(needed_bytes) = format.minimum_bytes()
            && let Some(bytes) = bytes_at_most(place, plan)
            && bytes < needed_bytes
        {
            let (device, format) = (filesystem.device.clone(), format.to_string());
            self.faults.push(Fault::FilesystemTooSmall { device, format, bytes, needed_bytes });
        }
    }

    fn new_uuid(&mut self, format: Format) -> FilesystemUuid {
        let uuid = (self.new_id)();
        match format {
            // 0 would mean "has none" to blkid.
            Format::Vfat => FilesystemUuid::Fat(uuid.as_fields().0.max(1)),
            Format::Ext3 | Format::Ext4 | Format::Xfs | Format::Btrfs | Format::Swap | Format::Tmpfs | Format::None => {
                FilesystemUuid::Full(uuid)
            }
        }
    }

    /// A kept disk must already hold what the layout says; only then mounting it without making it is right.
    fn kept_uuid(&mut self, filesystem: &Filesystem, format: Format, place: &Place, disk: &DiskPlan) -> Option<String> {
        let signature = signature_at(place, &disk.disk);
        match signature {
            Some(Signature { kind, uuid: Some(uuid), .. }) if *kind == format.as_str() => return Some(uuid.clone()),
            _ => {}
        }
        // Where the disk itself is a fault already, this would only repeat it.
        if disk.disk.content.is_some() && (!disk.partitions.is_empty() || matches!(place, Place::WholeDisk { .. })) {
            let found = signature.map_or("nothing known".to_owned(), ToString::to_string);
            let why = format!("{} holds {found} instead of {format}", filesystem.device);
            self.faults.push(Fault::KeptDiskDiffers { device: disk.disk.device.clone(), why });
        }
        None
    }

    fn check_path(&mut self, filesystem: &Filesystem, format: Format) -> Option<String> {
        // Swap has no mount point whatever stands there; by habit it is "none" or "swap".
        let text = filesystem.path.as_deref().filter(|path| !path.is_empty() && format != Format::Swap)?;
        let device = filesystem.device.clone();
        let Some(path) = clean_path(text) else {
            self.faults.push(Fault::BadPath { device, path: text.to_owned() });
            return None;
        };
        let below = |top: &str| path == top || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
        if ["/proc", "/sys", "/dev"].into_iter().any(below) && format != Format::Tmpfs {
            self.faults.push(Fault::ReservedPath { device, path });
            return None;
        }
        if format == Format::None {
            self.faults.push(Fault::NothingToMount { device, path });
            return None;
        }
        Some(path)
    }

    fn check_label(&mut self, filesystem: &Filesystem, format: Format) {
        let Some(label) = filesystem.label.clone() else { return };
        let device = filesystem.device.clone();
        if label.contains(char::is_control) {
            self.faults.push(Fault::LabelUnprintable { device, label });
        } else if let Some(limit) = format.label_limit()
            && label.len() > limit
        {
            let (format, bytes) = (format.to_string(), label.len());
            self.faults.push(Fault::LabelTooLong { device, label, format, bytes, limit });
        }
    }

    /// One line of fstab is six words, so a blank in an option would shift the others.
    fn check_mount_options(&mut self, filesystem: &Filesystem) {
        for option in &filesystem.mountoptions {
            if option.is_empty() || option.contains(|c: char| c.is_whitespace() || c == '\0') {
                let (device, option) = (filesystem.device.clone(), option.clone());
                self.faults.push(Fault::BadMountOption { device, option });
            }
        }
    }
}

/// Absolute, without empty, `.` or `..` components, and writable in one word of fstab.
pub(super) fn clean_path(text: &str) -> Option<String> {
    if !text.starts_with('/') || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return None;
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") { None } else { Some(format!("/{}", parts.join("/"))) }
}

/// `/` has depth 0.
fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

pub(super) fn mount_order(filesystems: &[FilesystemPlan]) -> Vec<String> {
    let mounted = filesystems.iter().filter(|fs| fs.is_mounted());
    let mut paths: Vec<String> = mounted.filter_map(|fs| fs.path.clone()).collect();
    paths.sort_by_key(|path| depth(path));
    paths
}
