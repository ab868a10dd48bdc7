//! Disks on real loop devices, judged by the distribution's own tools. Needs root.

mod loop_device;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::process::Command;

use drophammer::api::layout::FilesystemLayout;
use drophammer::disk::apply::{apply, wipe_filesystems};
use drophammer::disk::command::{EraseArgs, OutputFormat, run_erase};
use drophammer::disk::device::DiskFacts;
use drophammer::disk::erase::{EraseOptions, Level, erase_named};
use drophammer::disk::fstab::fstab;
use drophammer::disk::mount::mount_all;
use drophammer::disk::plan::{Firmware, Mode, Plan};
use drophammer::disk::planner::plan;
use serde_json::{Value, json};

use loop_device::{Loop, blkid, output};

fn layout(value: Value) -> FilesystemLayout {
    serde_json::from_value(value).unwrap()
}

/// Like the documented layout of a small machine, in small.
fn small(disk: &Loop) -> FilesystemLayout {
    layout(json!({
        "id": "small",
        "disks": [{"device": disk.device, "wipeonreinstall": true, "partitions": [
            {"number": 1, "label": "efi", "size": 300, "gpttype": "ef00"},
            {"number": 2, "label": "root", "size": 200, "gpttype": "8300"},
            {"number": 4, "label": "schön", "size": 64},
            {"number": 5, "label": "raw", "size": 8},
            {"number": 7, "label": "varlib", "size": 0, "gpttype": "8300"}]}],
        "filesystems": [
            {"path": "/boot/efi", "device": disk.part(1), "format": "vfat", "label": "efi", "createoptions": ["-F", "32"]},
            {"path": "/", "device": disk.part(2), "format": "ext4", "label": "root", "mountoptions": ["noatime", "errors=remount-ro"]},
            {"path": null, "device": disk.part(4), "format": "swap", "label": "swap"},
            {"device": disk.part(5), "format": "none"},
            {"path": "/var/lib", "device": disk.part(7), "format": "ext3", "mountoptions": ["nodev", "nofail", "ro"]},
            {"path": "/tmp", "device": "tmpfs", "format": "tmpfs"}]}))
}

/// The error with its causes.
fn refused(plan: &Plan) -> String {
    format!("{:#}", anyhow::Error::from(apply(plan, &mut |_| {}).unwrap_err()))
}

fn made(layout: &FilesystemLayout, disks: &[&Loop], mode: Mode) -> Plan {
    let facts: Vec<DiskFacts> = disks.iter().map(|disk| disk.facts()).collect();
    let plan = plan(layout, &facts, Firmware::Bios, mode).unwrap();
    apply(&plan, &mut |_| {}).unwrap();
    plan
}

/// For tests that mount: where the kernel has no vfat, ext4 stands in for it.
fn mountable(mut layout: FilesystemLayout) -> FilesystemLayout {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let modules = Command::new("modprobe").args(["-q", "vfat"]).status().is_ok_and(|status| status.success());
    if !modules && !known.contains("\tvfat\n") {
        for filesystem in layout.filesystems.iter_mut().filter(|fs| fs.format == "vfat") {
            filesystem.format = "ext4".into();
            filesystem.createoptions.clear();
        }
    }
    layout
}

