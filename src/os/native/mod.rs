//! Configuring Debian and Ubuntu without an installer in the image: upstream's tasks, one file each.

mod authorized_keys;
pub mod boot_loader;
mod hostname;
mod hosts;
mod machine_id;
mod metal_user;
pub mod network;
mod raid;
mod run_user_data;
mod services;
mod shadow;
mod ssh_host_keys;

use std::time::Instant;

use anyhow::{Context, Result};
use tracing::info;

use super::chroot::Chroot;
use super::image::ImageFacts;
use super::servers::{self, Servers};
use super::tree::Tree;
use super::{BootInfo, Input, kernel_cmdline};

/// What every task gets.
struct Cx<'a> {
    tree: &'a Tree,
    chroot: &'a Chroot<'a>,
    input: &'a Input,
    facts: &'a ImageFacts,
    servers: Servers,
    boot_info: BootInfo,
}

type Task = fn(&Cx) -> Result<()>;

/// In their order: user data may touch anything, so that what a machine needs to be reached comes after it; the boot
/// loader is last, so that a system that is only half configured has none.
const TASKS: [(&str, Task); 12] = [
    ("host name", hostname::apply),
    ("hosts", hosts::apply),
    ("name and time servers", |cx| servers::apply(cx.tree, &cx.servers)),
    ("user metal", metal_user::apply),
    ("network", network::apply),
    ("authorized keys", authorized_keys::apply),
    ("user data", run_user_data::apply),
    ("services", services::apply),
    ("SSH host keys", ssh_host_keys::apply),
    ("machine id", machine_id::apply),
    ("RAID", raid::apply),
    ("boot loader", boot_loader::apply),
];

/// Runs all tasks inside the image, whose mounts for programs must be there.
pub fn configure(tree: &Tree, chroot: &Chroot, input: &Input, facts: &ImageFacts) -> Result<BootInfo> {
    let boot_info = BootInfo {
        initrd: facts.kernel.initrd_path(),
        cmdline: kernel_cmdline::render(input),
        kernel: facts.kernel.path(),
        bootloader_id: format!("metal-{}", facts.os_id),
    };
    let cx = Cx { tree, chroot, input, facts, servers: Servers::of(input), boot_info };
    // Left behind by images that were made from containers.
    tree.remove("/.dockerenv")?;
    for (name, apply) in TASKS {
        let started = Instant::now();
        apply(&cx).with_context(|| format!("configuring {name}"))?;
        info!("configured {name} in {:.1} s", started.elapsed().as_secs_f32());
    }
    cx.boot_info.write(tree)?;
    Ok(cx.boot_info)
}
