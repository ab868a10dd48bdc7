//! Layouts with RAID and LVM on real loop devices, made by the distribution's own tools and found again by them. Needs
//! root, and a kernel with md and device mapper: without those the tests say so and end.

mod loop_device;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use drophammer::api::layout::FilesystemLayout;
use drophammer::api::layout::values::Format;
use drophammer::disk::apply::wipe_filesystems;
use drophammer::disk::device::partition_node;
use drophammer::disk::plan::{Firmware, Mode, Place};
use drophammer::disk::planner::plan;
use drophammer::sys::roots::Roots;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use loop_device::layouts::{
    Made, assert_released, check_by_tools, free_array, free_group, kernel_has, layout, made, planned, read_file,
    refused, start_again, write_file,
};
use loop_device::{Loop, blkid, output};

/// An example of the contract, in small and with other names.
fn example(text: &str, names: &[(&str, &str)]) -> FilesystemLayout {
    let mut text = text.to_owned();
    for (old, new) in names {
        // A partition of an NVMe disk has a `p` before its number, one of a loop device not, in the model.
        text = text.replace(&format!("{old}p"), new).replace(old, new);
    }
    let mut layout: FilesystemLayout = serde_json::from_str(&text).unwrap();
    for partition in layout.disks.iter_mut().flat_map(|disk| &mut disk.partitions) {
        partition.size = partition.size.min(300);
    }
    for volume in &mut layout.logicalvolumes {
        volume.size = volume.size.min(100);
    }
    if !kernel_has(&["vfat"]) {
        for filesystem in layout.filesystems.iter_mut().filter(|fs| fs.format == "vfat") {
            filesystem.format = "ext4".into();
            filesystem.createoptions.clear();
        }
    }
    layout
}

fn mirror(first: &Loop, second: &Loop) -> FilesystemLayout {
    let (efi, root, var) = (free_array(), free_array(), free_array());
    let names = [("/dev/sda", first), ("/dev/sdb", second)].map(|(old, disk)| (old, disk.device.as_str()));
    let arrays = [("/dev/md0", efi.as_str()), ("/dev/md1", &root), ("/dev/md2", &var)];
    // The new names must not look like old ones.
    let mut layout = example(include_str!("fixtures/layouts/mirror.json"), &names);
    for (old, new) in arrays {
        for raid in layout.raid.iter_mut().filter(|raid| raid.arrayname == old) {
            raid.arrayname = new.to_owned();
        }
        for filesystem in layout.filesystems.iter_mut().filter(|fs| fs.device == old) {
            filesystem.device = new.to_owned();
        }
    }
    layout
}

fn csi_lvm(system: &Loop, first: &Loop, second: &Loop) -> FilesystemLayout {
    let group = free_group();
    let names =
        [("/dev/sda", system.device.as_str()), ("/dev/nvme0n1", &first.device), ("/dev/nvme1n1", &second.device)];
    let mut layout = example(include_str!("fixtures/layouts/lvm.json"), &[]);
    let text = serde_json::to_string(&layout).unwrap().replace("csi-lvm", &group);
    layout = example(&text, &names);
    layout
}

#[test]
fn a_mirrored_system_is_made_stopped_and_assembled_again() {
    if !kernel_has(&["raid1"]) {
        return;
    }
    let (first, second) = (Loop::new(1024, 512), Loop::new(1024, 512));
    let layout = mirror(&first, &second);
    let made = made(&layout, &[&first, &second], Mode::Install);
    check_by_tools(&made.0);
    write_file(&made.0, "file", "mirrored");
    assert_released(&made.0);
    start_again(&made.0);
    // Before anybody writes.
    for array in &made.0.arrays {
        let detail = output("mdadm", &["--detail", &array.device]);
        assert!(detail.contains("Version : 1.0") && detail.contains("State : clean"), "{detail}");
        assert!(!detail.contains("Resync Status"), "{detail}");
    }
    check_by_tools(&made.0);
    assert_eq!(read_file(&made.0, "file"), "mirrored");
}

