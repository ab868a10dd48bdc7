use serde_json::json;

use super::*;
use crate::sys::units::Bytes;

const GB: u64 = 1_000_000_000;

fn disk(device: &str, size: u64, rotational: bool) -> DiskFacts {
    let name = device.trim_start_matches("/dev/").to_owned();
    DiskFacts {
        device: device.to_owned(),
        size: Bytes(size),
        sector_bytes: 512,
        serial: Some(format!("S-{name}")),
        wwn: Some(format!("naa.5000{name}")),
        model: Some("Made Up 5".to_owned()),
        links: vec![format!("/dev/disk/by-id/ata-{name}"), format!("/dev/disk/by-path/pci-{name}")],
        kind: DiskKind::Fixed,
        read_only: false,
        rotational: Some(rotational),
        uses: vec![],
        partitions: vec![],
        content: None,
        name,
    }
}

fn machine() -> Vec<DiskFacts> {
    vec![
        disk("/dev/sda", 480 * GB, false),
        disk("/dev/sdb", 4000 * GB, true),
        disk("/dev/nvme0n1", 960 * GB, false),
        disk("/dev/nvme1n1", 1920 * GB, false),
    ]
}

fn told(selector: &str) -> String {
    match select(selector, &machine()) {
        Ok(device) => device,
        Err(fault) => fault.to_string(),
    }
}

#[test]
fn each_way_of_naming_finds_its_disk() {
    for (selector, device) in [
        ("by-id:ata-sda", "/dev/sda"),
        ("by-path:pci-sdb", "/dev/sdb"),
        ("serial:S-nvme0n1", "/dev/nvme0n1"),
        ("wwn:0x5000SDA", "/dev/sda"),
        ("wwn:naa.5000sda", "/dev/sda"),
        ("smallest nvme", "/dev/nvme0n1"),
        ("largest nvme", "/dev/nvme1n1"),
        ("hdd", "/dev/sdb"),
        ("size>=1TB rotational=false", "/dev/nvme1n1"),
        ("smallest ssd size>480GB", "/dev/nvme0n1"),
        ("size=480000000000B", "/dev/sda"),
        ("size<=480GB model=Made_Up", "/dev/sda"),
    ] {
        assert_eq!(told(selector), device, "{selector}");
    }
}

#[test]
fn faults_name_the_candidates() {
    assert_eq!(
        told("nvme"),
        "\"nvme\": 2 disks are that: /dev/nvme0n1 (960 GB, serial S-nvme0n1, wwn naa.5000nvme0n1), \
         /dev/nvme1n1 (1.9 TB, serial S-nvme1n1, wwn naa.5000nvme1n1)"
    );
    let none = told("serial:gone");
    assert!(none.starts_with("\"serial:gone\": no disk of this machine is that; it has /dev/sda (480 GB, "), "{none}");
    for (selector, why) in [
        ("uuid:5", "\"uuid\" is none of by-id, by-path, serial, wwn"),
        ("serial: ", "nothing follows serial:"),
        ("smallest largest", "it has two of smallest, largest"),
        ("size>=much", "\"much\" is no size, such as 400GB or 2TiB"),
        ("size", "\"size\" compares size with nothing"),
        ("rotational=no", "rotational is true or false, not \"no\""),
    ] {
        assert_eq!(told(selector), format!("{selector:?}: can't be understood as a disk: {why}"));
    }
    assert!(told("fastest").contains("\"fastest\" is none of smallest, "), "{}", told("fastest"));
}

fn layout(first: &str, second: &str) -> FilesystemLayout {
    let part = |disk: &str, number: u32| partition_device(disk, number);
    serde_json::from_value(json!({
        "disks": [{"device": first, "partitions": [{"number": 1, "size": 0}]},
                  {"device": second, "partitions": [{"number": 1, "size": 9}, {"number": 2, "size": 0}]}],
        "raid": [{"arrayname": "/dev/md0", "devices": [part(first, 1), part(second, 2)]}],
        "filesystems": [{"device": "/dev/md0", "path": "/", "format": "ext4"},
                        {"device": part(second, 1), "path": "/a", "format": "ext4"}]}))
    .unwrap()
}

#[test]
fn every_place_that_speaks_of_the_disk_gets_its_device() {
    let resolved = resolve(&layout("serial:S-sda", "smallest nvme"), &machine());
    assert_eq!(resolved.faults, []);
    assert_eq!(resolved.layout, layout("/dev/sda", "/dev/nvme0n1"));
    assert_eq!(resolved.layout.raid[0].devices, ["/dev/sda1", "/dev/nvme0n1p2"]);
    assert_eq!(resolved.selectors[1], ("/dev/nvme0n1".to_owned(), "smallest nvme".to_owned()));
}

#[test]
fn two_names_for_one_disk_are_a_fault() {
    for (first, second) in
        [("serial:S-sda", "by-id:ata-sda"), ("/dev/sda", "serial:S-sda"), ("serial:S-sda", "/dev/sda")]
    {
        let faults = resolve(&layout(first, second), &machine()).faults;
        assert!(
            matches!(faults.as_slice(), [Fault::SelectorSame { device, .. }] if device == "/dev/sda"),
            "{faults:?}"
        );
    }
}