fn check_by_tools(sector_bytes: u32) {
    let disk = Loop::new(1024, sector_bytes);
    let plan = made(&small(&disk), &[&disk], Mode::Install);

    let verdict = output("sgdisk", &["-v", &disk.device]);
    assert!(verdict.contains("No problems found"), "{verdict}");

    let table: Value = serde_json::from_str(&output("sfdisk", &["--json", &disk.device])).unwrap();
    let table = &table["partitiontable"];
    let upper = |id: &uuid::Uuid| id.to_string().to_uppercase();
    assert_eq!(table["label"], "gpt");
    assert_eq!(table["id"], upper(&plan.disks[0].guid.unwrap()));
    assert_eq!(table["sectorsize"], sector_bytes);
    let found: BTreeMap<String, &Value> =
        table["partitions"].as_array().unwrap().iter().map(|p| (p["node"].as_str().unwrap().to_owned(), p)).collect();
    assert_eq!(found.len(), 6);
    for planned in &plan.disks[0].partitions {
        let entry = found[&disk.node(planned.number)];
        assert_eq!(entry["start"], planned.first_lba, "{entry}");
        assert_eq!(entry["size"], planned.last_lba + 1 - planned.first_lba, "{entry}");
        assert_eq!(entry["type"], upper(&planned.gpt_type.guid()), "{entry}");
        assert_eq!(entry["uuid"], upper(&planned.guid), "{entry}");
        assert_eq!(entry["name"], planned.name, "{entry}");
    }

    let expected = [(1, "vfat", "efi"), (2, "ext4", "root"), (4, "swap", "swap"), (7, "ext3", "")];
    for (number, kind, label) in expected {
        let found = blkid(disk.node(number));
        assert_eq!(found["TYPE"], kind);
        assert_eq!(found.get("LABEL").map_or("", String::as_str), label);
        let planned = plan.filesystems.iter().find(|fs| fs.device == disk.part(number)).unwrap();
        assert_eq!(Some(found["UUID"].clone()), planned.uuid.as_ref().map(ToString::to_string));
    }
    assert_eq!(blkid(disk.node(5)).get("TYPE"), None);
}

#[test]
fn sgdisk_sfdisk_and_blkid_read_what_was_planned_with_512_byte_sectors() {
    check_by_tools(512);
}

#[test]
fn sgdisk_sfdisk_and_blkid_read_what_was_planned_with_4096_byte_sectors() {
    check_by_tools(4096);
}

#[test]
fn mounts_in_order_takes_options_and_unmounts_all() {
    let disk = Loop::new(1024, 512);
    let plan = made(&mountable(small(&disk)), &[&disk], Mode::Install);
    let target = tempfile::tempdir().unwrap();
    let mounts = mount_all(&plan, target.path()).unwrap();
    let below = |path: &str| target.path().join(path);
    assert_eq!(mounts.targets(), [below(""), below("boot/efi"), below("var/lib")]);
    let options = |path: &str| output("findmnt", &["-no", "OPTIONS", below(path).to_str().unwrap()]);
    assert!(options("").contains("noatime"), "{}", options(""));
    assert!(options("var/lib").contains("rw,nodev"), "{}", options("var/lib"));
    fs::write(below("var/lib/file"), "there").unwrap();
    mounts.unmount().unwrap();
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    // The line of fstab finds the same file system again.
    let text = fstab(&plan, "test");
    let line = text.lines().find(|line| line.contains(" /var/lib ")).unwrap();
    output("mount", &[line.split(' ').next().unwrap(), target.path().to_str().unwrap()]);
    let read = fs::read_to_string(target.path().join("file"));
    output("umount", &[target.path().to_str().unwrap()]);
    assert_eq!(read.unwrap(), "there");
}

