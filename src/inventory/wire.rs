//! What the control plane is told at registration: upstream's fields in upstream's words.
//!
//! The inventory leaves out what it does not know; the wire wants a text everywhere, so it is put in here.

use std::collections::BTreeMap;

use super::bmc::{Bmc, fru::Fru};
use super::disk::Disk;
use super::dmi::{Bios, MachineKind};
use super::nic::Nic;
use super::{Inventory, cpu::Cpu, gpu::Gpu};
use crate::api::grpc;
use crate::config::cmdline::Cmdline;

/// Where mini-lab's virtual BMCs listen: the virtual machines' host on Vagrant's default network.
pub const VIRTUAL_BMC_HOST: &str = "192.168.121.1";
/// Port of the virtual BMC of the machine whose MAC ends with 00; the last byte of the MAC is added.
const VIRTUAL_BMC_FIRST_PORT: u16 = 6230;

const LOOPBACK: &str = "lo";
const ZERO_MAC: &str = "00:00:00:00:00:00";

impl Inventory {
    /// Upstream registers NVIDIA's GPUs only, and sizes in the field count on it: a BMC's VGA or a processor's graphics
    /// would be in none of them. With `drophammer.gpus=all` the operator wants all. The lists change, and not only the
    /// wire, so that `drophammer inventory` shows what is registered.
    pub fn choose_gpus(&mut self, cmdline: &Cmdline) {
        if cmdline.all_gpus() {
            self.gpus.append(&mut self.other_gpus);
        }
    }

    /// The three parts of a `BootServiceRegisterRequest` that come from the hardware. `neighbours`: what LLDP heard,
    /// by the name of the link.
    pub fn to_register(
        &self,
        neighbours: &BTreeMap<String, Vec<grpc::MachineNic>>,
    ) -> (grpc::MachineHardware, grpc::MachineBios, grpc::MachineIpmi) {
        let hardware = grpc::MachineHardware {
            memory: self.memory.map_or(0, |memory| memory.0),
            disks: self.disks.iter().map(wire_disk).collect(),
            nics: wire_nics(&self.nics, neighbours),
            cpus: self.cpus.iter().map(wire_cpu).collect(),
            gpus: self.gpus.iter().map(wire_gpu).collect(),
        };
        (hardware, self.wire_bios(), self.wire_ipmi(VIRTUAL_BMC_HOST))
    }

    fn wire_bios(&self) -> grpc::MachineBios {
        match self.kind {
            // Not the DMI values, even where there are some.
            MachineKind::Virtual => grpc::MachineBios {
                version: "0".to_owned(),
                vendor: "vagrant".to_owned(),
                date: "01/01/2020".to_owned(),
            },
            MachineKind::Server => {
                let Bios { vendor, version, date } = self.bios.clone().unwrap_or_default();
                let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "UNKNOWN".to_owned());
                grpc::MachineBios { version: or_unknown(version), vendor: or_unknown(vendor), date: or_unknown(date) }
            }
        }
    }

    /// The BMC. A virtual machine has none of its own: it is given the virtual BMC that mini-lab runs for it on
    /// `virtual_bmc_host`. User and password of a server's are left empty here, as nobody has made them yet.
    pub fn wire_ipmi(&self, virtual_bmc_host: &str) -> grpc::MachineIpmi {
        match self.kind {
            MachineKind::Server => wire_bmc(&self.bmc.clone().unwrap_or_default()),
            MachineKind::Virtual => grpc::MachineIpmi {
                address: format!("{virtual_bmc_host}:{}", self.virtual_bmc_port()),
                mac: ZERO_MAC.to_owned(),
                user: "vagrant".to_owned(),
                password: "vagrant".to_owned(),
                interface: "lanplus".to_owned(),
                bmc_version: "unknown".to_owned(),
                ..grpc::MachineIpmi::default()
            },
        }
    }

    /// By the last byte of `eth0`'s MAC; where no link has that name, of the first real one.
    fn virtual_bmc_port(&self) -> u16 {
        let eth0 = self.nics.iter().find(|nic| nic.name == "eth0");
        let nic = eth0.or_else(|| self.nics.iter().find(|nic| nic.physical));
        let last_byte =
            nic.and_then(|nic| nic.mac.rsplit(':').next()).and_then(|byte| u8::from_str_radix(byte, 16).ok());
        VIRTUAL_BMC_FIRST_PORT + u16::from(last_byte.unwrap_or(0))
    }
}

