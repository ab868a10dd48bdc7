//! Volume groups and logical volumes, by lvm.
//!
//! Every call names the devices that it may look at, so that no group of another disk, whatever its name, is seen or
//! changed; and it is told that there is no udev to wait for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::plan::{GroupPlan, VolumePlan};
use super::tool::{read_tool, run_tool};
use crate::api::layout::LogicalVolume;
use crate::api::layout::values::VolumeKind;
use crate::sys::units::Bytes;

pub const LVM: &str = "lvm";

/// lvm makes the nodes itself, and writes no copies of its metadata to a disk that is in RAM.
const CONFIG: &str = "activation{udev_sync=0 udev_rules=0 monitoring=0} \
                      devices{obtain_device_list_from_udev=0 multipath_component_detection=0 md_component_detection=0} \
                      backup{backup=0 archive=0}";
/// For looking at disks of which not all is known.
const MEMBER_CHECK: &str = "devices{obtain_device_list_from_udev=0 multipath_component_detection=0 \
                            md_component_detection=1 md_component_checks=full}";
/// lvm's default.
const EXTENT: u64 = 4 << 20;
const MIB: u64 = 1 << 20;

/// For the installed system, while it is made: there is no udev then. Upstream's.
pub const LVMLOCAL_CONF: &str = "# created by drophammer\n\
    activation {\n\tudev_sync = 0\n\tudev_rules = 0\n}\n\
    devices {\n\tmultipath_component_detection = 0\n\tmd_component_detection = 0\n\tobtain_device_list_from_udev = 0\n}\n";

/// Makes a group of `devices` (their nodes, in the plan's order) with its volumes, and compares it with the plan.
pub fn create_group(group: &GroupPlan, devices: &[PathBuf]) -> Result<()> {
    for (device, uuid) in devices.iter().zip(&group.device_uuids) {
        let uuid = GroupPlan::lvm_uuid(uuid);
        let node = device.display().to_string();
        let words = ["--force", "--force", "--yes", "--uuid", &uuid, "--norestorefile", &node];
        run_tool(LVM, &arguments("pvcreate", devices, &words))?;
    }
    run_tool(LVM, &create_arguments(group, devices))?;
    for volume in &group.volumes {
        run_tool(LVM, &volume_arguments(group, volume, devices))
            .with_context(|| format!("making logical volume {}", volume.name))?;
    }
    verify_group(group, devices)
}

/// Makes the nodes of a group's volumes. The group must be whole: lvm would start a mirror with one half.
pub fn activate_group(group: &GroupPlan, devices: &[PathBuf]) -> Result<()> {
    let [found] = &read_groups(group, devices)?[..] else { bail!("there is no volume group {}", group.name) };
    let (expected, known) = (group.devices.len().to_string(), &found.pv_count);
    ensure!(*known == expected, "volume group {} has {known} devices instead of {expected}", group.name);
    let missing = &found.vg_missing_pv_count;
    ensure!(missing == "0", "volume group {} lacks {missing} of its devices", group.name);
    run_tool(LVM, &arguments("vgchange", devices, &["--activate", "y", &group.name]))?;
    for volume in &group.volumes {
        let node = volume_node(&group.name, &volume.name);
        ensure!(node.exists(), "volume group {} has no volume {}", group.name, volume.name);
    }
    Ok(())
}

/// Takes the volumes from the kernel; nothing may use them. A group that has none there is as wanted.
pub fn deactivate_group(group: &GroupPlan, devices: &[PathBuf]) -> Result<()> {
    if !group.volumes.iter().any(|volume| volume_node(&group.name, &volume.name).exists()) {
        return Ok(());
    }
    Ok(run_tool(LVM, &arguments("vgchange", devices, &["--activate", "n", &group.name]))?)
}

/// A volume group that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDevices {
    pub uuid: String,
    /// Those of its physical volumes that are there.
    pub devices: Vec<PathBuf>,
}

