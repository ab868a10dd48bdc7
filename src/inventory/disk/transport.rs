//! How a disk is attached.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

/// How the disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    Nvme,
    /// A disk that speaks ATA, also one behind a SAS controller.
    Sata,
    Sas,
    /// SCSI of which no more is known: RAID controllers, virtio-scsi.
    Scsi,
    FibreChannel,
    Iscsi,
    Virtio,
    Usb,
    Mmc,
}

/// By the device's ancestors, the innermost bus first: a disk in a USB box is a USB disk.
pub(super) fn transport(name: &str, device_path: &Path, scsi_vendor: Option<&str>) -> Option<Transport> {
    if name.starts_with("nvme") {
        return Some(Transport::Nvme);
    }
    if name.starts_with("mmcblk") {
        return Some(Transport::Mmc);
    }
    let parts: Vec<&str> = device_path.iter().filter_map(|part| part.to_str()).collect();
    let has = |prefix: &str| parts.iter().any(|part| is_numbered_part(part, prefix));
    if has("usb") {
        Some(Transport::Usb)
    } else if has("session") {
        Some(Transport::Iscsi)
    } else if has("rport-") {
        Some(Transport::FibreChannel)
    } else if has("ata") || scsi_vendor == Some("ATA") {
        Some(Transport::Sata)
    } else if has("end_device-") {
        Some(Transport::Sas)
    } else if has("host") {
        Some(Transport::Scsi)
    } else if has("virtio") {
        Some(Transport::Virtio)
    } else {
        None
    }
}

/// `usb1`, `ata5`, `host0`, `end_device-0:0:1`: the name of a bus and a number.
fn is_numbered_part(part: &str, prefix: &str) -> bool {
    part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_in_the_device_tree_tells_the_transport() {
        let cases = [
            (
                "sda",
                "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
                "ATA",
                Some(Transport::Sata),
            ),
            (
                "sdb",
                "/sys/devices/pci0000:00/0000:00:01.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sdb",
                "SEAGATE",
                Some(Transport::Sas),
            ),
            (
                "sdc",
                "/sys/devices/pci0000:00/0000:00:01.0/host0/port-0:1/end_device-0:1/target0:0:1/0:0:1:0/block/sdc",
                "ATA",
                Some(Transport::Sata),
            ),
            (
                "sdd",
                "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host9/target9:0:0/9:0:0:0/block/sdd",
                "AMI",
                Some(Transport::Usb),
            ),
            (
                "sde",
                "/sys/devices/pci0000:00/0000:00:05.0/virtio1/host2/target2:0:0/2:0:0:0/block/sde",
                "QEMU",
                Some(Transport::Scsi),
            ),
            (
                "sdf",
                "/sys/devices/pci0000:00/0000:00:07.0/host3/rport-3:0-0/target3:0:0/3:0:0:0/block/sdf",
                "NETAPP",
                Some(Transport::FibreChannel),
            ),
            (
                "sdg",
                "/sys/devices/platform/host5/session1/target5:0:0/5:0:0:0/block/sdg",
                "LIO-ORG",
                Some(Transport::Iscsi),
            ),
            ("vda", "/sys/devices/pci0000:00/0000:00:04.0/virtio0/block/vda", "0x1af4", Some(Transport::Virtio)),
            ("nvme0n1", "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "", Some(Transport::Nvme)),
            ("dm-0", "/sys/devices/virtual/block/dm-0", "", None),
        ];
        for (name, path, vendor, expected) in cases {
            assert_eq!(transport(name, Path::new(path), Some(vendor)), expected, "{name}");
        }
    }
}
