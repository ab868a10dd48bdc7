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
pub mod disk;
pub mod dmi;
pub mod firmware;
pub mod gpu;
pub mod memory;
pub mod nic;
pub mod pci;
pub mod readers;
pub mod table;
pub mod wire;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use self::readers::{Limits, found, start_reader as start};
use crate::sys::firmware::Firmware;
use crate::sys::roots::Roots;
use crate::sys::units::Bytes;

/// One machine's hardware.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Inventory {
    /// The machine's id, see [`dmi::machine_uuid`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// A server with a board of its own, or what metal-stack takes for a virtual machine.
    pub kind: dmi::MachineKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<dmi::Product>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<dmi::Board>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bios: Option<dmi::Bios>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Installed memory where the kernel tells it, else what the kernel has: `memory_source` says which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_source: Option<memory::MemorySource>,
    /// One entry a socket, in socket order.
    pub cpus: Vec<cpu::Cpu>,
    /// NVIDIA's display devices, in order of their PCI address.
    pub gpus: Vec<gpu::Gpu>,
    /// Everything that counts as storage of this machine, in order of the names (`sdb` before `sdaa`).
    pub disks: Vec<disk::Disk>,
    /// CD and floppy drives, loop devices with something behind them, RAM disks, zram: never storage of the machine.
    pub other_media: Vec<disk::Disk>,
    /// All links with a hardware address, in the kernel's order.
    pub nics: Vec<nic::Nic>,
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
    let dmi = start("DMI", limits.files, roots, dmi::read);
    let firmware = start("firmware", limits.files, roots, firmware::read);
    let memory = start("memory", limits.files, roots, memory::read);
    let cpus = start("CPU", limits.files, roots, cpu::read);
    let gpus = start("PCI", limits.files, roots, gpu::read);
    let disks = start("disks", limits.disks, roots, disk::read);
    let nics = start("NICs", limits.files, roots, nic::read);
    let bmc = start("BMC", limits.bmc, roots, {
        // What it has said until then is kept only if the reader ends before it is given up.
        let limit = limits.bmc * 3 / 4;
        move |roots| bmc::read(roots, limit)
    });

    // Waited for in this order, so the warnings are in this order too, whoever is first.
    let mut warnings = Vec::new();
    let dmi = found(dmi, &mut warnings);
    let firmware = found(firmware, &mut warnings);
    let memory = found(memory, &mut warnings);
    let cpus = found(cpus, &mut warnings);
    let gpus = found(gpus, &mut warnings);
    let (disks, other_media) = found(disks, &mut warnings).into_iter().partition(|disk| disk.kind.is_storage());
    let nics = found(nics, &mut warnings);
    let bmc = found(bmc, &mut warnings);
    Inventory {
        uuid: dmi.uuid,
        kind: dmi.kind,
        product: dmi.product,
        board: dmi.board,
        bios: dmi.bios,
        firmware,
        memory: memory.map(|memory| memory.amount),
        memory_source: memory.map(|memory| memory.source),
        cpus,
        gpus,
        disks,
        other_media,
        nics,
        bmc,
        warnings,
    }
}
