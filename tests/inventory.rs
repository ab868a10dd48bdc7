//! The inventory of described machines, against their golden JSON, and what is told of it over the wire.
//!
//! After a change that is meant to change them: `UPDATE_GOLDEN=1 cargo test --test inventory`, and read the difference.

mod machine_tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use drophammer::api::rest;
use drophammer::disk::device::read_disks;
use drophammer::disk::erase::run::reason_to_skip;
use drophammer::inventory::dmi::MachineKind;
use drophammer::inventory::machine_id::read_machine_id;
use drophammer::inventory::nic::{Neighbor, Nic};
use drophammer::inventory::table::Table;
use drophammer::inventory::{self, Inventory};
use drophammer::sys::roots::Roots;

const MACHINES: [&str; 6] = [
    "server-8-h100",
    "vm-without-board",
    "server-offline-cpus",
    "laptop-hybrid",
    "server-4k-sas-md",
    "server-junk-board",
];

fn read(machine: &str) -> Inventory {
    let tree = machine_tree::build(machine);
    inventory::read(&Roots::under(tree.path()))
}

fn golden_file(machine: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(machine).join(name)
}

fn assert_golden(machine: &str, name: &str, found: &str) {
    let file = golden_file(machine, name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, found).expect("writing the golden file");
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(found, expected, "{} differs", file.display());
}

#[test]
fn each_described_machine_is_read_as_its_golden_file_says() {
    for machine in MACHINES {
        let json = serde_json::to_string_pretty(&read(machine)).expect("JSON");
        assert_golden(machine, "inventory.json", &format!("{json}\n"));
    }
}

#[test]
fn the_table_is_as_its_golden_file_says_and_fits_a_hundred_columns() {
    for machine in MACHINES {
        let table = Table(&read(machine)).to_string();
        let widest = table.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{machine}: {widest:?} columns\n{table}");
        assert_golden(machine, "inventory.txt", &table);
    }
}

#[test]
fn the_json_is_a_superset_of_the_rest_hardware_and_equals_what_is_registered() {
    for machine in MACHINES {
        let inventory = read(machine);
        let json = serde_json::to_value(&inventory).expect("JSON");
        let rest: rest::Hardware = serde_json::from_value(json).expect("the REST object reads it");
        let (wire, _, _) = inventory.to_register(&BTreeMap::new());
        assert_eq!(rest.memory, wire.memory);
        let cpus = |cpu: &rest::Cpu| (cpu.vendor.clone(), cpu.model.clone(), cpu.cores, cpu.threads);
        let wire_cpus = wire.cpus.into_iter().map(|cpu| (cpu.vendor, cpu.model, cpu.cores, cpu.threads));
        assert!(rest.cpus.iter().map(cpus).eq(wire_cpus));
        let wire_gpus = wire.gpus.into_iter().map(|gpu| (gpu.vendor, gpu.model));
        assert!(rest.gpus.iter().map(|gpu| (gpu.vendor.clone(), gpu.model.clone())).eq(wire_gpus));
        let wire_disks = wire.disks.into_iter().map(|disk| (disk.name, disk.size));
        assert!(rest.disks.iter().map(|disk| (disk.name.clone(), disk.size)).eq(wire_disks));
        let wire_nics = wire.nics.into_iter().map(|nic| (nic.name, nic.mac)).filter(|(name, _)| name != "lo");
        let rest_nics = rest.nics.iter().filter(|nic| nic.name != "lo");
        assert!(rest_nics.map(|nic| (nic.name.clone(), nic.mac.clone())).eq(wire_nics));
    }
}

#[test]
fn only_disks_that_stay_in_the_machine_are_erased() {
    let fixed = |machine| -> Vec<String> {
        let tree = machine_tree::build(machine);
        let disks = read_disks(&Roots::under(tree.path())).expect("the disks");
        let fixed = disks.into_iter().filter(|disk| reason_to_skip(disk).is_none() && !disk.read_only);
        fixed.map(|disk| disk.device).collect()
    };
    // Not: read-only nvme10n1, a path of nvme1n1, md, dm, and the BMC's virtual media.
    assert_eq!(fixed("server-8-h100"), ["/dev/nvme0n1", "/dev/nvme1n1", "/dev/nvme2n1", "/dev/sda", "/dev/sdb"]);
    // Its sda is on USB, and says that it is fixed.
    assert_eq!(fixed("vm-without-board"), ["/dev/sda", "/dev/vda"]);
    // Not: md and dm, a USB stick, and the BMC's media, one of which claims to be fixed.
    assert_eq!(fixed("server-4k-sas-md"), ["/dev/nvme0n1", "/dev/nvme0n2", "/dev/sda", "/dev/sdb"]);
    assert_eq!(fixed("laptop-hybrid"), ["/dev/mmcblk0", "/dev/nvme0n1"]);
}