/// What `ipmitool lan print`, `bmc info` and `fru` tell.
fn wire_bmc(bmc: &Bmc) -> grpc::MachineIpmi {
    const PORT: u16 = 623;
    let lan = bmc.lan.clone().unwrap_or_default();
    grpc::MachineIpmi {
        address: lan.address.map(|address| format!("{address}:{PORT}")).unwrap_or_default(),
        mac: lan.mac.unwrap_or_default(),
        interface: "lanplus".to_owned(),
        bmc_version: bmc.firmware.clone().unwrap_or_default(),
        fru: bmc.fru.clone().map(wire_fru),
        ..grpc::MachineIpmi::default()
    }
}

fn wire_fru(fru: Fru) -> grpc::MachineFru {
    grpc::MachineFru {
        chassis_part_number: fru.chassis_part_number,
        chassis_part_serial: fru.chassis_serial,
        board_mfg: fru.board_manufacturer,
        board_mfg_serial: fru.board_serial,
        board_part_number: fru.board_part_number,
        product_manufacturer: fru.product_manufacturer,
        product_part_number: fru.product_part_number,
        product_serial: fru.product_serial,
    }
}

/// Upstream drops `ram*` and empty loop devices only. [`Inventory::disks`] also has no CD and floppy drives, no zram and
/// no USB media of a BMC: a virtual CD or disk, plugged or not, would change the machine's size.
fn wire_disk(disk: &Disk) -> grpc::MachineBlockDevice {
    grpc::MachineBlockDevice { name: disk.name.clone(), size: disk.size.0 }
}

fn wire_cpu(cpu: &Cpu) -> grpc::MachineCpu {
    grpc::MachineCpu {
        vendor: cpu.vendor.clone().unwrap_or_default(),
        model: cpu.model.clone().unwrap_or_default(),
        cores: cpu.cores,
        threads: cpu.threads,
    }
}

fn wire_gpu(gpu: &Gpu) -> grpc::MachineGpu {
    grpc::MachineGpu { vendor: gpu.vendor.clone(), model: gpu.model.clone() }
}