#[test]
fn old_arrays_and_groups_on_the_disks_are_not_found_again() {
    if !kernel_has(&["raid1", "raid0", "dm_mod"]) {
        return;
    }
    let (first, second) = (Loop::new(600, 512), Loop::new(600, 4096));
    let group = free_group();
    for (round, metadata) in ["1.2", "1.0", "0.90"].into_iter().enumerate() {
        let (array, stripe) = (free_array(), free_array());
        let part = |disk: &Loop, number: u32| format!("{}{number}", disk.device);
        let table = |disk: &Loop| {
            json!({"device": disk.device, "partitions": [
                {"number": 1, "size": 200, "gpttype": "fd00"}, {"number": 2, "size": 0, "gpttype": "fd00"}]})
        };
        let layout = layout(json!({
            "disks": [table(&first), table(&second)],
            "raid": [
                {"arrayname": array, "devices": [part(&first, 1), part(&second, 1)], "level": "1",
                 "createoptions": ["--metadata", metadata]},
                {"arrayname": stripe, "devices": [part(&first, 2), part(&second, 2)], "level": "0"}],
            "volumegroups": [{"name": group, "devices": [stripe], "tags": ["b", "a"]}],
            "logicalvolumes": [
                {"name": "one", "volumegroup": group, "size": 50, "lvmtype": "linear"},
                {"name": "the-rest", "volumegroup": group, "size": 0, "lvmtype": "linear"}],
            "filesystems": [
                {"path": "/", "device": array, "format": "ext4", "label": "root"},
                {"path": "/one", "device": format!("/dev/{group}/one"), "format": "ext3"},
                {"device": format!("/dev/{group}/the-rest"), "format": "swap", "label": "swap"}]}));
        let made = made(&layout, &[&first, &second], Mode::Install);
        check_by_tools(&made.0);
        let file = round.to_string();
        write_file(&made.0, "one/round", &file);
        assert_released(&made.0);
        start_again(&made.0);
        assert_eq!(read_file(&made.0, "one/round"), file);
        assert_released(&made.0);
    }
}

#[test]
fn volumes_are_made_deactivated_and_found_again_and_a_reinstall_keeps_them() {
    if !kernel_has(&["dm_mod", "dm_raid"]) {
        return;
    }
    let (system, first, second) = (Loop::new(900, 512), Loop::new(400, 512), Loop::new(400, 512));
    let layout = csi_lvm(&system, &first, &second);
    let disks = [&system, &first, &second];
    let install = made(&layout, &disks, Mode::Install);
    check_by_tools(&install.0);
    write_file(&install.0, "var/lib/precious", "still here");
    assert_released(&install.0);

    let again = made(&layout, &disks, Mode::Reinstall);
    assert_eq!(read_file(&again.0, "var/lib/precious"), "still here");
    assert_ne!(install.0.root_uuid(), again.0.root_uuid());
    assert_released(&again.0);
    start_again(&again.0);
    check_by_tools(&again.0);
    assert_released(&again.0);

    // Without what is to be kept nothing is written.
    let zeros = vec![0; 1 << 20];
    second.file.as_file().write_all_at(&zeros, 0).unwrap();
    output("blockdev", &["--flushbufs", &second.device]);
    let before = system.hash();
    let plan = planned(&layout, &disks, Mode::Reinstall);
    let error = refused(&plan);
    assert!(error.starts_with("nothing was written") && error.contains(" lacks 1 of its devices"), "{error}");
    assert_eq!(system.hash(), before);
    assert_released(&plan);
}

#[test]
fn striped_volumes_and_spares_are_as_planned() {
    if !kernel_has(&["raid1", "dm_mod"]) {
        return;
    }
    let disks: Vec<Loop> = (0..3).map(|_| Loop::new(200, 512)).collect();
    let (array, group) = (free_array(), free_group());
    let all: Vec<&str> = disks.iter().map(|disk| disk.device.as_str()).collect();
    let whole: Vec<Value> = all.iter().map(|device| json!({"device": device})).collect();
    let spare = layout(json!({"disks": whole,
        "raid": [{"arrayname": array, "devices": all, "level": "1", "spares": 1}],
        "filesystems": [{"path": "/", "device": array, "format": "ext4"}]}));
    let loops: Vec<&Loop> = disks.iter().collect();
    let plan = made(&spare, &loops, Mode::Install);
    let detail = output("mdadm", &["--detail", &array]);
    assert!(detail.contains("Raid Devices : 2") && detail.contains("Spare Devices : 1"), "{detail}");
    // Whole disks have no table by which the plan knows its work.
    wipe_filesystems(&plan.0).unwrap();
    for disk in &disks {
        assert_eq!(blkid(Path::new(&disk.device)), BTreeMap::new(), "{}", disk.device);
    }

    let striped = layout(json!({"disks": whole,
        "volumegroups": [{"name": group, "devices": all}],
        "logicalvolumes": [{"name": "s", "volumegroup": group, "size": 101, "lvmtype": "striped"}],
        "filesystems": [{"path": "/", "device": format!("/dev/{group}/s"), "format": "ext4"}]}));
    let plan = made(&striped, &loops, Mode::Install);
    check_by_tools(&plan.0);
    wipe_filesystems(&plan.0).unwrap();
    for disk in &disks {
        assert_eq!(blkid(Path::new(&disk.device)), BTreeMap::new(), "{}", disk.device);
    }
}