/// All groups of a name, on whichever of `devices` they lie. Reads only. Halves of mirrors are passed over.
pub fn find_groups(name: &str, devices: &[PathBuf]) -> Result<Vec<FoundDevices>> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let fields = "pv_name,vg_name,vg_uuid";
    let words = ["--config", MEMBER_CHECK, "--readonly", "--reportformat", "json", "--options", fields];
    let report = parse_report(&read_tool(LVM, &arguments_with("pvs", devices, &words))?)?;
    Ok(groups_named(name, &report.pv))
}

fn groups_named(name: &str, devices: &[FoundDevice]) -> Vec<FoundDevices> {
    let mut groups: Vec<FoundDevices> = Vec::new();
    for FoundDevice { pv_name, vg_uuid, .. } in devices.iter().filter(|device| device.vg_name == name) {
        match groups.iter_mut().find(|group| group.uuid == *vg_uuid) {
            Some(group) => group.devices.push(PathBuf::from(pv_name)),
            None => groups.push(FoundDevices { uuid: vg_uuid.clone(), devices: vec![PathBuf::from(pv_name)] }),
        }
    }
    groups
}

/// Makes the node of one volume, which cannot be written to.
pub fn activate_read_only(volume: &LogicalVolume, devices: &[PathBuf]) -> Result<PathBuf> {
    let name = format!("{}/{}", volume.volumegroup, volume.name);
    let config = format!("{CONFIG} activation/read_only_volume_list=[\"{name}\"]");
    let words = ["--config", &config, "--activate", "y", &name];
    run_tool(LVM, &arguments_with("lvchange", devices, &words))?;
    let node = volume_node(&volume.volumegroup, &volume.name);
    ensure!(node.exists(), "lvm made no {}", node.display());
    Ok(node)
}

/// Takes one volume from the kernel.
pub fn deactivate_volume(volume: &LogicalVolume, devices: &[PathBuf]) -> Result<()> {
    let name = format!("{}/{}", volume.volumegroup, volume.name);
    Ok(run_tool(LVM, &arguments("lvchange", devices, &["--activate", "n", &name]))?)
}

