//! Arrays, volume groups, and the names of disks.

use super::*;
use crate::disk::plan::{Place, StackAction};

fn mirror() -> FilesystemLayout {
    example(include_str!("../../../../tests/fixtures/layouts/mirror.json"))
}

fn lvm() -> FilesystemLayout {
    example(include_str!("../../../../tests/fixtures/layouts/lvm.json"))
}

fn two_sata() -> [DiskFacts; 2] {
    [facts("/dev/sda", 40_000 << 20, 512), facts("/dev/sdb", 40_000 << 20, 512)]
}

fn sata_and_nvme() -> [DiskFacts; 3] {
    let nvme = |device| facts(device, 960_197_124_096, 4096);
    [facts("/dev/sda", 100_000 << 20, 512), nvme("/dev/nvme0n1"), nvme("/dev/nvme1n1")]
}

#[test]
fn a_mirrored_system_boots_from_both_disks() {
    let plan = plan_counted(&mirror(), &two_sata(), Firmware::Bios, Mode::Install).unwrap();
    assert_eq!(plan.boot_disks(), ["/dev/sda", "/dev/sdb"]);
    for disk in &plan.disks {
        assert_eq!(disk.partitions.last().map(|p| (p.number, p.gpt_type)), Some((128, GptType::BiosBoot)));
    }
    let plan = plan_counted(&mirror(), &two_sata(), Firmware::Uefi, Mode::Install).unwrap();
    assert_eq!(plan.esp_members(), [("/dev/sda".to_owned(), 1), ("/dev/sdb".to_owned(), 1)]);
    // Two tables with three partitions each have the ids 1 to 8, the arrays 9 to 11.
    assert_eq!(plan.root_array_uuid().as_deref(), Some("0000000a:00004000:80000000:00000000"));
    assert_eq!(plan.array_uuids().len(), 3);
    assert!(fstab(&plan, "x").contains("UUID=0000000d-0000-4000-8000-000000000000 / ext4 defaults 0 1\n"));
    let text = plan.to_string();
    assert!(text.contains("/dev/md1  raid1: new, of /dev/sda2, /dev/sdb2: new ext4 \"root\" at /\n"), "{text}");
    assert!(text.contains("part of /dev/md0"), "{text}");
}

#[test]
fn volumes_lie_on_their_group_and_its_disks() {
    let plan = plan_counted(&lvm(), &sata_and_nvme(), Firmware::Uefi, Mode::Install).unwrap();
    let [group] = plan.groups.as_slice() else { panic!("{plan}") };
    assert_eq!((group.name.as_str(), group.action, group.device_uuids.len()), ("csi-lvm", StackAction::Make, 2));
    let volume = Place::Volume { group: "csi-lvm".into(), name: "varlib".into() };
    assert_eq!(plan.disks_below(&volume), ["/dev/nvme0n1", "/dev/nvme1n1"]);
    assert_eq!(plan.filesystem_at("/var/lib").map(|fs| &fs.place), Some(&volume));
    assert_eq!((plan.boot_disk.as_str(), plan.root_array_uuid()), ("/dev/sda", None));
    assert!(plan.to_string().contains("volume group csi-lvm: new, of /dev/nvme0n1, /dev/nvme1n1, tags csi lvm\n"));
}

#[test]
fn a_reinstall_keeps_the_group_on_kept_disks() {
    let plan = plan_counted(&lvm(), &sata_and_nvme(), Firmware::Uefi, Mode::Reinstall).unwrap();
    assert_eq!((plan.groups[0].action, plan.groups[0].device_uuids.len()), (StackAction::Keep, 0));
    let kept = plan.filesystem_at("/var/lib").unwrap();
    assert_eq!((kept.action, &kept.uuid), (FilesystemAction::Keep, &None));
    assert!(fstab(&plan, "x").contains("/dev/csi-lvm/varlib /var/lib ext4 defaults 0 2\n"), "{}", fstab(&plan, "x"));
}