#[test]
fn of_the_disks_on_usb_those_that_say_they_stay_are_erased() {
    let usb = "@block pci0000:00/0000:00:14.0/usb1";
    let lines = [
        &format!("{usb}/1-1/1-1:1.0/host1/target1:0:0/1:0:0:0/block/sda 1953525168"),
        "sys/block/sda/device/vendor: Acme",
        "sys/block/sda/device/model: Portable SSD",
        &format!("{usb}/1-2/1-2:1.0/host2/target2:0:0/2:0:0:0/block/sdb 60062500"),
        "sys/block/sdb/removable: 1",
        &format!("{usb}/1-3/1-3:1.0/host3/target3:0:0/3:0:0:0/block/sdc 131072"),
        "sys/block/sdc/device/vendor: AMI",
        "sys/block/sdc/device/model: Virtual HDisk0",
        &format!("{usb}/1-4/1-4:1.0/host4/target4:0:0/4:0:0:0/block/sdd 8"),
        "sys/block/sdd/removable: perhaps",
    ];
    let dir = machine_tree::temporary_folder();
    machine_tree::build_lines(dir.path(), &lines.join("\n"));
    let roots = Roots::under(dir.path());
    let erased = read_disks(&roots).expect("the disks");
    let erased = erased.iter().filter(|disk| reason_to_skip(disk).is_none()).map(|disk| disk.device.as_str());
    assert_eq!(erased.collect::<Vec<_>>(), ["/dev/sda"]);
}

#[test]
fn a_gpu_server_is_registered_as_upstream_would() {
    let inventory = read("server-8-h100");
    let (hardware, bios, ipmi) = inventory.to_register(&BTreeMap::new());
    assert_eq!(hardware.memory, 2 << 40);
    assert_eq!(hardware.cpus.iter().map(|cpu| (cpu.cores, cpu.threads)).collect::<Vec<_>>(), [(56, 112), (56, 112)]);
    assert_eq!(hardware.gpus.len(), 8);
    assert!(
        hardware.gpus.iter().all(|gpu| gpu.model == "GH100 [H100 SXM5 80GB]" && gpu.vendor == "NVIDIA Corporation")
    );
    assert_eq!((bios.vendor.as_str(), bios.version.as_str()), ("American Megatrends International, LLC.", "2.1.V1"));
    assert_eq!(ipmi.address, "");
    let names: Vec<&str> = hardware.nics.iter().map(|nic| nic.name.as_str()).collect();
    assert_eq!(names, ["lo", "eth0", "eth1", "eth8", "ib0"]);
}

#[test]
fn neighbours_are_read_by_the_rest_object() {
    let neighbor =
        Neighbor { mac: "Ethernet3".to_owned(), identifier: "Ethernet3".to_owned(), name: None, hostname: None };
    let nic = Nic { name: "eth0".to_owned(), neighbors: vec![neighbor], ..Nic::default() };
    let inventory = Inventory { nics: vec![nic], ..Inventory::default() };
    let json = serde_json::to_value(inventory).expect("JSON");
    let rest: rest::Hardware = serde_json::from_value(json).expect("the REST object reads it");
    let heard = &rest.nics[0].neighbors[0];
    let words = (heard.mac.as_str(), heard.identifier.as_str(), heard.name.as_str());
    assert_eq!(words, ("Ethernet3", "Ethernet3", ""));
}

