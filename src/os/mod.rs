//! What is written into the installed system; boot loader; kexec.
//!
//! [`configure`] is the whole step between "the image is unpacked" and "its kernel is started":
//!
//! 1. [`image`]: is everything in the image that the way of installing needs? A refusal names all that is missing,
//!    before anything is written.
//! 2. [`metal_files`]: `/etc/metal/install.yaml` and its neighbours, which tools in the image read.
//! 3. [`chroot_mounts`]: `/proc`, `/sys`, `/dev` … for the programs of the image, which [`chroot`] runs.
//! 4. [`installer`] when the image brings one, else [`native`].
//! 5. `/etc/fstab`, last, over whatever the image or its installer made of it.
//! 6. [`servers`]: does the installed system ask only name and time servers that somebody configured?
//!
//! [`kexec`] then starts the kernel. Nothing here knows how to partition or mount: that is `disk`.

pub mod boot_info;
pub mod chroot;
pub mod chroot_mounts;
pub mod console;
pub mod disk_json;
pub mod image;
pub mod install_yaml;
pub mod installer;
pub mod kernel_cmdline;
pub mod kernels;
pub mod kexec;
pub mod metal_files;
pub mod native;
pub mod servers;
mod systemd_conf;
pub mod tree;
pub mod user_data;
pub mod yaml;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::api::rest::{Allocation, Network, Nic};
pub use crate::sys::firmware::Firmware;

pub use boot_info::BootInfo;
pub use image::{ImageFacts, Unfit};

use chroot::Chroot;
use chroot_mounts::ChrootMounts;
use image::Way;
use servers::Servers;
use tree::Tree;

/// A file system the disk step made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeFilesystem {
    pub label: String,
    /// `ext4`, `vfat` …
    pub format: String,
    /// As blkid prints it.
    pub uuid: String,
}

/// All that goes into the installed system. Holds secrets (password, VPN key, user data), hence no `Debug`.
#[derive(Clone)]
pub struct Input {
    pub allocation: Allocation,
    pub machine_uuid: String,
    /// Of the REST machine, with what LLDP found.
    pub nics: Vec<Nic>,
    /// The last `console=` of the agent's kernel command line.
    pub console: Option<String>,
    /// Of the user `metal`, plain text.
    pub console_password: String,
    /// When the installation took place.
    pub timestamp: OffsetDateTime,
    pub firmware: Firmware,
    /// UUID of the file system mounted at `/`.
    pub root_uuid: String,
    /// UUID of the md array below the root, `mdadm --detail --export`'s `MD_UUID`; `None` when it is not on one.
    pub md_uuid: Option<String>,
    /// Whole disks that the firmware may boot from, e.g. `/dev/nvme0n1`: where a BIOS boot loader goes. Several when the
    /// root is on an array.
    pub boot_disks: Vec<String>,
    /// Disk and number of each partition below an EFI system partition that is an array; else empty.
    pub esp_members: Vec<(String, u32)>,
    /// Arrays that were made, and their ids as mdadm prints them. Empty when one was kept and is not known.
    pub arrays: Vec<(String, String)>,
    /// Whether an EFI system partition is mounted at `/boot/efi`.
    pub esp_mounted: bool,
    pub filesystems: Vec<MadeFilesystem>,
    /// The complete `/etc/fstab`.
    pub fstab: String,
    /// Content of the agent's `/etc/lvm/lvmlocal.conf`, if it has one.
    pub lvmlocal_conf: Option<String>,
    /// Name servers the agent itself uses, for an allocation that names none.
    pub resolvers: Vec<IpAddr>,
    /// Time servers of MetalConfig, for an allocation that names none.
    pub ntp_servers: Vec<String>,
    /// MAC of the NIC that the image came in through.
    pub installed_over: Option<String>,
    /// How long one program of the image may run.
    pub program_limit: Duration,
}

impl Input {
    /// Making an initrd took nine minutes in a machine that was emulated on a busy host; on a server it takes seconds.
    pub const PROGRAM_LIMIT: Duration = Duration::from_secs(1200);

    /// The layout has at least one RAID.
    pub fn raid_enabled(&self) -> bool {
        self.allocation.filesystemlayout.as_ref().is_some_and(|layout| !layout.raid.is_empty())
    }

    /// The installed system mounts a logical volume.
    pub fn lvm_needed(&self) -> bool {
        self.allocation.filesystemlayout.as_ref().is_some_and(|layout| {
            let volumes = layout.logicalvolumes.iter().map(|lv| format!("/dev/{}/{}", lv.volumegroup, lv.name));
            let used = |device: String| layout.filesystems.iter().any(|fs| fs.device == device && fs.path.is_some());
            volumes.into_iter().any(used)
        })
    }

    /// The network the machine is known by: the first unshared private one, else the first shared one of its project.
    pub fn private_primary(&self) -> Option<&Network> {
        ["privateprimaryunshared", "privateprimaryshared"]
            .iter()
            .find_map(|kind| self.allocation.networks.iter().find(|network| network.networktype == *kind))
    }
}

/// Makes the image unpacked at `root` the allocated machine's system.
///
/// Blocks for as long as the image's programs run (boot loader: seconds; under emulation a minute).
pub fn configure(root: &Path, input: &Input) -> Result<BootInfo> {
    let tree = Tree::open(root)?;
    let way = image::plan_way(&tree, input)?;
    metal_files::write(&tree, input)?;

    let mounts = ChrootMounts::mount(&tree, input.firmware)?;
    let chroot = Chroot { root: tree.path(), limit: input.program_limit };
    let configured = match &way {
        Way::Installer(installer) => installer::run(&tree, &chroot, *installer),
        Way::Native(facts) => native::configure(&tree, &chroot, input, facts),
    };
    // The first error tells more than what follows from it.
    let unmounted = mounts.unmount();
    let boot_info = configured?;
    unmounted?;

    tree.write("/etc/fstab", &input.fstab, 0o644)?;
    check_servers(&tree, input, &way)?;
    info!(kernel = boot_info.kernel, initrd = boot_info.initrd, "installed system is configured");
    Ok(boot_info)
}

/// What we wrote ourselves must name configured servers only; what the image's own installer wrote is its maker's
/// decision, and what user data wrote its author's: about these the operator is told.
fn check_servers(tree: &Tree, input: &Input, way: &Way) -> Result<()> {
    let strangers = servers::read_strangers(tree, &Servers::of(input))?;
    let Some(found) = strangers.iter().map(ToString::to_string).reduce(|all, one| format!("{all}; {one}")) else {
        return Ok(());
    };
    match way {
        Way::Installer(_) => {
            warn!(found, "the image's installer configured servers that nobody named");
            Ok(())
        }
        Way::Native(_) if !input.allocation.user_data.is_empty() => {
            warn!(found, "the user data may have configured servers that nobody named");
            Ok(())
        }
        Way::Native(_) => Err(anyhow::anyhow!(found)).context("checking the servers the installed system will ask"),
    }
}