#[test]
fn a_busy_mount_names_its_holder_and_is_detached() {
    let disk = Loop::new(64, 512);
    let one = layout(json!({"disks": [{"device": disk.device}],
        "filesystems": [{"path": "/", "device": disk.device, "format": "ext4"}]}));
    let plan = made(&one, &[&disk], Mode::Install);
    let target = tempfile::tempdir().unwrap();
    let mounts = mount_all(&plan, target.path()).unwrap();
    let mut sleeper = Command::new("sleep").arg("60").current_dir(target.path()).spawn().unwrap();
    let error = mounts.unmount().unwrap_err().to_string();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(error.contains(&format!("held by {} (sleep); it was detached", sleeper.id())), "{error}");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn nothing_of_an_older_and_larger_table_is_found_again() {
    let disk = Loop::new(1024, 512);
    // Old partitions begin and end elsewhere, and hold file systems.
    output("sgdisk", &["-n", "1:2048:+900M", "-n", "9:0:0", "-n", "128:34:2047", &disk.device]);
    // Not by rereading: the kernel of a test machine need not know GPT.
    let _ = Command::new("partx").args(["-d", &disk.device]).output();
    output("partx", &["-a", &disk.device]);
    output("mkfs.ext4", &["-q", "-F", "-L", "OLD", &disk.node(1)]);
    output("mkswap", &["-L", "OLD", &disk.node(9)]);
    let facts = disk.facts();
    assert_eq!(facts.partitions.len(), 3);
    let one = layout(json!({"id": "new", "disks": [{"device": disk.device, "partitions": [
            {"number": 1, "size": 100}, {"number": 2, "size": 801}, {"number": 3, "size": 0}]}],
        "filesystems": [{"path": "/", "device": disk.part(1), "format": "ext4"}]}));
    let plan = plan(&one, &[facts], Firmware::Uefi, Mode::Install);
    assert!(plan.is_err_and(|faults| faults.to_string().contains("no vfat file system")), "UEFI needs an ESP");
    let plan = made(&one, &[&disk], Mode::Install);
    assert!(plan.to_string().contains("ext4 \"OLD\""), "{plan}");
    let found: Vec<u32> = disk.facts().partitions.iter().map(|p| p.number).collect();
    assert_eq!(found, [1, 2, 3, 128]);
    assert_eq!(blkid(disk.node(1)).get("LABEL"), None);
    for number in [2, 3, 128] {
        assert_eq!(blkid(disk.node(number)).get("TYPE"), None, "partition {number}");
    }
    assert!(output("sgdisk", &["-v", &disk.device]).contains("No problems found"));
}

fn system_and_data(system: &Loop, data: &Loop) -> FilesystemLayout {
    layout(json!({
        "disks": [
            {"device": system.device, "wipeonreinstall": true, "partitions": [{"number": 1, "label": "root", "size": 0}]},
            {"device": data.device, "wipeonreinstall": false, "partitions": [
                {"number": 1, "label": "data", "size": 40}, {"number": 2, "label": "more", "size": 0}]}],
        "filesystems": [
            {"path": "/", "device": system.part(1), "format": "ext4", "label": "root"},
            {"path": "/data", "device": data.part(1), "format": "ext4", "label": "data"},
            {"path": "/more", "device": data.part(2), "format": "vfat", "label": "MORE"}]}))
}

#[test]
fn a_reinstall_leaves_a_kept_disk_unchanged_to_the_last_byte() {
    let (system, data) = (Loop::new(200, 512), Loop::new(100, 512));
    let layout = mountable(system_and_data(&system, &data));
    let first = made(&layout, &[&system, &data], Mode::Install);
    let target = tempfile::tempdir().unwrap();
    let mounts = mount_all(&first, target.path()).unwrap();
    fs::write(target.path().join("data/precious"), "still here").unwrap();
    mounts.unmount().unwrap();

    let before = data.hash();
    let second = made(&layout, &[&system, &data], Mode::Reinstall);
    assert_eq!(data.hash(), before);
    assert_ne!(first.root_uuid(), second.root_uuid());
    let line = |plan: &Plan, path: &str| fstab(plan, "x").lines().find(|l| l.contains(path)).map(str::to_owned);
    assert_eq!(line(&first, " /data "), line(&second, " /data "));
    assert_eq!(line(&first, " /more "), line(&second, " /more "));
    let mounts = mount_all(&second, target.path()).unwrap();
    let precious = fs::read_to_string(target.path().join("data/precious"));
    mounts.unmount().unwrap();
    assert_eq!(precious.unwrap(), "still here");
}

#[test]
fn a_kept_disk_that_differs_stops_the_reinstall_before_anything_is_written() {
    let (system, data) = (Loop::new(200, 512), Loop::new(100, 512));
    let mut layout = system_and_data(&system, &data);
    made(&layout, &[&system, &data], Mode::Install);
    let before = (system.hash(), data.hash());
    layout.disks[1].partitions[0].size = 41;
    let faults = plan(&layout, &[system.facts(), data.facts()], Firmware::Bios, Mode::Reinstall).unwrap_err();
    assert!(faults.to_string().contains("its partition 1 has 41943040 bytes instead of 41 MiB"), "{faults}");
    assert_eq!((system.hash(), data.hash()), before);
}

#[test]
fn a_failed_installation_leaves_nothing_that_boots() {
    let (system, data) = (Loop::new(200, 512), Loop::new(100, 512));
    let layout = system_and_data(&system, &data);
    made(&layout, &[&system, &data], Mode::Install);
    let kept = data.hash();
    let plan = made(&layout, &[&system, &data], Mode::Reinstall);
    wipe_filesystems(&plan).unwrap();
    assert_eq!(blkid(&system.device), BTreeMap::new());
    assert_eq!(system.facts().partitions, []);
    let mut file = File::open(system.file.path()).unwrap();
    let mut byte = [0; 1];
    for offset in [0, 510, 512, (1 << 20) + 1024 + 56, (200 << 20) - 512] {
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0], "offset {offset}");
    }
    assert_eq!(data.hash(), kept, "the kept disk");
}