#[test]
fn another_disk_among_the_members_and_a_running_array_stop_it() {
    if !kernel_has(&["raid1"]) {
        return;
    }
    let (first, second) = (Loop::new(1024, 512), Loop::new(1024, 512));
    let layout = mirror(&first, &second);
    let before = (first.hash(), second.hash());
    let mut facts = second.facts();
    facts.serial = Some("ANOTHER".into());
    let changed = plan(&layout, &[first.facts(), facts], Firmware::Bios, Mode::Install).unwrap();
    let error = refused(&changed);
    assert!(
        error.contains(&format!("{} is another disk: serial expected ANOTHER, found none", second.device)),
        "{error}"
    );
    assert_eq!((first.hash(), second.hash()), before);

    let plan = planned(&layout, &[&first, &second], Mode::Install);
    let made = made(&layout, &[&first, &second], Mode::Install);
    let error = refused(&plan);
    assert!(error.contains(" is held by /dev/md"), "{error}");
    assert!(error.contains(&format!("{} is running already", made.0.arrays[0].device)), "{error}");
    assert_released(&made.0);
}

#[test]
fn a_tools_refusal_is_told_and_the_next_run_succeeds() {
    if !kernel_has(&["raid1"]) {
        return;
    }
    let (first, second) = (Loop::new(1024, 512), Loop::new(1024, 512));
    let good = mirror(&first, &second);
    let mut bad = good.clone();
    bad.raid[2].createoptions = vec!["--metadata".into(), "7.5".into()];
    let half = Made(planned(&bad, &[&first, &second], Mode::Install));
    let error = refused(&half.0);
    assert!(error.contains("mdadm --create ") && error.contains("failed with exit status: "), "{error}");
    assert!(error.contains("7.5"), "{error}");
    wipe_filesystems(&half.0).unwrap();
    for disk in [&first, &second] {
        assert_eq!(disk.facts().partitions, []);
        assert_eq!(blkid(Path::new(&disk.device)), BTreeMap::new());
    }
    let made = made(&good, &[&first, &second], Mode::Install);
    check_by_tools(&made.0);
    assert_released(&made.0);
}

#[test]
fn xfs_and_btrfs_are_made_mounted_and_found_again() {
    for format in ["xfs", "btrfs"] {
        let tool = Command::new(format!("mkfs.{format}")).arg("-V").output();
        if tool.is_err() || !kernel_has(&[format]) {
            eprintln!("not tested: mkfs.{format} is not there");
            continue;
        }
        for sector_bytes in [512, 4096] {
            let disk = Loop::new(700, sector_bytes);
            let (root, data) = (format!("{}1", disk.device), format!("{}2", disk.device));
            let layout = layout(json!({
                "disks": [{"device": disk.device, "partitions": [{"number": 1, "size": 320}, {"number": 2, "size": 0}]}],
                "filesystems": [
                    {"path": "/", "device": root, "format": format, "label": "root"},
                    {"path": "/data", "device": data, "format": format, "mountoptions": ["noatime", "nofail"]}]}));
            let made = made(&layout, &[&disk], Mode::Install);
            check_by_tools(&made.0);
            write_file(&made.0, "data/file", format);
            assert_eq!(read_file(&made.0, "data/file"), format);
            let kept = disk.facts().partitions[0].signature.clone().unwrap();
            assert_eq!((kept.kind, kept.label.as_deref()), (format, Some("root")));
        }
    }
}

/// A folder with links to all programs of this machine but one, for PATH.
fn programs_without(missing: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for directory in ["/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        for program in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if program.file_name() != missing {
                // The first of a name counts.
                let _ = std::os::unix::fs::symlink(program.path(), folder.path().join(program.file_name()));
            }
        }
    }
    folder
}

#[test]
fn a_missing_tool_is_named_before_anything_is_written() {
    const INSIDE: &str = "DROPHAMMER_TEST_WITHOUT_MKFS_BTRFS";
    if std::env::var_os(INSIDE).is_none() {
        // PATH is the whole process's, so it is another process's.
        let programs = programs_without("mkfs.btrfs");
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "a_missing_tool_is_named_before_anything_is_written", "--nocapture"]);
        let done = again.env(INSIDE, "1").env("PATH", programs.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
        return;
    }
    let disk = Loop::new(700, 512);
    let before = disk.hash();
    let one = format!("{}1", disk.device);
    let layout = layout(json!({
        "disks": [{"device": disk.device, "partitions": [{"number": 1, "size": 0}]}],
        "filesystems": [{"path": "/", "device": one, "format": "btrfs"}]}));
    let plan = planned(&layout, &[&disk], Mode::Install);
    assert_eq!(plan.filesystems[0].format, Format::Btrfs);
    assert_eq!(plan.filesystems[0].place, Place::Partition { disk: disk.device.clone(), number: 1 });
    let error = refused(&plan);
    assert!(error.contains("mkfs.btrfs is needed for this layout and is not there"), "{error}");
    assert!(partition_node(&Roots::system(), &disk.facts().name, 1).is_err());
    assert_eq!(disk.hash(), before);
}

