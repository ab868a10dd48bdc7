//! Which drivers are loaded for which hardware, in which order: with the tables of a real kernel and a made-up `/sys`.
//! Nothing is put into the kernel here.

mod machine_tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use drophammer::init::modules::load::{Insert, LoadReport, Loader, Outcome};
use drophammer::init::modules::{ModuleDb, settle};
use drophammer::sys::roots::Roots;
use tempfile::TempDir;

const NVME: &str = "pci:v0000144Dd0000A80Asv0000144Dsd0000A801bc01sc08i02";
const VIRTIO_PCI: &str = "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00";

fn db() -> ModuleDb {
    ModuleDb::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/modules"))
}

/// A `/sys` with one device for each modalias.
fn devices(modaliases: &[&str]) -> TempDir {
    let dir = TempDir::new().expect("temporary folder");
    for (number, modalias) in modaliases.iter().enumerate() {
        add_device(dir.path(), "pci", &number.to_string(), modalias);
    }
    dir
}

fn add_device(root: &Path, bus: &str, name: &str, modalias: &str) {
    machine_tree::build_lines(root, &format!("sys/bus/{bus}/devices/{name}/modalias: {modalias}"));
}

fn load(root: &Path, insert: &Insert) -> (LoadReport, Vec<String>) {
    let mut said = Vec::new();
    let report = Loader::new(&Roots::under(root), &db()).load_with(&mut |line| said.push(line.to_owned()), insert);
    (report, said)
}

/// Where each of the names is in the list.
fn places(list: &[String], names: &[&str]) -> Vec<usize> {
    let place =
        |name: &&str| list.iter().position(|item| item == name).unwrap_or_else(|| panic!("{name} not in {list:?}"));
    names.iter().map(place).collect()
}

#[test]
fn devices_get_the_modules_that_the_kernels_tables_name() {
    let cases: [(&str, &[&str]); 9] = [
        (NVME, &["nvme"]),
        ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", &["ahci"]),
        ("pci:v00008086d00001521sv00008086sd00000001bc02sc00i00", &["igb"]),
        ("virtio:d00000010v00001AF4", &["virtio_gpu"]),
        ("acpi:IPI0001:", &["ipmi_si"]),
        ("usb:v05ACp8342d0107dcE0dsc01dp01icE0isc01ip01in00", &["acme_hid"]),
        ("of:Nusb-phyT(null)Cacme,usb-phyCother", &["acme_usb_phy"]),
        ("cpu:type:x86,ven0000fam0006mod002A:feature:,0000,0081,0094,00A1", &["crct10dif_pclmul", "crc32c_intel"]),
        ("pci:v00008086d00009999sv00008086sd00000001bc02sc00i00", &[]),
    ];
    let db = db();
    for (modalias, expected) in cases {
        assert_eq!(db.modules_for(modalias), expected, "{modalias}");
    }
}

#[test]
fn everything_a_module_needs_comes_before_it() {
    let db = db();
    assert_eq!(
        db.load_order("nvme"),
        ["crct10dif_common", "crct10dif_pclmul", "crct10dif_generic", "crc_t10dif", "t10_pi", "nvme_core", "nvme"]
    );
    assert_eq!(db.load_order("ext4"), ["crc32c_intel", "crc32c_generic", "jbd2", "mbcache", "crc16", "ext4"]);
    assert_eq!(db.load_order("igb"), ["dca", "i2c_algo_bit", "igb"]);
}

#[test]
fn a_circle_of_soft_dependencies_ends_and_what_should_follow_follows() {
    assert_eq!(db().load_order("circle-a"), ["circle_b", "circle_a", "follower"]);
    assert_eq!(db().load_order("circle-b"), ["circle_a", "follower", "circle_b"]);
}

#[test]
fn modules_that_are_built_in_or_not_there_are_passed_over() {
    let db = db();
    assert!(db.is_builtin("efivarfs") && db.is_builtin("8250"));
    for name in ["efivarfs", "af_packet", "absent", "not_in_this_selection"] {
        assert!(db.load_order(name).is_empty(), "{name}");
    }
}

#[test]
fn each_module_is_loaded_once_and_after_what_it_needs() {
    let tree = devices(&[NVME, "pci:v0000144Dd0000A822sv0sd0bc01sc08i02", "pci:v00008086d00002922sv0sd0bc01sc06i01"]);
    let inserted = Mutex::new(Vec::new());
    let (report, said) = load(tree.path(), &|name, file, _| {
        assert!(file.starts_with(env!("CARGO_MANIFEST_DIR")) && file.to_string_lossy().contains(".ko"));
        inserted.lock().expect("no panic").push(name.to_owned());
        Outcome::Loaded
    });
    let inserted = inserted.into_inner().expect("no panic");
    let mut once = inserted.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), inserted.len(), "{inserted:?}");
    for order in [
        &["crct10dif_common", "crct10dif_generic", "crc_t10dif", "t10_pi", "nvme_core", "nvme"][..],
        &["scsi_common", "scsi_mod", "libata", "libahci", "ahci"],
        &["scsi_mod", "sd_mod"],
        &["crc32c_generic", "ext4"],
        &["fat", "vfat"],
        &["ipmi_msghandler", "ipmi_devintf"],
    ] {
        // `report.loaded` is in the order in which modules were ready, which is what counts.
        assert!(places(&report.loaded, order).is_sorted(), "{order:?} in {:?}", report.loaded);
    }
    assert!(report.failed.is_empty());
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn devices_that_appear_with_a_driver_get_theirs_in_the_next_round() {
    let tree = devices(&[VIRTIO_PCI]);
    let (report, _) = load(tree.path(), &|name, _, _| {
        if name == "virtio_pci" {
            add_device(tree.path(), "virtio", "virtio0", "virtio:d00000002v00001AF4");
        }
        if name == "virtio_blk" {
            add_device(tree.path(), "virtio", "virtio1", "virtio:d00000001v00001AF4");
        }
        Outcome::Loaded
    });
    assert!(places(&report.loaded, &["virtio_pci", "virtio_blk", "virtio_net"]).is_sorted());
    assert_eq!(report.rounds, 3);
}