#[test]
fn leftovers_of_the_last_system_are_told_with_what_they_are_made_of() {
    let inventory = read("server-4k-sas-md");
    let disk = |name: &str| inventory.disks.iter().find(|disk| disk.name == name).expect("a disk");
    let sda = disk("/dev/sda");
    assert_eq!((sda.logical_block_bytes, sda.physical_block_bytes), (Some(4096), Some(4096)));
    assert_eq!(sda.partitions.len(), 2);
    let holders: Vec<(&str, &str)> = sda.holders.iter().map(|h| (h.device.as_str(), h.by.as_str())).collect();
    assert_eq!(holders, [("/dev/sda1", "/dev/md127"), ("/dev/sda2", "/dev/dm-0")]);
    assert_eq!(disk("/dev/md127").members, ["/dev/sda1", "/dev/sdb1"]);
    assert_eq!(disk("/dev/md127").raid_level.as_deref(), Some("raid1"));
    assert_eq!(disk("/dev/dm-0").mapping_name.as_deref(), Some("vg0-root"));
    let paths = ["/dev/disk/by-id/scsi-35000c500a0000001", "/dev/disk/by-id/wwn-0x5000c500a0000001"];
    assert_eq!(sda.stable_paths, paths);
    assert_eq!(disk("/dev/nvme0n2").stable_paths[1], "/dev/disk/by-id/nvme-ACME_NVME_3840GB_NVME0007_2");
}

#[test]
fn media_of_the_bmc_and_gpus_of_others_are_told_but_not_registered() {
    let inventory = read("server-4k-sas-md");
    let (hardware, _, _) = inventory.to_register(&BTreeMap::new());
    let names: Vec<&str> = hardware.disks.iter().map(|disk| disk.name.as_str()).collect();
    let expected = ["/dev/dm-0", "/dev/md127", "/dev/nvme0n1", "/dev/nvme0n2", "/dev/sda", "/dev/sdb", "/dev/sde"];
    assert_eq!(names, expected, "a stick counts, as upstream's; the BMC's media do not");
    assert!(hardware.gpus.is_empty());
    let others: Vec<&str> = inventory.other_gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    assert_eq!(others, ["ASPEED Graphics Family", "Aqua Vanjaram [Instinct MI300X]", "GX1 [Card of Tomorrow]"]);
    let controllers: Vec<(&str, usize)> =
        inventory.nvme_controllers.iter().map(|c| (c.name.as_str(), c.namespaces.len())).collect();
    assert_eq!(controllers, [("nvme0", 2), ("nvme1", 0)], "one that lost its namespaces is still there");
    let to_bmc: Vec<&str> = inventory.nics.iter().filter(|nic| nic.to_bmc).map(|nic| nic.name.as_str()).collect();
    assert_eq!(to_bmc, ["eth2"]);
}

#[test]
fn virtual_functions_and_links_are_told_of_cards() {
    let inventory = read("server-8-h100");
    let eth0 = inventory.nics.iter().find(|nic| nic.name == "eth0").expect("eth0");
    assert_eq!(eth0.sriov.map(|sriov| (sriov.functions, sriov.most_functions)), Some((Some(2), 8)));
    let is_part = |address: &str| {
        inventory.pci.iter().find(|device| device.address == address).and_then(|d| d.physical_function.as_deref())
    };
    assert_eq!(is_part("0000:29:00.2"), Some("0000:29:00.0"));
    assert_eq!(is_part("0000:29:00.0"), None);
    let multipath = inventory.disks.iter().find(|disk| disk.name == "/dev/nvme1n1").expect("a disk");
    assert_eq!(multipath.pci_address.as_deref(), Some("0000:17:00.0"), "of the controller on the path to it");
    let gpu = &inventory.gpus[0];
    assert_eq!(gpu.link.and_then(|link| link.max_speed_mtps), Some(32000));
    assert_eq!(gpu.memory_bars.iter().map(|bar| bar.size.0).max(), Some(128 << 30));
    assert_eq!((gpu.chip.as_deref(), gpu.marketing_name.as_deref()), (Some("GH100"), Some("H100 SXM5 80GB")));
}

#[test]
fn the_machines_id_is_the_uuid_or_a_serial_number_that_is_one_or_made_of_board_and_mac() {
    let id = |machine| {
        let tree = machine_tree::build(machine);
        read_machine_id(&Roots::under(tree.path()))
    };
    let told = |machine| {
        let id = id(machine).expect(machine);
        assert_eq!(id.made_because, None);
        id.uuid.to_string()
    };
    assert_eq!(told("vm-without-board"), "5b3c6f2a-0001-4d5e-8f00-00000000000a");
    assert_eq!(told("server-offline-cpus"), "00112233-4455-6677-8899-aabbccddee01");
    let error = id("laptop-hybrid").expect_err("root's alone").to_string();
    assert!(error.contains("product_uuid cannot be read (root may)"), "{error}");
    let made = id("server-junk-board").expect("made");
    // Version 5 of "mac=02:00:00:00:06:01" in our namespace.
    assert_eq!(made.uuid.to_string(), "ad1df923-742c-5731-8005-48c32f01a9c9");
    let sentence = made.made_because.expect("a reason");
    assert!(sentence.contains("03000200-0400-0500-0006-000700080009, which does not tell this machine"), "{sentence}");
}