/// What the partitions with one number, on all disks, are used for.
#[derive(Clone, Debug)]
enum Row {
    Plain(&'static str),
    Array { level: &'static str, metadata: &'static str, format: &'static str },
    Group { kind: &'static str, size_mib: u64, format: &'static str },
    GroupOnArray { level: &'static str, format: &'static str },
}

fn any_row() -> impl Strategy<Value = Row> {
    let format = || prop_oneof![Just("ext4"), Just("ext3"), Just("vfat"), Just("swap"), Just("none")];
    let level = || prop_oneof![Just("0"), Just("1"), Just("")];
    let metadata = prop_oneof![Just("0.90"), Just("1.0"), Just("1.1"), Just("1.2")];
    let kind = prop_oneof![Just("linear"), Just("striped")];
    prop_oneof![
        format().prop_map(Row::Plain),
        (level(), metadata, format()).prop_map(|(level, metadata, format)| Row::Array { level, metadata, format }),
        (kind, 33_u64..60, format()).prop_map(|(kind, size_mib, format)| Row::Group { kind, size_mib, format }),
        (level(), format()).prop_map(|(level, format)| Row::GroupOnArray { level, format }),
    ]
}

/// A root file system on a disk of its own, and rows over the others.
/// The rows' partitions have the numbers 1, 1 + `stride`, and so on.
fn layout_of(disks: &[Loop], rows: &[(u64, Row)], stride: usize) -> FilesystemLayout {
    let (root, others) = disks.split_first().unwrap();
    let numbered = || (1..).step_by(stride).zip(rows);
    let partitions: Vec<Value> = numbered()
        .map(|(number, (size, _)): (u32, _)| json!({"number": number, "size": size, "label": format!("öre {number}")}))
        .collect();
    let mut tables: Vec<Value> =
        others.iter().map(|disk| json!({"device": disk.device, "partitions": partitions})).collect();
    tables.push(json!({"device": root.device}));
    let mut filesystems = vec![json!({"device": root.device, "path": "/", "format": "ext4", "label": "root"})];
    let (mut raid, mut groups, mut volumes) = (vec![], vec![], vec![]);
    for (number, (_, row)) in numbered() {
        let parts: Vec<String> = others.iter().map(|disk| format!("{}{number}", disk.device)).collect();
        let mut add_group = |devices: &[String], kind: &str, size: u64| {
            let group = free_group();
            groups.push(json!({"name": group, "devices": devices}));
            volumes.push(json!({"name": "v-1", "volumegroup": group, "size": size, "lvmtype": kind}));
            format!("/dev/{group}/v-1")
        };
        match row {
            Row::Plain(format) => {
                filesystems.extend(parts.iter().map(|part| json!({"device": part, "format": format})));
            }
            Row::Array { level, metadata, format } => {
                let name = free_array();
                // The plan refuses RAID 0 with metadata 0.90.
                let metadata = if *level == "0" && *metadata == "0.90" { "1.0" } else { metadata };
                raid.push(json!({"arrayname": name, "devices": parts, "level": level,
                    "createoptions": [format!("--metadata={metadata}")]}));
                filesystems.push(json!({"device": name, "format": format}));
            }
            Row::Group { kind, size_mib, format } => {
                let device = add_group(&parts, kind, *size_mib);
                filesystems.push(json!({"device": device, "format": format}));
            }
            Row::GroupOnArray { level, format } => {
                let name = free_array();
                let device = add_group(std::slice::from_ref(&name), "linear", 36);
                raid.push(json!({"arrayname": name, "devices": parts, "level": level}));
                filesystems.push(json!({"device": device, "format": format}));
            }
        }
    }
    layout(json!({"disks": tables, "raid": raid, "volumegroups": groups, "logicalvolumes": volumes,
        "filesystems": filesystems}))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 6, failure_persistence: None, max_shrink_iters: 0, rng_seed: RngSeed::Fixed(5), ..ProptestConfig::default()
    })]

    #[test]
    fn any_layout_is_read_back_as_planned(
        count in 2_usize..4,
        sector_bytes in prop_oneof![Just(512_u32), Just(4096)],
        rows in proptest::collection::vec((48_u64..90, any_row()), 1..5),
        stride in 1_usize..4,
    ) {
        if kernel_has(&["raid0", "raid1", "dm_mod"]) {
            let disks: Vec<Loop> = (0..=count).map(|_| Loop::new(512, sector_bytes)).collect();
            let loops: Vec<&Loop> = disks.iter().collect();
            let made = made(&layout_of(&disks, &rows, stride), &loops, Mode::Install);
            check_by_tools(&made.0);
            assert_released(&made.0);
            start_again(&made.0);
            check_by_tools(&made.0);
            assert_released(&made.0);
        }
    }
}
