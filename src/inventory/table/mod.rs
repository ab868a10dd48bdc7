//! The inventory as a person reads it at a console: at most 100 columns, one line a device.

mod columns;
mod disks;
mod machine;
mod nics;

use std::fmt;

use self::columns::{ABSENT, joined, text, write_columns, write_wrapped};
use super::Inventory;
use super::cpu::Cpu;
use super::dimm::Dimm;
use super::gpu::Gpu;
use super::pci::PcieLink;

/// For `{}`.
pub struct Table<'a>(pub &'a Inventory);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(inventory) = self;
        machine::write(f, inventory)?;
        let cpus = inventory.cpus.iter().map(cpu_row);
        write_columns(f, &["CPU", "MODEL", "CORES", "THREADS", "MHZ", "NODES", "FLAGS"], cpus.collect())?;
        let modules = inventory.dimms.iter().flat_map(|dimms| dimms.modules.iter().map(dimm_row));
        write_columns(f, &["MODULE", "SIZE", "TYPE", "SPEED", "VENDOR", "PART", "SERIAL"], modules.collect())?;
        let gpus = inventory.gpus.iter().map(gpu_row);
        write_columns(f, &["GPU", "VENDOR", "MODEL", "VRAM BAR", "PCIE", "NODE"], gpus.collect())?;
        // With drophammer.gpus=all they stand among the GPUs.
        let others = inventory.other_gpus.iter().filter(|gpu| !inventory.gpus.contains(gpu)).map(gpu_row);
        write_columns(f, &["OTHER GPU", "VENDOR", "MODEL", "VRAM BAR", "PCIE", "NODE"], others.collect())?;
        let disks = inventory.disks.iter().chain(&inventory.other_media).map(disks::row);
        write_columns(f, disks::HEADINGS, disks.collect())?;
        let nics = inventory.nics.iter().filter(|nic| nic.name != "lo").map(nics::row);
        write_columns(f, nics::HEADINGS, nics.collect())?;
        if !inventory.warnings.is_empty() {
            writeln!(f)?;
        }
        for warning in &inventory.warnings {
            write_wrapped(f, &format!("note: {warning}"))?;
        }
        Ok(())
    }
}

fn cpu_row(cpu: &Cpu) -> Vec<String> {
    let mhz = match (cpu.base_mhz, cpu.max_mhz) {
        (Some(base), Some(max)) if base != max => format!("{base}–{max}"),
        (base, max) => base.or(max).map_or_else(|| ABSENT.to_owned(), |mhz| mhz.to_string()),
    };
    let threads = match cpu.threads_present {
        Some(present) if present != cpu.threads => format!("{} of {present}", cpu.threads),
        _ => cpu.threads.to_string(),
    };
    let nodes: Vec<String> = cpu.numa_nodes.iter().map(u32::to_string).collect();
    vec![
        cpu.socket.map_or_else(|| ABSENT.to_owned(), |socket| socket.to_string()),
        text(cpu.model.as_deref()),
        cpu.cores.to_string(),
        threads,
        mhz,
        nodes.join(","),
        cpu.flags.join(" "),
    ]
}

fn dimm_row(dimm: &Dimm) -> Vec<String> {
    let speed = dimm.configured_mts.or(dimm.rated_mts).map(|speed| format!("{speed} MT/s"));
    vec![
        text(dimm.slot.as_deref()),
        dimm.size.map_or_else(|| ABSENT.to_owned(), machine::memory_size),
        text(dimm.kind),
        speed.unwrap_or_else(|| ABSENT.to_owned()),
        text(dimm.vendor.as_deref()),
        text(dimm.part_number.as_deref()),
        text(dimm.serial.as_deref()),
    ]
}

fn gpu_row(gpu: &Gpu) -> Vec<String> {
    let memory = gpu.memory_bars.iter().map(|bar| bar.size).max();
    let model = match &gpu.physical_function {
        Some(_) => format!("{} (VF)", gpu.model),
        None => gpu.model.clone(),
    };
    vec![
        gpu.pci_address.clone(),
        gpu.vendor.clone(),
        model,
        memory.map_or_else(|| ABSENT.to_owned(), machine::memory_size),
        gpu.link.map_or_else(|| ABSENT.to_owned(), pcie),
        gpu.numa_node.map_or_else(|| ABSENT.to_owned(), |node| node.to_string()),
    ]
}

/// `32 GT/s ×16`: what the device can, and what it has now where that is less.
fn pcie(link: PcieLink) -> String {
    let show = |speed: Option<u32>, lanes: Option<u32>| {
        let speed = speed.map(|mtps| format!("{}.{} GT/s", mtps / 1000, mtps % 1000 / 100).replace(".0 ", " "));
        joined([speed, lanes.map(|lanes| format!("×{lanes}"))], " ")
    };
    let (now, best) = (show(link.speed_mtps, link.lanes), show(link.max_speed_mtps, link.max_lanes));
    if now == best || now == ABSENT { best } else { format!("{now} (can {best})") }
}
