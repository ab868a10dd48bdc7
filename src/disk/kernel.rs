//! What only some layouts need of the kernel: RAID, device mapper, file systems.
//!
//! There is no modprobe in the initramfs that the kernel could call, so that modules are loaded before they are missed.

use std::collections::BTreeSet;
use std::fs;

use super::plan::Plan;
use crate::api::layout::values::{Format, RaidLevel, VolumeKind};
use crate::init::modules::ModuleDb;
use crate::init::modules::load::load_named;
use crate::sys::roots::Roots;

/// Loads the modules of a plan, and names what the kernel lacks after that. Nothing else is changed.
pub fn prepare_kernel(roots: &Roots, plan: &Plan) -> Vec<String> {
    let modules = modules(plan);
    let has_md = || fs::exists(roots.proc.join("mdstat")).unwrap_or(false);
    let has_dm = || {
        fs::read_to_string(roots.proc.join("misc"))
            .is_ok_and(|text| text.lines().any(|line| line.ends_with(" device-mapper")))
    };
    load_modules(roots, &modules);
    let mut missing = Vec::new();
    if !plan.arrays.is_empty() && !has_md() {
        missing.push("this kernel has no software RAID (md), which the layout needs".to_owned());
    }
    if !plan.groups.is_empty() && !has_dm() {
        missing.push("this kernel has no device mapper, which the layout's LVM needs".to_owned());
    }
    missing
}

/// Loads modules that a layout or an installed system needs. Those built in, or not there, are passed over.
pub(crate) fn load_modules(roots: &Roots, modules: &BTreeSet<&'static str>) {
    if modules.is_empty() {
        return;
    }
    let db = ModuleDb::read(&ModuleDb::running_kernel_dir());
    let names: Vec<&str> = modules.iter().copied().collect();
    load_named(roots, &db, &names, &mut |line| tracing::debug!("{line}"));
}

fn modules(plan: &Plan) -> BTreeSet<&'static str> {
    let arrays = plan.arrays.iter().flat_map(|array| array_modules(array.level));
    let volumes = plan.groups.iter().flat_map(|group| &group.volumes).flat_map(|volume| volume_modules(volume.kind));
    let filesystems = plan.filesystems.iter().filter_map(|filesystem| match filesystem.format {
        Format::Xfs => Some("xfs"),
        Format::Btrfs => Some("btrfs"),
        // The agent has loaded them, or they need nothing.
        Format::Vfat | Format::Ext3 | Format::Ext4 | Format::Swap | Format::Tmpfs | Format::None => None,
    });
    arrays.chain(plan.groups.iter().map(|_| "dm_mod")).chain(volumes).chain(filesystems).collect()
}

/// What an array of this level needs.
pub(super) fn array_modules(level: RaidLevel) -> [&'static str; 2] {
    match level {
        RaidLevel::Raid0 => ["md_mod", "raid0"],
        RaidLevel::Raid1 => ["md_mod", "raid1"],
    }
}

/// What a logical volume of this kind needs.
pub(super) fn volume_modules(kind: VolumeKind) -> Vec<&'static str> {
    match kind {
        VolumeKind::Linear | VolumeKind::Striped => vec!["dm_mod"],
        VolumeKind::Raid1 => vec!["dm_mod", "dm_raid"],
    }
}
