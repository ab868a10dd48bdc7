//! `scripts/capture-machine`: what it takes along is enough to say what a machine is, and without names nobody can tell
//! which one.

mod machine_tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use drophammer::inventory::{self, Inventory};
use drophammer::sys::roots::Roots;
use serde_json::Value;
use tempfile::TempDir;

/// Every described machine of `tests/fixtures`.
fn machines() -> Vec<String> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = fs::read_dir(fixtures).expect("the fixtures").flatten();
    entries.filter(|e| e.path().join("tree").is_file()).filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Runs the script on the machine under `root`, and unpacks what it made.
fn capture(root: &Path, options: &[&str]) -> TempDir {
    let unpacked = machine_tree::temporary_folder();
    let tar = unpacked.path().join("machine.tar");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/capture-machine");
    let done = Command::new(script)
        .args(options)
        .args([Path::new("-o"), &tar, Path::new("--root"), root])
        .output()
        .expect("running the script");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let done = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(unpacked.path()).status().expect("running tar");
    assert!(done.success());
    unpacked
}

fn read(root: &Path) -> Inventory {
    inventory::read(&Roots::under(root))
}

fn json(inventory: &Inventory) -> Value {
    serde_json::to_value(inventory).expect("JSON")
}

/// Key by key: a whole inventory is too much to look for a difference in.
fn assert_same(found: &Value, expected: &Value, machine: &str) {
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(found), keys(expected), "{machine}");
    for key in keys(expected) {
        assert_eq!(found[&key], expected[&key], "{machine}: {key}");
    }
}

#[test]
fn a_captured_machine_has_the_inventory_of_the_machine() {
    for machine in machines() {
        let tree = machine_tree::build(&machine);
        let captured = capture(tree.path(), &[]);
        assert_same(&json(&read(captured.path())), &json(&read(tree.path())), &machine);
    }
}

/// On the machine that runs the tests, without what other tests come and go with: loop devices, links of namespaces.
#[test]
fn this_machine_is_captured_as_it_is() {
    let lasting = |root: &Path| {
        let mut inventory = json(&read(root));
        let object = inventory.as_object_mut().expect("an object");
        for changing in ["warnings", "other_media", "bmc"] {
            object.remove(changing);
        }
        let keep = |list: &mut Value, is_kept: fn(&Value) -> bool| {
            list.as_array_mut().expect("a list").retain(is_kept);
        };
        keep(&mut object["disks"], |disk| disk["kind"] == "disk");
        keep(&mut object["nics"], |nic| nic["physical"] == true);
        // What takes asking the device.
        let asked: [(&str, &[&str]); 3] = [
            ("disks", &["content", "partition_table", "health", "nvme"]),
            ("nvme_controllers", &["health", "namespaces"]),
            ("nics", &["bus", "firmware", "permanent_mac"]),
        ];
        for (list, keys) in asked {
            for device in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                device.as_object_mut().expect("an object").retain(|key, _| !keys.contains(&key.as_str()));
            }
        }
        inventory
    };
    let captured = capture(Path::new("/"), &[]);
    assert_same(&lasting(captured.path()), &lasting(Path::new("/")), "this machine");
}

/// Names in each place where a kernel shows them.
const NAMED: &str = r"
sys/class/dmi/id/board_vendor: Acme
sys/class/dmi/id/board_name: X1
sys/class/dmi/id/bios_version: 2.1
sys/class/dmi/id/board_serial: Default string
sys/class/dmi/id/product_serial: GX7R2K3
sys/class/dmi/id/product_uuid: 4c4c4544-0058-3710-8052-c7c04f324b33
sys/firmware/dmi/tables/DMI: \x01\x1b\x01\x00\x01\x02\x00\x03\x44\x45\x4c\x4c\x58\x00\x10\x37\x80\x52\xc7\xc0\x4f\x32\x4b\x33\x06\x00\x00Acme\x00R640\x00GX7R2K3\x00\x00\x7f\x04\xfe\xff\x00\x00
@block pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda 7501476528
sys/block/sda/device/vpd_pg80: \x00\x80\x00\x0cS64HNE0R1234
sys/block/sda/device/vpd_pg83: \x00\x83\x00\x0c\x01\x03\x00\x08\x50\x02\x53\x8f\x00\x12\x34\x56
sys/block/sda/device/wwid: naa.5002538f00123456
@block pci0000:00/0000:00:1d.0/0000:01:00.0/nvme/nvme0/nvme0n1 7501476528
sys/block/nvme0n1/device/serial: S439NA0M500123
sys/block/nvme0n1/wwid: nvme.144d-533433394e41304d353030313233-53414d53554e47-00000001
@net 2 enx3cecef4d5e6f pci0000:00/0000:00:03.0 e1000e 3c:ec:ef:4d:5e:6f
";