#[test]
fn a_made_id_needs_a_card_that_stays_and_all_sources_to_be_readable() {
    let read = |lines: &str| {
        let dir = machine_tree::temporary_folder();
        machine_tree::build_lines(dir.path(), lines);
        read_machine_id(&Roots::under(dir.path())).map(|id| id.uuid.to_string()).map_err(|error| format!("{error:#}"))
    };
    let usb = "@net 2 eth0 pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0 cdc_ether 02:00:00:00:00:01";
    let card = "@net 3 eth1 pci0000:00/0000:00:1f.6 e1000e 02:00:00:00:00:02";
    let serial = "sys/class/dmi/id/board_serial: B000042";
    let error = read(&[usb, serial].join("\n")).expect_err("no card");
    assert!(error.contains("neither a UUID nor a serial number") && error.contains("no network card"), "{error}");
    // Version 5 of "board-serial=B000042 mac=02:00:00:00:00:02".
    assert_eq!(read(&[usb, card, serial].join("\n")).as_deref(), Ok("0be9ec03-2461-5bdc-87ef-9503c272011e"));
    let error = read(&[card, "sys/class/dmi/id/board_serial/"].join("\n")).expect_err("not root");
    assert!(error.contains("board_serial cannot be read (root may)"), "{error}");
}

#[test]
fn a_board_with_nothing_filled_in_is_still_a_server_and_says_what_it_has() {
    let inventory = read("server-junk-board");
    assert_eq!(inventory.kind, MachineKind::Server);
    assert_eq!(inventory.product, None);
    let board = inventory.board.expect("a board");
    assert_eq!((board.name.as_deref(), board.serial, board.asset_tag), (Some("B650D4U"), None, None));
    assert_eq!(inventory.memory.map(|memory| memory.0), Some(64 << 30), "the modules of SMBIOS, not MemTotal");
    assert!(inventory.warnings.iter().any(|warning| warning.starts_with("SMBIOS: the table breaks off")));
}

#[test]
fn a_machine_of_which_nothing_can_be_read_is_an_empty_inventory_that_says_so() {
    let empty = machine_tree::temporary_folder();
    let inventory = inventory::read(&Roots::under(empty.path()));
    for source in ["CPU", "memory", "disks", "NICs", "PCI", "DMI", "UUID", "firmware"] {
        assert!(
            inventory.warnings.iter().any(|warning| warning.starts_with(source)),
            "{source}: {:?}",
            inventory.warnings
        );
    }
    assert_eq!(inventory.memory, None);
    assert!(inventory.cpus.is_empty() && inventory.disks.is_empty() && inventory.nics.is_empty());
    assert!(!Table(&inventory).to_string().is_empty());
}

#[test]
fn files_with_nonsense_in_them_are_absent_values() {
    let dir = machine_tree::temporary_folder();
    let lines = [
        "@block pci0000:00/0000:00:04.0/virtio1/block/vda x",
        "@block pci0000:00/0000:00:04.1/virtio2/block/vdb 99999999999999999999",
        "@block pci0000:00/0000:00:04.2/virtio3/block/vdc 8",
        "sys/block/vdc/removable: perhaps",
        "sys/block/loop -> loop",
        "sys/class/net/loop -> loop",
        "sys/class/net/eth0/address: zz:zz",
        "sys/devices/system/cpu/cpu0/topology/physical_package_id: -1",
        "sys/devices/system/cpu/cpu0/topology/core_id: -1",
        "sys/devices/system/memory/block_size_bytes: ffffffffffffffff",
        "sys/devices/system/memory/memory0/online: 1",
        "sys/devices/system/memory/memory1/online: 1",
        "sys/bus/pci/devices/0000:00:02.0/vendor: 0x10de0",
        "proc/cpuinfo: : \\x00 :::\\nprocessor: a",
        "sys/class/dmi/id/product_uuid/",
        "sys/devices/system/cpu/online: all",
        "sys/devices/system/cpu/present: 7-0",
        "sys/devices/system/node/node0/cpulist: 0-4294967295",
        "sys/devices/system/node/node1/meminfo: Node 1 MemTotal: 18446744073709551615 kB",
        "sys/devices/cpu_core/cpus: -1",
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c: yes",
        "sys/class/tpm/tpm0/tpm_version_major: 9",
        "@smbios 255 255",
        "@structure 17 0e 04=ffff 0c=ff7f 01=05 | a",
        "@structure 16 04 01=03",
    ];
    machine_tree::build_lines(dir.path(), &lines.join("\n"));
    let inventory = inventory::read(&Roots::under(dir.path()));
    assert_eq!((inventory.memory, inventory.secure_boot), (None, None));
    assert!(inventory.memory_nodes.is_empty() && inventory.tpm.is_some_and(|tpm| tpm.version.is_none()));
    assert!(inventory.cpus.is_empty() && inventory.gpus.is_empty() && inventory.nics.is_empty());
    let names: Vec<&str> = inventory.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["/dev/vdc"]);
    for disk in ["vda", "vdb", "loop", "SMBIOS: the table has a structure that is shorter"] {
        assert!(inventory.warnings.iter().any(|warning| warning.contains(disk)), "{disk}: {:?}", inventory.warnings);
    }
}