/// Device mapper's node: dashes within the names are doubled.
pub fn volume_node(group: &str, volume: &str) -> PathBuf {
    Path::new("/dev/mapper").join(format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--")))
}

fn arguments(command: &str, devices: &[PathBuf], words: &[&str]) -> Vec<String> {
    arguments_with(command, devices, &[&["--config", CONFIG], words].concat())
}

/// With a configuration of the words' own.
fn arguments_with(command: &str, devices: &[PathBuf], words: &[&str]) -> Vec<String> {
    let devices: Vec<String> = devices.iter().map(|device| device.display().to_string()).collect();
    let devices = devices.join(",");
    [command, "--devices", &devices].iter().chain(words).map(ToString::to_string).collect()
}

fn create_arguments(group: &GroupPlan, devices: &[PathBuf]) -> Vec<String> {
    let mut arguments = arguments("vgcreate", devices, &["--verbose", "--yes", &group.name]);
    for tag in &group.tags {
        arguments.extend(["--addtag".to_owned(), tag.clone()]);
    }
    arguments.extend(devices.iter().map(|device| device.display().to_string()));
    arguments
}

fn volume_arguments(group: &GroupPlan, volume: &VolumePlan, devices: &[PathBuf]) -> Vec<String> {
    let words = ["--verbose", "--yes", "--name", &volume.name, "--wipesignatures", "y"];
    let mut arguments = arguments("lvcreate", devices, &words);
    match volume.size {
        Some(size) => arguments.extend(["--size".to_owned(), format!("{}m", size.0 / MIB)]),
        None => arguments.extend(["--extents".to_owned(), "100%FREE".to_owned()]),
    }
    let kind: Vec<String> = match volume.kind {
        VolumeKind::Linear => vec![],
        VolumeKind::Striped => {
            vec!["--type".into(), "striped".into(), "--stripes".into(), devices.len().to_string()]
        }
        VolumeKind::Raid1 => ["--type", "raid1", "--mirrors", "1", "--nosync"].map(String::from).to_vec(),
    };
    arguments.extend(kind);
    arguments.push(group.name.clone());
    arguments
}

fn verify_group(group: &GroupPlan, devices: &[PathBuf]) -> Result<()> {
    let volumes = read_report("lvs", "lv_name,lv_size,segtype", group, devices)?;
    let mut differences = group_differences(group, &read_groups(group, devices)?);
    differences.extend(volume_differences(group, &volumes.lv));
    if !differences.is_empty() {
        bail!("volume group {} is not as planned: {}", group.name, differences.join("; "));
    }
    Ok(())
}

fn read_groups(group: &GroupPlan, devices: &[PathBuf]) -> Result<Vec<FoundGroup>> {
    Ok(read_report("vgs", "vg_name,vg_tags,pv_count,vg_missing_pv_count", group, devices)?.vg)
}

fn read_report(command: &str, fields: &str, group: &GroupPlan, devices: &[PathBuf]) -> Result<Report> {
    let words = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options", fields, &group.name];
    parse_report(&read_tool(LVM, &arguments(command, devices, &words))?)
}

/// lvmreport(7): every value is a text.
#[derive(Default, Deserialize)]
struct Report {
    #[serde(default)]
    vg: Vec<FoundGroup>,
    #[serde(default)]
    lv: Vec<FoundVolume>,
    #[serde(default)]
    pv: Vec<FoundDevice>,
}

#[derive(Deserialize)]
struct FoundDevice {
    pv_name: String,
    vg_name: String,
    vg_uuid: String,
}

#[derive(Deserialize)]
struct FoundGroup {
    vg_name: String,
    /// Joined by comma, sorted.
    vg_tags: String,
    pv_count: String,
    vg_missing_pv_count: String,
}

#[derive(Deserialize)]
struct FoundVolume {
    lv_name: String,
    lv_size: String,
    segtype: String,
}

fn parse_report(text: &str) -> Result<Report> {
    #[derive(Deserialize)]
    struct Reports {
        report: Vec<Report>,
    }
    let reports: Reports = serde_json::from_str(text).context("reading lvm's report")?;
    Ok(reports.report.into_iter().next().unwrap_or_default())
}

fn group_differences(group: &GroupPlan, found: &[FoundGroup]) -> Vec<String> {
    let [found] = found else { return vec![format!("expected one group, found {}", found.len())] };
    let mut tags: Vec<&str> = group.tags.iter().map(String::as_str).collect();
    tags.sort_unstable();
    tags.dedup();
    let mut known: Vec<&str> = found.vg_tags.split(',').filter(|tag| !tag.is_empty()).collect();
    known.sort_unstable();
    let expected = (group.name.as_str(), group.devices.len().to_string(), tags);
    let found = (found.vg_name.as_str(), found.pv_count.clone(), known);
    if expected == found { vec![] } else { vec![format!("name, devices, tags expected {expected:?}, found {found:?}")] }
}

/// A volume has a row for each of its segments: a linear one over two devices has two.
fn volume_differences(group: &GroupPlan, found: &[FoundVolume]) -> Vec<String> {
    let mut differences = Vec::new();
    let names: BTreeSet<&str> = found.iter().map(|known| known.lv_name.as_str()).collect();
    if names.len() != group.volumes.len() {
        differences.push(format!("expected {} volumes, found {}", group.volumes.len(), names.len()));
    }
    for volume in &group.volumes {
        let Some(known) = found.iter().find(|known| known.lv_name == volume.name) else {
            differences.push(format!("there is no volume {}", volume.name));
            continue;
        };
        let kind = volume.kind.as_str();
        if let Some(odd) = found.iter().find(|known| known.lv_name == volume.name && known.segtype != kind) {
            differences.push(format!("type of {} expected {kind}, found {}", volume.name, odd.segtype));
        }
        let size = known.lv_size.parse().map(Bytes).ok();
        if !size.is_some_and(|size| fits(volume, size, group.devices.len())) {
            let expected = volume.size.map_or(0, |size| size.0);
            differences.push(format!("size of {} expected {expected} bytes, found {}", volume.name, known.lv_size));
        }
    }
    differences
}

/// lvm rounds up to extents, and those of a striped volume to its stripes.
fn fits(volume: &VolumePlan, found: Bytes, devices: usize) -> bool {
    let step = match volume.kind {
        VolumeKind::Linear | VolumeKind::Raid1 => EXTENT,
        VolumeKind::Striped => EXTENT.saturating_mul(devices as u64),
    };
    match volume.size {
        Some(size) => found.0 >= size.0 && found.0 < size.0.saturating_add(step),
        None => found.0 > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::plan::StackAction;

    fn group(kind: VolumeKind, size_mib: Option<u64>) -> GroupPlan {
        let size = size_mib.map(Bytes::mib);
        GroupPlan {
            name: "csi-lvm".into(),
            action: StackAction::Make,
            devices: vec![],
            device_uuids: vec![],
            tags: vec!["csi".into(), "a".into()],
            volumes: vec![VolumePlan { name: "var-lib".into(), kind, size }],
        }
    }

    fn tail(arguments: Vec<String>) -> String {
        arguments.get(5..).unwrap_or_default().join(" ")
    }

    #[test]
    fn arguments_follow_the_contract() {
        let devices = [PathBuf::from("/dev/a"), PathBuf::from("/dev/b")];
        let raid1 = group(VolumeKind::Raid1, Some(200));
        assert_eq!(
            tail(create_arguments(&raid1, &devices)),
            "--verbose --yes csi-lvm --addtag csi --addtag a /dev/a /dev/b"
        );
        let common = "--verbose --yes --name var-lib --wipesignatures y";
        for (group, expected) in [
            (raid1, "--size 200m --type raid1 --mirrors 1 --nosync csi-lvm"),
            (group(VolumeKind::Striped, None), "--extents 100%FREE --type striped --stripes 2 csi-lvm"),
            (group(VolumeKind::Linear, Some(5)), "--size 5m csi-lvm"),
        ] {
            let volume = &group.volumes[0];
            assert_eq!(tail(volume_arguments(&group, volume, &devices)), format!("{common} {expected}"));
        }
        assert_eq!(volume_node("csi-lvm", "var-lib"), Path::new("/dev/mapper/csi--lvm-var--lib"));
    }

    #[test]
    fn a_volume_over_two_devices_is_one_volume() {
        let text = r#"{"report": [{"lv": [{"lv_name": "var-lib", "lv_size": "8388608", "segtype": "linear"},
                                          {"lv_name": "var-lib", "lv_size": "8388608", "segtype": "linear"}]}]}"#;
        let found = parse_report(text).unwrap();
        assert_eq!(volume_differences(&group(VolumeKind::Linear, None), &found.lv), [""; 0]);
    }

    #[test]
    fn what_is_not_as_planned_is_named() {
        let text = r#"{"report": [{"lv": [{"lv_name": "var-lib", "lv_size": "8388608", "segtype": "linear"}]}]}"#;
        let found = parse_report(text).unwrap();
        assert_eq!(volume_differences(&group(VolumeKind::Linear, Some(5)), &found.lv), [""; 0]);
        assert_eq!(
            volume_differences(&group(VolumeKind::Raid1, Some(9)), &found.lv),
            ["type of var-lib expected raid1, found linear", "size of var-lib expected 9437184 bytes, found 8388608"]
        );
        assert!(parse_report("Failed").is_err());
    }

    #[test]
    fn groups_of_one_name_are_told_apart_by_their_ids() {
        let text = r#"{"report": [{"pv": [
            {"pv_name": "/dev/md1", "vg_name": "system", "vg_uuid": "u1"},
            {"pv_name": "/dev/sdc1", "vg_name": "other", "vg_uuid": "u3"},
            {"pv_name": "/dev/sdb1", "vg_name": "system", "vg_uuid": "u2"},
            {"pv_name": "/dev/sda1", "vg_name": "system", "vg_uuid": "u1"}]}]}"#;
        let found = groups_named("system", &parse_report(text).unwrap().pv);
        let group = |uuid: &str, devices: &[&str]| FoundDevices {
            uuid: uuid.into(),
            devices: devices.iter().map(PathBuf::from).collect(),
        };
        assert_eq!(found, [group("u1", &["/dev/md1", "/dev/sda1"]), group("u2", &["/dev/sdb1"])]);
    }
}