#[test]
fn another_disk_under_the_planned_name_is_not_touched() {
    let disk = Loop::new(200, 512);
    let before = disk.hash();
    let one = small_root(&disk);
    let mut facts = disk.facts();
    facts.serial = Some("ANOTHER".into());
    facts.size.0 -= 4096;
    let plan = plan(&one, &[facts], Firmware::Bios, Mode::Install).unwrap();
    let error = refused(&plan);
    assert!(error.contains("serial expected ANOTHER, found none"), "{error}");
    assert!(error.contains("expected 209711104 bytes, found 209715200"), "{error}");
    assert!(wipe_filesystems(&plan).is_err());
    assert_eq!(disk.hash(), before);
}

#[test]
fn wiping_leaves_a_disk_alone_that_the_plan_did_not_make() {
    let disk = Loop::new(200, 512);
    let made = made(&small_root(&disk), &[&disk], Mode::Install);
    let other = plan(&small_root(&disk), &[disk.facts()], Firmware::Bios, Mode::Install).unwrap();
    let before = disk.hash();
    wipe_filesystems(&other).unwrap();
    assert_eq!(disk.hash(), before);
    wipe_filesystems(&made).unwrap();
    assert_eq!(blkid(&disk.device), BTreeMap::new());
}

fn small_root(disk: &Loop) -> FilesystemLayout {
    layout(json!({"disks": [{"device": disk.device, "partitions": [{"number": 1, "size": 0}]}],
        "filesystems": [{"path": "/", "device": disk.part(1), "format": "ext4"}]}))
}

#[test]
fn a_tool_that_fails_is_told_with_its_words_and_the_device() {
    let disk = Loop::new(64, 512);
    let one = layout(json!({"disks": [{"device": disk.device}],
        "filesystems": [{"path": "/", "device": disk.device, "format": "ext4", "createoptions": ["-b", "7"]}]}));
    let plan = plan(&one, &[disk.facts()], Firmware::Bios, Mode::Install).unwrap();
    let error = refused(&plan);
    assert!(
        error.starts_with(&format!("the disks are half-made: making ext4 on {0}: mkfs.ext4 -E ", disk.device)),
        "{error}"
    );
    assert!(error.contains("exit status: 1") && error.contains("invalid block size"), "{error}");
}

#[test]
fn a_mounted_disk_is_refused_by_everything() {
    let disk = Loop::new(200, 512);
    let one = small_root(&disk);
    let facts = disk.facts();
    let plan_before = made(&one, &[&disk], Mode::Install);
    let target = tempfile::tempdir().unwrap();
    let mounts = mount_all(&plan_before, target.path()).unwrap();
    let place = format!("{} is mounted at {}", disk.node(1), target.path().display());

    let faults = plan(&one, &[disk.facts()], Firmware::Bios, Mode::Install).unwrap_err().to_string();
    assert!(faults.contains(&place), "{faults}");
    let error = refused(&plan_before);
    assert!(error.contains(&place), "{error}");
    let told = erase_named(&[disk.facts()], &EraseOptions::default(), &mut |_| {})[0].to_string();
    assert!(told.contains("NOT ERASED: in use") && told.contains(&place), "{told}");
    // Even when the facts are older than the mount, the kernel's claim holds.
    let told = erase_named(&[facts], &EraseOptions::default(), &mut |_| {})[0].to_string();
    assert!(told.contains("NOT ERASED: opening it for itself alone: Device or resource busy"), "{told}");
    let confirm = vec![(200_u64 << 20).to_string()];
    let (devices, level) = (vec![disk.device.clone()], Level::Clear);
    let args = EraseArgs { devices, confirm, level, format_unit: false, format: OutputFormat::Table };
    let error = run_erase(&args).unwrap_err().to_string();
    assert!(error.starts_with("nothing was erased: ") && error.contains(&place), "{error}");
    mounts.unmount().unwrap();
    assert_eq!(blkid(disk.node(1))["TYPE"], "ext4");
}