/// Captured machines of other projects, where they lie beside this one; they are not part of it.
#[test]
fn captured_machines_are_read_as_they_are_described() {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/machines");
    let folder = std::env::var_os("DROPHAMMER_MACHINES").map_or(beside, PathBuf::from);
    if !folder.is_dir() {
        eprintln!("skipped: no captured machines in {}", folder.display());
        return;
    }
    let machine = |name: &str, below: &str| {
        let dir = machine_tree::temporary_folder();
        let tar = Command::new("tar").arg("-xf").arg(folder.join(name)).arg("-C").arg(dir.path()).status();
        assert!(tar.expect("running tar").success(), "unpacking {name}");
        inventory::read(&Roots::under(&dir.path().join(below)))
    };
    let counts = |inventory: &Inventory| -> Vec<(u32, u32)> {
        inventory.cpus.iter().map(|cpu| (cpu.cores, cpu.threads)).collect()
    };

    let vm = machine("xeon-e5-2695v4-vm-nvidia-p100.tar.gz", "");
    assert_eq!(vm.gpus.iter().map(|gpu| gpu.model.as_str()).collect::<Vec<_>>(), ["GP100GL [Tesla P100 PCIe 16GB]"]);

    let ryzen = machine("amd-ryzen-1600.tar.gz", "");
    assert_eq!(counts(&ryzen), [(6, 12)]);
    assert_eq!(ryzen.cpus[0].flags, ["svm"]);
    assert!(ryzen.gpus.is_empty(), "a Radeon is not reported");
    let disks: Vec<&str> =
        ryzen.disks.iter().map(|disk| disk.name.as_str()).filter(|name| name.contains("sd")).collect();
    assert_eq!(disks, ["/dev/sda", "/dev/sdb", "/dev/sdc"]);

    let xeon = machine("xeon-2-socket-nvme-mic-dimms.tar.bz2", "32em64t-2n8c+1mic");
    assert_eq!(counts(&xeon), [(8, 8), (8, 8)]);
    assert_eq!(xeon.cpus.iter().map(|cpu| cpu.numa_nodes.clone()).collect::<Vec<_>>(), [[0], [1]]);
    assert_eq!(xeon.memory_nodes.iter().map(|node| node.node).collect::<Vec<_>>(), [0, 1]);
    let dimms = xeon.dimms.expect("slots");
    let module = &dimms.modules[0];
    assert_eq!((dimms.slots, dimms.modules.len(), module.kind), (24, 8, Some("DDR3")));
    assert_eq!((module.size.map(|size| size.0), module.rated_mts), (Some(4 << 30), Some(1600)));
    assert!(xeon.nics.iter().any(|nic| nic.name == "ib0"));

    let offline = machine("xeon-4-socket-offline-cpus.tar.bz2", "16em64t-4s2c2t-offlines");
    assert_eq!(offline.cpus.iter().map(|cpu| cpu.threads).sum::<u32>(), 12);
    assert!(offline.warnings.contains(&"CPU: 4 of 16 CPUs are offline and not counted: 2,5,13-14".to_owned()));

    let hybrid = machine("intel-hybrid.tar.bz2", "20em64t-hybrid-1p6c2t+2ca4co1t");
    assert_eq!(counts(&hybrid), [(14, 20)]);
    assert_eq!((hybrid.cpus[0].base_mhz, hybrid.cpus[0].max_mhz), (Some(1900), Some(5200)));
}