/// All of a tree's bytes, link targets and paths, as one.
fn everything(root: &Path) -> Vec<u8> {
    let listed = Command::new("tar").arg("-cf").arg("-").arg("-C").arg(root).args(["sys", "proc"]).output();
    listed.expect("running tar").stdout
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle))
}

#[test]
fn an_anonymous_capture_has_none_of_the_machines_names() {
    let names: [&[u8]; 13] = [
        b"GX7R2K3",
        b"4c4c4544",
        b"0058-3710-8052-c7c04f324b33",
        b"DELLX\x00\x107",
        b"\x80\x52\xc7\xc0\x4f\x32\x4b\x33",
        b"S64HNE0R1234",
        b"8f00123456",
        b"\x8f\x00\x12\x34\x56",
        b"S439NA0M500123",
        b"533433394e41304d353030313233",
        b"4d:5e:6f",
        b"4d5e6f",
        b"500123",
    ];
    let tree = machine_tree::temporary_folder();
    machine_tree::build_lines(tree.path(), NAMED);
    let before = everything(tree.path());
    for name in names {
        assert!(contains(&before, name), "the test's own tree lacks {:?}", String::from_utf8_lossy(name));
    }
    let captured = capture(tree.path(), &["--anonymize"]);
    let after = everything(captured.path());
    for name in names {
        assert!(!contains(&after, name), "{:?} is still there", String::from_utf8_lossy(name));
    }
    // What tells no machine from another stays: the maker's part, and what a maker wrote for want of a name.
    for kind in [b"Default string".as_slice(), b"3c:ec:ef:", b"naa.5002538", b"nvme.144d-", b"R640", b"Acme"] {
        assert!(contains(&after, kind), "{:?} is gone", String::from_utf8_lossy(kind));
    }
    assert_eq!(read(captured.path()).nics[0].driver.as_deref(), Some("e1000e"));
}

#[test]
fn the_same_name_is_replaced_by_the_same_everywhere() {
    let tree = machine_tree::temporary_folder();
    machine_tree::build_lines(tree.path(), NAMED);
    let captured = capture(tree.path(), &["--anonymize"]);
    let text = |path: &str| fs::read_to_string(captured.path().join(path)).expect(path).trim_end().to_owned();
    let bytes = everything(captured.path());
    let dmi = fs::read(captured.path().join("sys/firmware/dmi/tables/DMI")).expect("the table");
    assert!(contains(&dmi, text("sys/class/dmi/id/product_serial").as_bytes()));
    let uuid = uuid::Uuid::try_parse(&text("sys/class/dmi/id/product_uuid")).expect("still a UUID");
    assert!(contains(&dmi, &uuid.to_bytes_le()));
    let serial = text("sys/block/nvme0n1/device/serial");
    let in_hex: String = serial.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(text("sys/block/nvme0n1/wwid").contains(&in_hex));
    let nic = &read(captured.path()).nics[0];
    assert_eq!(nic.name, format!("enx{}", nic.mac.replace(':', "")));
    assert!(contains(&bytes, nic.name.as_bytes()));
    let wwn = text("sys/block/sda/device/wwid");
    let wwn = u64::from_str_radix(wwn.trim_start_matches("naa."), 16).expect("still hexadecimal");
    let page = fs::read(captured.path().join("sys/block/sda/device/vpd_pg83")).expect("the page");
    assert!(contains(&page, &wwn.to_be_bytes()));
}

#[test]
fn an_anonymous_capture_differs_in_names_only() {
    /// The keys of names, with their number of characters in place of the value.
    fn without_names(value: &mut Value) {
        const NAMES: [&str; 12] = [
            "uuid",
            "serial",
            "mac",
            "permanent_mac",
            "wwn",
            "asset_tag",
            "eui64",
            "nguid",
            "node_guid",
            "port_guid",
            "stable_paths",
            "warnings",
        ];
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    if NAMES.contains(&key.as_str()) {
                        *value = value.to_string().len().into();
                    }
                    without_names(value);
                }
            }
            Value::Array(values) => values.iter_mut().for_each(without_names),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut changed: BTreeMap<String, bool> = BTreeMap::new();
    for machine in machines() {
        let tree = machine_tree::build(&machine);
        let captured = capture(tree.path(), &["--anonymize"]);
        let (mut found, mut expected) = (json(&read(captured.path())), json(&read(tree.path())));
        changed.insert(machine.clone(), found != expected);
        without_names(&mut found);
        without_names(&mut expected);
        assert_same(&found, &expected, &machine);
    }
    assert_eq!(changed.get("server-8-h100"), Some(&true));
}