#[test]
fn drivers_of_gpus_and_speakers_are_left_out_with_the_reason() {
    let tree = devices(&[
        "pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00",
        "pci:v00001234d00001111sv00001AF4sd00001100bc03sc80i00",
        "platform:pcspkr",
        "virtio:d00000010v00001AF4",
        "scsi:t-0x05",
        "pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00",
    ]);
    let (report, _) = load(tree.path(), &|_, _, _| Outcome::Loaded);
    let left_out: Vec<&str> = report.left_out.keys().map(String::as_str).collect();
    assert_eq!(left_out, ["bochs", "nouveau", "pcspkr", "sr_mod", "virtio_gpu"]);
    assert!(report.loaded.iter().all(|name| !left_out.contains(&name.as_str())));
    assert!(report.loaded.iter().any(|name| name == "i6300esb"), "a watchdog is wanted");
}

#[test]
fn the_kernel_command_line_gives_parameters_and_blacklists() {
    let tree = devices(&[NVME, "pci:v00008086d00001521sv0sd0bc02sc00i00"]);
    machine_tree::build_lines(tree.path(), "proc/cmdline: quiet nvme-core.multipath=N modprobe.blacklist=igb");
    let parameters = Mutex::new(BTreeMap::new());
    let (report, _) = load(tree.path(), &|name, _, given| {
        parameters.lock().expect("no panic").insert(name.to_owned(), given.to_owned());
        Outcome::Loaded
    });
    let parameters = parameters.into_inner().expect("no panic");
    assert_eq!(parameters["nvme_core"], "multipath=N");
    assert_eq!(parameters["nvme"], "");
    assert!(!parameters.contains_key("igb"));
    assert!(report.left_out["igb"].contains("kernel command line"));
}

#[test]
fn what_fails_is_named_with_what_falls_with_it_and_the_rest_is_loaded() {
    let tree = devices(&[NVME, "pci:v00008086d00001521sv0sd0bc02sc00i00"]);
    let (report, said) = load(tree.path(), &|name, _, _| match name {
        "nvme_core" => Outcome::Failed("it is made for another kernel (ENOEXEC)".to_owned()),
        // A CPU without this instruction: nobody needs to know.
        "crct10dif_pclmul" => Outcome::NoDevice,
        _ => Outcome::Loaded,
    });
    let failed: BTreeMap<&str, &str> = report.failed.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed["nvme"].contains("nvme_core"));
    assert!(said.iter().any(|line| line.contains("nvme_core") && line.contains("ENOEXEC")), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("pclmul")), "{said:?}");
    assert!(report.loaded.iter().any(|name| name == "igb") && report.loaded.iter().any(|name| name == "crc_t10dif"));
}

#[test]
fn a_device_that_comes_later_gets_its_driver_and_no_other_is_loaded_again() {
    let tree = devices(&[VIRTIO_PCI]);
    let (roots, db) = (Roots::under(tree.path()), db());
    let mut loader = Loader::new(&roots, &db);
    let insert = |_: &str, _: &Path, _: &str| Outcome::Loaded;
    assert!(loader.load_with(&mut |_| {}, &insert).loaded.contains(&"virtio_pci".to_owned()));
    let mut said = Vec::new();
    assert_eq!(loader.load_with(&mut |line| said.push(line.to_owned()), &insert), LoadReport::default());
    add_device(tree.path(), "pci", "late", NVME);
    let late = loader.load_with(&mut |line| said.push(line.to_owned()), &insert).loaded;
    assert!(late.contains(&"nvme".to_owned()) && !late.contains(&"virtio_pci".to_owned()), "{late:?}");
    assert_eq!(said.len(), 1, "nothing is said where nothing is new: {said:?}");
}

#[test]
fn a_kernel_without_modules_is_said_once_and_nothing_is_loaded() {
    let tree = devices(&[NVME]);
    let db = ModuleDb::read(&tree.path().join("lib/modules/6.1.0"));
    let mut said = Vec::new();
    let insert = |_: &str, _: &Path, _: &str| -> Outcome { panic!("there is nothing to load") };
    let report =
        Loader::new(&Roots::under(tree.path()), &db).load_with(&mut |line| said.push(line.to_owned()), &insert);
    assert_eq!(report, LoadReport::default());
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("only those built into the kernel"), "{said:?}");
}

#[test]
fn devices_count_as_settled_when_none_appears_any_more() {
    let tree = TempDir::new().expect("temporary folder");
    let roots = Roots::under(tree.path());
    fs::create_dir_all(tree.path().join("sys/block/vda")).expect("making a folder");
    assert!(settle(&roots, Duration::from_secs(10)));
    assert!(!settle(&roots, Duration::ZERO), "no time to see");
}
