//! Layouts on loop devices: planned, made, judged by the distribution's own tools, and started again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use drophammer::api::layout::FilesystemLayout;
use drophammer::disk::apply::apply;
use drophammer::disk::device::{DiskFacts, read_disk_at};
use drophammer::disk::lvm::volume_node;
use drophammer::disk::mount::mount_all;
use drophammer::disk::nodes::node;
use drophammer::disk::plan::{Firmware, Member, Mode, Plan};
use drophammer::disk::planner::plan;
use drophammer::disk::release::release;
use drophammer::sys::roots::Roots;
use serde_json::Value;

use super::{Loop, blkid, output};

/// Stops what a plan started, also when the test fails. Declared after the loops, so that it ends before them.
pub struct Made(pub Plan);

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = release(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

/// Whether the kernel can do what a test needs; says so where it can't.
pub fn kernel_has(what: &[&str]) -> bool {
    for module in what {
        let _ = Command::new("modprobe").args(["-q", module]).status();
    }
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let targets = Command::new("dmsetup").arg("targets").output().map(|output| output.stdout).unwrap_or_default();
    let missing: Vec<&&str> = what
        .iter()
        .filter(|module| match **module {
            "raid0" | "raid1" => !text("/proc/mdstat").contains(&format!("[{module}]")),
            "dm_mod" => !text("/proc/misc").contains("device-mapper"),
            // Named as their targets, `dm_log_writes` for `log-writes`.
            target if target.starts_with("dm_") => {
                let name = target.trim_start_matches("dm_").replace('_', "-");
                !String::from_utf8_lossy(&targets).lines().any(|line| line.split(' ').next() == Some(&name))
            }
            other => !text("/proc/filesystems").contains(&format!("\t{other}\n")),
        })
        .collect();
    if !missing.is_empty() {
        eprintln!("not tested: this kernel lacks {missing:?}");
    }
    missing.is_empty()
}

/// A number that no array of this machine and no other test has.
pub fn free_array() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = 64 + (std::process::id() * 7 + NEXT.fetch_add(1, Ordering::Relaxed)) % 400;
        if !Path::new(&format!("/dev/md{number}")).exists() {
            return format!("/dev/md{number}");
        }
    }
}

pub fn free_group() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn layout(value: Value) -> FilesystemLayout {
    serde_json::from_value(value).unwrap()
}

pub fn planned(layout: &FilesystemLayout, disks: &[&Loop], mode: Mode) -> Plan {
    let facts: Vec<DiskFacts> = disks.iter().map(|disk| disk.facts()).collect();
    plan(layout, &facts, Firmware::Bios, mode).unwrap()
}

pub fn made(layout: &FilesystemLayout, disks: &[&Loop], mode: Mode) -> Made {
    let made = Made(planned(layout, disks, mode));
    apply(&made.0, &mut |_| {}).unwrap();
    made
}

/// The error with its causes.
pub fn refused(plan: &Plan) -> String {
    format!("{:#}", anyhow::Error::from(apply(plan, &mut |_| {}).unwrap_err()))
}

pub fn nodes(plan: &Plan, members: &[Member]) -> Vec<String> {
    let node = |member: &Member| node(&Roots::system(), plan, &member.place).unwrap().display().to_string();
    members.iter().map(node).collect()
}

/// Starts the plan's arrays and groups as an installed system does: by what is found on the disks.
pub fn start_again(plan: &Plan) {
    let members: Vec<String> = plan.arrays.iter().flat_map(|array| nodes(plan, &array.members)).collect();
    if !members.is_empty() {
        // Only these devices may be looked at.
        let mut config = format!("DEVICE {}\nHOMEHOST <ignore>\n", members.join(" "));
        config.extend(plan.array_uuids().iter().map(|(device, uuid)| format!("ARRAY {device} UUID={uuid}\n")));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), config).unwrap();
        output("mdadm", &["--assemble", "--scan", "--config", file.path().to_str().unwrap()]);
    }
    for group in &plan.groups {
        let devices = nodes(plan, &group.devices).join(",");
        let config = "activation{udev_sync=0 udev_rules=0} devices{obtain_device_list_from_udev=0}";
        output("lvm", &["vgchange", "--config", config, "--devices", &devices, "-ay", &group.name]);
    }
}

