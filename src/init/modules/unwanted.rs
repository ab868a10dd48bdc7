//! What hardware may not pull in, and what the agent wants whatever the hardware.

/// A module, or a folder of modules, that is not loaded because a device asks for it. As a dependency, or by name,
/// each may still be loaded.
pub struct Unwanted {
    /// A prefix of the module's path below the kernel's folder, or its name.
    pub what: What,
    pub reason: &'static str,
}

pub enum What {
    Folder(&'static str),
    Module(&'static str),
}

use What::{Folder, Module};

pub const UNWANTED: &[Unwanted] = &[
    Unwanted { what: Folder("kernel/drivers/gpu/"), reason: "takes the console over, and resets GPUs for nothing" },
    Unwanted { what: Folder("kernel/drivers/video/"), reason: "takes the console over" },
    Unwanted { what: Folder("kernel/drivers/accel/"), reason: "accelerators are only counted" },
    Unwanted { what: Folder("kernel/sound/"), reason: "nobody listens" },
    Unwanted { what: Folder("kernel/drivers/media/"), reason: "nobody watches" },
    Unwanted { what: Folder("kernel/drivers/net/wireless/"), reason: "machines are provisioned by cable" },
    Unwanted { what: Folder("kernel/drivers/bluetooth/"), reason: "machines are provisioned by cable" },
    Unwanted { what: Folder("kernel/drivers/infiniband/"), reason: "the agent speaks IP over Ethernet" },
    Unwanted { what: Folder("kernel/drivers/staging/"), reason: "not finished" },
    Unwanted { what: Folder("kernel/arch/x86/kvm/"), reason: "the agent runs no virtual machines" },
    Unwanted { what: Folder("kernel/drivers/edac/"), reason: "memory errors are the installed system's to count" },
    Unwanted { what: Folder("kernel/drivers/firewire/"), reason: "gives the bus access to memory" },
    Unwanted { what: Module("pcspkr"), reason: "beeps" },
    Unwanted { what: Module("floppy"), reason: "waits seconds for drives that are not there" },
    Unwanted { what: Module("sr_mod"), reason: "CDs of a BMC are no disks" },
    Unwanted { what: Module("raid6_pq"), reason: "measures itself for seconds" },
    Unwanted { what: Module("xor"), reason: "measures itself for seconds" },
];

/// The reason against a module, by its name and its path in `modules.dep`.
pub fn reason_against(name: &str, path: &str) -> Option<&'static str> {
    let applies = |what: &What| match what {
        Folder(folder) => path.starts_with(folder),
        Module(module) => name == *module,
    };
    UNWANTED.iter().find(|unwanted| applies(&unwanted.what)).map(|unwanted| unwanted.reason)
}

/// Wanted on every machine by the agent's own work; no device asks for them. Those that the kernel has built in, or
/// that are not there, are passed over.
///
/// There is no modprobe that the kernel could call for what it misses later. What only some layouts want (xfs, RAID,
/// LVM) is loaded by [`super::load::load_named`] when they do.
pub const WANTED: &[&str] = &[
    // Usual file systems, and the character sets and checksums that they ask for by name while mounting.
    "ext4",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "crc32c_generic",
    "crct10dif_generic",
    // EFI variables: boot entries.
    "efivarfs",
    // SCSI and SATA disks, of which only the controller's driver is asked for by hardware.
    "sd_mod",
    // LLDP and DHCP speak raw Ethernet.
    "af_packet",
    // Tagged links.
    "8021q",
    // /dev/ipmi0, once a driver has found a BMC.
    "ipmi_devintf",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_gpus_are_refused_and_those_of_disks_are_not() {
        assert!(reason_against("nouveau", "kernel/drivers/gpu/drm/nouveau/nouveau.ko").is_some());
        assert!(reason_against("pcspkr", "kernel/drivers/input/misc/pcspkr.ko.xz").is_some());
        assert_eq!(reason_against("nvme", "kernel/drivers/nvme/host/nvme.ko"), None);
        assert_eq!(reason_against("i6300esb", "kernel/drivers/watchdog/i6300esb.ko"), None);
    }
}
