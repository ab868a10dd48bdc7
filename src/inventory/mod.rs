//! What is in the machine: one file per source of facts.
//!
//! Each reader takes the roots of `/proc`, `/sys` and `/dev`, reads the kernel's own files and gives a [`Reading`]:
//! what it found, and a sentence for each source that was missing. Nothing here fails: a fact that is not known is
//! absent. What the control plane is told of all this is decided in [`wire`].
//!
//! As JSON an [`Inventory`] is a superset of the REST machine's `hardware` object.

pub mod attribute;
pub mod bmc;
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
pub mod readers;
pub mod smbios;
pub mod table;
pub mod tpm;
mod tpm2;
pub mod wire;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use self::readers::{Limits, found, start_reader as start};
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
    /// The machine's management controller; absent when there is none, or no driver for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bmc: Option<bmc::Bmc>,
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

/// Reads everything that the kernel tells about the machine under `roots`, all sources at the same time. Changes
/// nothing, never fails, and ends within its limits: a source that hangs is given up and named in the warnings.
pub fn read(roots: &Roots) -> Inventory {
    read_within(roots, &Limits::default())
}

/// [`read`] with other limits.
pub fn read_within(roots: &Roots, limits: &Limits) -> Inventory {
    // All are started before the first is waited for.
    let uuid = start("machine id", limits.files, roots, machine_id::read);
    let dmi = start("DMI", limits.files, roots, dmi::read);
    let firmware = start("firmware", limits.files, roots, firmware::read);
    let secure_boot = start("Secure Boot", limits.files, roots, firmware::read_secure_boot);
    let tpm = start("TPM", limits.files, roots, tpm::read);
    let memory = start("memory", limits.files, roots, memory::read);
    let memory_nodes = start("memory nodes", limits.files, roots, memory::read_nodes);
    let dimms = start("memory modules", limits.files, roots, dimm::read);
    let cpus = start("CPU", limits.files, roots, cpu::read);
    let devices = start("PCI", limits.files, roots, read_devices);
    let storage = start("disks", limits.disks, roots, disk::read);
    let nics = start("NICs", limits.files, roots, nic::read);
    let bmc = start("BMC", limits.bmc, roots, {
        // What it has said until then is kept only if the reader ends before it is given up.
        let limit = limits.bmc * 3 / 4;
        move |roots| bmc::read(roots, limit)
    });

    // Waited for in this order, so the warnings are in this order too, whoever is first.
    let mut warnings = Vec::new();
    let uuid = found(uuid, &mut warnings);
    let dmi = found(dmi, &mut warnings);
    let firmware = found(firmware, &mut warnings);
    let secure_boot = found(secure_boot, &mut warnings);
    let tpm = found(tpm, &mut warnings);
    let memory = found(memory, &mut warnings);
    let memory_nodes = found(memory_nodes, &mut warnings);
    let dimms = found(dimms, &mut warnings);
    let cpus = found(cpus, &mut warnings);
    let (pci, gpus) = found(devices, &mut warnings);
    let storage = found(storage, &mut warnings);
    let (disks, other_media) = storage.disks.into_iter().partition(|disk| disk.kind.is_storage());
    let nics = found(nics, &mut warnings);
    let bmc = found(bmc, &mut warnings);
    let mut inventory = Inventory {
        uuid,
        kind: dmi.kind,
        product: dmi.product,
        board: dmi.board,
        chassis: dmi.chassis,
        bios: dmi.bios,
        firmware,
        secure_boot,
        tpm,
        memory: memory.map(|memory| memory.amount),
        memory_source: memory.map(|memory| memory.source),
        memory_nodes,
        dimms,
        cpus,
        gpus: gpus.nvidia,
        other_gpus: gpus.others,
        disks,
        other_media,
        nvme_controllers: storage.nvme_controllers,
        nics,
        bmc,
        pci,
        warnings,
    };
    inventory.choose_gpus(&Cmdline::read(roots).unwrap_or_default());
    inventory
}

/// All PCI functions, and the GPUs among them.
fn read_devices(roots: &Roots) -> Reading<(Vec<pci::PciDevice>, gpu::Gpus)> {
    let Reading { found: pci, warnings } = pci::read(roots);
    let gpus = gpu::pick(roots, &pci);
    Reading { found: (pci, gpus), warnings }
}