#[test]
fn every_fault_of_arrays_and_groups_is_named_at_once() {
    let part = |n: u32, size: u32| json!({"number": n, "size": size});
    let bad = layout(json!({
        "disks": [
            {"device": "/dev/sda", "partitions": [part(1, 100), part(2, 2), part(3, 500), part(4, 500), part(5, 500), part(6, 0)]},
            {"device": "/dev/sdb", "wipeonreinstall": true}],
        "raid": [
            {"arrayname": "/dev/md0", "devices": ["/dev/sda1", "/dev/sda2"], "level": "1", "spares": 1},
            {"arrayname": "/dev/md0", "devices": ["/dev/sda3", "/dev/sda4"], "level": "1"},
            {"arrayname": "/dev/mirror", "devices": ["/dev/sda1", "/dev/sda", "/dev/sdq"], "level": "0", "spares": 1,
             "createoptions": ["--metadata 1.0", "--metadata=0.90"]}],
        "volumegroups": [
            {"name": "vg", "devices": ["/dev/sda3", "/dev/sda4"], "tags": ["good", "no good"]},
            {"name": "vg", "devices": ["/dev/sda6"]},
            {"name": "small", "devices": ["/dev/sda5", "/dev/sdb"]},
            {"name": "-x", "devices": []}],
        "logicalvolumes": [
            {"name": "a", "volumegroup": "vg", "size": 500, "lvmtype": "raid1"},
            {"name": "a", "volumegroup": "vg", "size": 4, "lvmtype": "linear"},
            {"name": "b", "volumegroup": "small", "size": 1200, "lvmtype": "striped"}],
        "filesystems": [
            {"path": "/", "device": "/dev/md0", "format": "ext4"},
            {"path": "/boot/efi", "device": "/dev/mirror", "format": "vfat"},
            {"path": "/x", "device": "/dev/sda3", "format": "xfs"},
            {"path": "/y", "device": "/dev/sda1", "format": "btrfs"}]}));
    let faults = told(plan_counted(&bad, &two_sata(), Firmware::Uefi, Mode::Install));
    let expected = [
        "layout: raid[2].devices[2]: /dev/sdq is not a device of this layout",
        "/dev/md0: raid1 needs 2 devices beside its spares; it has 2, of which 1 are spares",
        "/dev/sda2: too small for a member of /dev/md0",
        "/dev/md0: two arrays have this name",
        "/dev/mirror: not a name for an array; those are /dev/md0 to /dev/md511 and /dev/md/NAME",
        "/dev/mirror: white space inside one option: \"--metadata 1.0\"; give each word as an option of its own",
        "/dev/mirror: raid0 can't use a spare, it has 1",
        "/dev/mirror: mdadm makes no raid0 with metadata 0.90; leave the option out, or write --metadata=1.2",
        "/dev/sda1: used twice, by /dev/md0 and /dev/mirror",
        "/dev/sda: the whole disk is used, which also has partitions",
        "volume group vg: tag \"no good\" has characters that lvm does not take",
        "volume group vg: two have this name",
        "/dev/vg/a: two logical volumes have this name",
        "volume group vg: too small: its volumes need 1056964608 bytes, its devices have at most 1040187392",
        "/dev/small/b: does not fit, as a striped volume needs its room on several devices",
        "\"-x\": lvm takes no such name for a group or volume",
        "volume group -x: has no devices",
        "/dev/sda3: used twice, by volume group vg and a file system (xfs)",
        "/dev/sda1: used twice, by /dev/mirror and a file system (btrfs)",
        "/dev/sda1: 104857600 bytes are too small for btrfs, which needs 114294784",
        "/dev/mirror: firmware can't read an EFI system partition on an array that is no mirror",
    ];
    for text in expected {
        assert_eq!(faults.iter().filter(|fault| *fault == text).count(), 1, "{text}\nin {faults:#?}");
    }
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
}

#[test]
fn firmware_reads_no_mirror_with_its_super_block_at_the_beginning() {
    let mut layout = mirror();
    layout.raid[0].createoptions.clear();
    let faults = told(plan_counted(&layout, &two_sata(), Firmware::Uefi, Mode::Install));
    assert_eq!(
        faults,
        ["/dev/md0: firmware can't read an EFI system partition on a mirror without the option --metadata 1.0"]
    );
    layout.raid[0].createoptions = vec!["-e".into(), "0.90".into()];
    plan_counted(&layout, &two_sata(), Firmware::Uefi, Mode::Install).unwrap();
}

#[test]
fn an_array_of_a_kept_and_a_new_disk_is_a_fault() {
    let mut layout = mirror();
    layout.disks[1].wipeonreinstall = false;
    let faults = told(plan_counted(&layout, &two_sata(), Firmware::Uefi, Mode::Reinstall));
    let partly = |array: &str| format!("{array}: only some of its devices are on disks that are kept over a reinstall");
    for array in ["/dev/md0", "/dev/md1", "/dev/md2"] {
        assert!(faults.contains(&partly(array)), "{faults:#?}");
    }
}

#[test]
fn selected_disks_are_planned_under_their_devices() {
    let selected = layout(json!({
        "disks": [{"device": "serial:S-/dev/sdb", "partitions": [
            {"number": 1, "size": 300, "gpttype": "ef00"}, {"number": 2, "size": 0}]}],
        "filesystems": [
            {"path": "/boot/efi", "device": "serial:S-/dev/sdb-part1", "format": "vfat"},
            {"path": "/", "device": "serial:S-/dev/sdb-part2", "format": "xfs"}]}));
    let plan = plan_counted(&selected, &two_sata(), Firmware::Uefi, Mode::Install).unwrap();
    assert_eq!((plan.boot_disk.as_str(), &plan.untouched), ("/dev/sdb", &vec!["/dev/sda".to_owned()]));
    assert_eq!(plan.filesystems[1].device, "/dev/sdb2");
    assert!(plan.to_string().contains("(selected by \"serial:S-/dev/sdb\")"), "{plan}");
    let mut gone = selected;
    gone.disks[0].device = "smallest nvme".into();
    let faults = told(plan_counted(&gone, &two_sata(), Firmware::Uefi, Mode::Install));
    assert!(
        faults.iter().any(|fault| fault.starts_with("\"smallest nvme\": no disk of this machine is that")),
        "{faults:?}"
    );
}