/// All links, and `lo` at the end if it was not among them.
fn wire_nics(nics: &[Nic], neighbours: &BTreeMap<String, Vec<grpc::MachineNic>>) -> Vec<grpc::MachineNic> {
    let wire_nic = |nic: &Nic| grpc::MachineNic {
        mac: nic.mac.clone(),
        name: nic.name.clone(),
        neighbors: neighbours.get(&nic.name).cloned().unwrap_or_default(),
        ..grpc::MachineNic::default()
    };
    let mut wire: Vec<grpc::MachineNic> = nics.iter().map(wire_nic).collect();
    if !nics.iter().any(|nic| nic.name == LOOPBACK) {
        wire.push(grpc::MachineNic {
            mac: ZERO_MAC.to_owned(),
            name: LOOPBACK.to_owned(),
            ..grpc::MachineNic::default()
        });
    }
    wire
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::gpu;
    use super::super::pci::PciDevice;
    use super::*;
    use crate::inventory::bmc;
    use crate::sys::roots::Roots;

    fn nic(name: &str, mac: &str, physical: bool) -> Nic {
        Nic { name: name.to_owned(), mac: mac.to_owned(), physical, ..Nic::default() }
    }

    #[test]
    fn neighbours_go_to_their_link_and_lo_is_added_once() {
        let neighbour = grpc::MachineNic { mac: "Ethernet3".to_owned(), ..grpc::MachineNic::default() };
        let heard = BTreeMap::from([("eth1".to_owned(), vec![neighbour.clone()])]);
        let mut inventory = Inventory {
            nics: vec![nic("eth0", "52:54:00:00:00:01", true), nic("eth1", "52:54:00:00:00:02", true)],
            ..Inventory::default()
        };
        let names = |inventory: &Inventory| -> Vec<String> {
            inventory.to_register(&heard).0.nics.into_iter().map(|nic| nic.name).collect()
        };
        assert_eq!(names(&inventory), ["eth0", "eth1", "lo"]);
        assert_eq!(inventory.to_register(&heard).0.nics[1].neighbors, [neighbour]);
        inventory.nics.insert(0, nic("lo", ZERO_MAC, false));
        assert_eq!(names(&inventory), ["lo", "eth0", "eth1"]);
    }

    #[test]
    fn gpus_of_other_makers_are_registered_when_the_operator_wants_all() {
        let gpu = |vendor: &str| {
            let device = PciDevice { vendor: Some(vendor.to_owned()), ..PciDevice::default() };
            let device = PciDevice { class: 0x03_00_00, ..device };
            gpu::pick(&Roots::under(Path::new("/nonexistent")), &[device]).others
        };
        let registered = |cmdline: &str| -> Vec<String> {
            let mut inventory = Inventory { gpus: gpu("N"), other_gpus: gpu("A"), ..Inventory::default() };
            inventory.choose_gpus(&Cmdline::parse(cmdline));
            inventory.to_register(&BTreeMap::new()).0.gpus.into_iter().map(|gpu| gpu.vendor).collect()
        };
        assert_eq!(registered("quiet"), ["N"]);
        assert_eq!(registered("drophammer.gpus=nvidia"), ["N"]);
        assert_eq!(registered("drophammer.gpus=all"), ["N", "A"]);
    }

    #[test]
    fn a_virtual_machine_has_upstreams_fixed_bios_and_the_bmc_of_its_mac() {
        let bios = Bios { vendor: Some("SeaBIOS".to_owned()), ..Bios::default() };
        let nics = vec![nic("lo", ZERO_MAC, false), nic("eth0", "52:54:00:ab:cd:fe", true)];
        let virtual_machine = Inventory { bios: Some(bios), nics, ..Inventory::default() };
        let (_, bios, ipmi) = virtual_machine.to_register(&BTreeMap::new());
        assert_eq!((bios.version.as_str(), bios.vendor.as_str(), bios.date.as_str()), ("0", "vagrant", "01/01/2020"));
        assert_eq!(ipmi.address, "192.168.121.1:6484");
        assert_eq!((ipmi.mac.as_str(), ipmi.interface.as_str()), (ZERO_MAC, "lanplus"));
        assert_eq!((ipmi.user.as_str(), ipmi.bmc_version.as_str(), ipmi.fru), ("vagrant", "unknown", None));
    }

    #[test]
    fn a_server_without_a_bios_date_says_unknown_as_upstream_does() {
        let bios = Bios { vendor: Some("Acme".to_owned()), version: Some("2.1".to_owned()), date: None };
        let server = Inventory { kind: MachineKind::Server, bios: Some(bios), ..Inventory::default() };
        let (_, bios, ipmi) = server.to_register(&BTreeMap::new());
        assert_eq!((bios.version.as_str(), bios.vendor.as_str(), bios.date.as_str()), ("2.1", "Acme", "UNKNOWN"));
        assert_eq!(ipmi.address, "");
    }

    #[test]
    fn a_servers_bmc_is_told_in_the_words_of_ipmitool() {
        let lan = bmc::Lan {
            channel: 1,
            address: Some([10, 1, 2, 3].into()),
            mac: Some("ac:1f:6b:01:02:03".to_owned()),
            ..bmc::Lan::default()
        };
        let fru = Fru { board_manufacturer: Some("Acme".to_owned()), ..Fru::default() };
        let bmc = Bmc { firmware: Some("1.74".to_owned()), lan: Some(lan), fru: Some(fru), ..Bmc::default() };
        let server = Inventory { kind: MachineKind::Server, bmc: Some(bmc), ..Inventory::default() };
        let (_, _, ipmi) = server.to_register(&BTreeMap::new());
        let fru = grpc::MachineFru { board_mfg: Some("Acme".to_owned()), ..grpc::MachineFru::default() };
        let expected = grpc::MachineIpmi {
            address: "10.1.2.3:623".to_owned(),
            mac: "ac:1f:6b:01:02:03".to_owned(),
            interface: "lanplus".to_owned(),
            bmc_version: "1.74".to_owned(),
            fru: Some(fru),
            ..grpc::MachineIpmi::default()
        };
        assert_eq!(ipmi, expected);
    }
}
