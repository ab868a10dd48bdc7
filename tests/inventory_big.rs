//! A big server. `scripts/bench inventory` measures on the tree that this leaves in the folder `BIG_TREE` names.

mod machine_tree;

use std::path::{Path, PathBuf};

use drophammer::inventory;
use drophammer::inventory::table::Table;
use drophammer::sys::roots::Roots;
use machine_tree::big::{Size, describe};

#[test]
fn nothing_of_a_big_server_is_left_out() {
    let tree = machine_tree::temporary_folder();
    machine_tree::build_lines(tree.path(), &describe(Size::BIG));
    let inventory = inventory::read(&Roots::under(tree.path()));
    let counts: Vec<(u32, u32)> = inventory.cpus.iter().map(|cpu| (cpu.cores, cpu.threads)).collect();
    assert_eq!(counts, [(64, 128), (64, 128)]);
    assert_eq!(inventory.memory.map(|memory| memory.0), Some(2 << 40));
    let nvidia = inventory.gpus.iter().filter(|gpu| gpu.device_id == "2330").count();
    assert_eq!((inventory.disks.len(), nvidia, inventory.nics.len()), (24, 8, 16));
    assert!(inventory.disks.iter().all(|disk| disk.serial.is_some() && disk.wwn.is_some()));
    let names: Vec<&str> = inventory.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!((names[0], names[7], names[8], names[23]), ("/dev/nvme0n1", "/dev/nvme7n1", "/dev/sda", "/dev/sdp"));
    let table = Table(&inventory).to_string();
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
}

/// Not a test by itself: `BIG_TREE=DIR cargo test --test inventory_big -- --ignored`.
#[test]
#[ignore = "leaves trees for scripts/bench"]
fn leave_the_trees() {
    let dir = PathBuf::from(std::env::var_os("BIG_TREE").expect("BIG_TREE names a folder"));
    let build = |dir: &Path, size| machine_tree::build_lines(dir, &describe(size));
    build(&dir.join("big"), Size::BIG);
    build(&dir.join("ten-times"), Size::TEN_TIMES);
}
