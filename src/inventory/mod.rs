//! What is in the machine: one file per source of facts.
//!
//! Each reader takes the roots of `/proc`, `/sys` and `/dev`, reads the kernel's own files and gives a [`Reading`]:
//! what it found, and a sentence for each source that was missing. Nothing here fails: a fact that is not known is
//! absent. What the control plane is told of all this is decided in [`wire`].
//!
//! As JSON an [`Inventory`] is a superset of the REST machine's `hardware` object.

pub mod attribute;
pub mod command;
pub mod cpu;
mod cpu_facts;
mod cpu_list;
mod cpuinfo;
pub mod dimm;
pub mod disk;
pub mod dmi;
pub mod firmware;
pub mod gpu;
pub mod machine_id;
pub mod memory;
pub mod nic;
pub mod pci;
pub mod pci_names;
pub mod placeholder;
pub mod smbios;
pub mod table;
pub mod tpm;
mod tpm2;
pub mod wire;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::config::cmdline::Cmdline;
use crate::sys::firmware::Firmware;
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

/// One machine's hardware.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Inventory {
    /// The machine's id, see [`machine_id::read_machine_id`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// A server with a board of its own, or what metal-stack takes for a virtual machine.
    pub kind: dmi::MachineKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<dmi::Product>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<dmi::Board>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis: Option<dmi::Chassis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bios: Option<dmi::Bios>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Absent on a machine that was not started by UEFI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<firmware::SecureBoot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<tpm::Tpm>,
    /// Installed memory where the kernel tells it, else what the kernel has: `memory_source` says which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_source: Option<memory::MemorySource>,
    /// The NUMA nodes that have memory, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub memory_nodes: Vec<memory::MemoryNode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimms: Option<dimm::Dimms>,
    /// One entry a socket, in socket order.
    pub cpus: Vec<cpu::Cpu>,
    /// NVIDIA's display devices, in order of their PCI address; with `drophammer.gpus=all` on the kernel command line
    /// those of `other_gpus` follow.
    pub gpus: Vec<gpu::Gpu>,
    /// Display devices of other makers, a BMC's VGA among them, and processing accelerators of any: not registered.
    pub other_gpus: Vec<gpu::Gpu>,
    /// Everything that counts as storage of this machine, in order of the names (`sdb` before `sdaa`).
    pub disks: Vec<disk::Disk>,
    /// CD and floppy drives, media of the BMC, loop devices with something behind them, RAM disks, zram: never storage of
    /// the machine.
    pub other_media: Vec<disk::Disk>,
    /// Also those without a disk.
    pub nvme_controllers: Vec<disk::NvmeController>,
    /// All links with a hardware address, in the kernel's order.
    pub nics: Vec<nic::Nic>,
    /// All PCI functions, for the record.
    pub pci: Vec<pci::PciDevice>,
    /// What could not be found, and what was taken instead.
    pub warnings: Vec<String>,
}

/// What one reader found, and what it missed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading<T> {
    pub found: T,
    pub warnings: Vec<String>,
}

impl<T> Reading<T> {
    /// The value, with the warnings moved to the end of `warnings`.
    fn into_found(self, warnings: &mut Vec<String>) -> T {
        warnings.extend(self.warnings);
        self.found
    }
}

/// Reads everything that the kernel tells about the machine under `roots`. Changes nothing, and never fails.
pub fn read(roots: &Roots) -> Inventory {
    let mut warnings = Vec::new();
    let uuid = machine_id::read(roots).into_found(&mut warnings);
    let dmi = dmi::read(roots).into_found(&mut warnings);
    let memory = memory::read(roots).into_found(&mut warnings);
    let pci = pci::read(roots).into_found(&mut warnings);
    let gpus = gpu::pick(roots, &pci);
    // Last: disks may take their time, and all the rest is known by then.
    let storage = disk::read(roots).into_found(&mut warnings);
    let (disks, other_media) = storage.disks.into_iter().partition(|disk| disk.kind.is_storage());
    let mut inventory = Inventory {
        uuid,
        kind: dmi.kind,
        product: dmi.product,
        board: dmi.board,
        chassis: dmi.chassis,
        bios: dmi.bios,
        firmware: firmware::read(roots).into_found(&mut warnings),
        secure_boot: firmware::read_secure_boot(roots).into_found(&mut warnings),
        tpm: tpm::read(roots).into_found(&mut warnings),
        memory: memory.map(|memory| memory.amount),
        memory_source: memory.map(|memory| memory.source),
        memory_nodes: memory::read_nodes(roots).into_found(&mut warnings),
        dimms: dimm::read(roots).into_found(&mut warnings),
        cpus: cpu::read(roots).into_found(&mut warnings),
        gpus: gpus.nvidia,
        other_gpus: gpus.others,
        disks,
        other_media,
        nvme_controllers: storage.nvme_controllers,
        nics: nic::read(roots).into_found(&mut warnings),
        pci,
        warnings,
    };
    inventory.choose_gpus(&Cmdline::read(roots).unwrap_or_default());
    inventory
}