/// By sgdisk, sfdisk, blkid and lsblk.
pub fn check_by_tools(plan: &Plan) {
    for disk in plan.disks.iter().filter(|disk| disk.guid.is_some()) {
        let verdict = output("sgdisk", &["-v", &disk.disk.device]);
        assert!(verdict.contains("No problems found"), "{verdict}");
    }
    for filesystem in plan.filesystems.iter().filter(|fs| fs.uuid.is_some()) {
        let found = blkid(node(&Roots::system(), plan, &filesystem.place).unwrap());
        assert_eq!(found.get("TYPE").map(String::as_str), Some(filesystem.format.as_str()), "{found:?}");
        assert_eq!(found.get("UUID").cloned(), filesystem.uuid.as_ref().map(ToString::to_string));
        assert_eq!(found.get("LABEL").cloned(), filesystem.label);
    }
    let found = listed(plan);
    for disk in plan.disks.iter().filter(|disk| disk.guid.is_some()) {
        let table = table_of(&disk.disk.device);
        assert_eq!(table.len(), disk.partitions.len(), "{table:?}");
        for partition in &disk.partitions {
            let name = format!("{}p{}", disk.disk.name, partition.number);
            assert_eq!(found[&name]["size"].as_u64(), Some(partition.size.0), "{name}");
            let row = &table[&format!("/dev/{name}")];
            let sectors = partition.last_lba + 1 - partition.first_lba;
            assert_eq!(
                (row["start"].as_u64(), row["size"].as_u64()),
                (Some(partition.first_lba), Some(sectors)),
                "{row}"
            );
            let ids = [partition.guid, partition.gpt_type.guid()].map(|id| id.to_string().to_uppercase());
            assert_eq!((row["uuid"].as_str(), row["type"].as_str()), (Some(&*ids[0]), Some(&*ids[1])), "{row}");
            assert_eq!(row["name"].as_str().unwrap_or_default(), partition.name, "{row}");
        }
    }
    for array in &plan.arrays {
        let row = &found[array.device.trim_start_matches("/dev/")];
        assert_eq!(row["type"].as_str(), Some(array.level.as_str()), "{row}");
    }
    for group in &plan.groups {
        for volume in &group.volumes {
            let name = volume_node(&group.name, &volume.name).file_name().unwrap().to_string_lossy().into_owned();
            let size = found[&name]["size"].as_u64().unwrap();
            // Rounded up to extents of 4 MiB, on each device that it is striped over.
            let most = |planned: u64| planned + group.devices.len() as u64 * (4 << 20);
            assert!(volume.size.is_none_or(|planned| (planned.0..most(planned.0)).contains(&size)), "{name}: {size}");
        }
    }
}

/// By sfdisk, in the disk's own sectors: the rows of a table, by their nodes.
fn table_of(device: &str) -> BTreeMap<String, Value> {
    let mut told: Value = serde_json::from_str(&output("sfdisk", &["--json", device])).unwrap();
    let Value::Array(rows) = told["partitiontable"]["partitions"].take() else { return BTreeMap::new() };
    rows.into_iter().map(|row| (row["node"].as_str().unwrap().to_owned(), row)).collect()
}

/// By lsblk: the plan's disks and all that lies on them, by name.
fn listed(plan: &Plan) -> BTreeMap<String, Value> {
    fn collect(value: &Value, found: &mut BTreeMap<String, Value>) {
        found.insert(value["name"].as_str().unwrap().to_owned(), value.clone());
        value["children"].as_array().into_iter().flatten().for_each(|child| collect(child, found));
    }
    let disks: Vec<&str> = plan.disks.iter().map(|disk| disk.disk.device.as_str()).collect();
    let words = ["--json", "--bytes", "-o", "NAME,TYPE,SIZE"];
    let tree: Value = serde_json::from_str(&output("lsblk", &[&words[..], &disks].concat())).unwrap();
    let mut found = BTreeMap::new();
    tree["blockdevices"].as_array().into_iter().flatten().for_each(|disk| collect(disk, &mut found));
    found
}

pub fn write_file(plan: &Plan, path: &str, text: &str) {
    let target = tempfile::tempdir().unwrap();
    let mounts = mount_all(plan, target.path()).unwrap();
    fs::write(target.path().join(path), text).unwrap();
    mounts.unmount().unwrap();
}

pub fn read_file(plan: &Plan, path: &str) -> String {
    let target = tempfile::tempdir().unwrap();
    let mounts = mount_all(plan, target.path()).unwrap();
    let read = fs::read_to_string(target.path().join(path));
    mounts.unmount().unwrap();
    read.unwrap()
}

/// Nothing of the plan is in the kernel any more.
pub fn assert_released(plan: &Plan) {
    release(plan).unwrap();
    for group in &plan.groups {
        for volume in &group.volumes {
            assert!(!volume_node(&group.name, &volume.name).exists());
        }
    }
    for disk in &plan.disks {
        let now = read_disk_at(&Roots::system(), &disk.disk.device).unwrap();
        assert_eq!(now.uses, [], "{}", now.device);
    }
}
