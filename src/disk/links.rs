//! By what lasting names udev of an installed system would link a disk. The agent has no udev, so they are made here.

use std::fs;
use std::path::Path;

use crate::inventory::attribute::pci_address;
use crate::inventory::disk::Disk;
use crate::sys::roots::Roots;

/// Full paths below `/dev/disk`.
pub(super) fn read_links(roots: &Roots, disk: &Disk) -> Vec<String> {
    let name = disk.kernel_name();
    let mut links = disk.stable_paths.clone();
    let device = fs::canonicalize(roots.sys.join("block").join(&name).join("device")).unwrap_or_default();
    links.extend(path_link(&device.to_string_lossy(), &name));
    // Where a udev is at work, its word counts too.
    links.extend(udev_links(roots, &name));
    links.sort();
    links.dedup();
    links
}

fn udev_links(roots: &Roots, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["disk/by-id", "disk/by-path"] {
        for entry in fs::read_dir(roots.dev.join(folder)).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target.file_name().is_some_and(|node| node.to_string_lossy() == name.replace('!', "/")) {
                found.push(format!("/dev/{folder}/{}", entry.file_name().to_string_lossy()));
            }
        }
    }
    found
}

/// udev's `path_id` for the disks that sit in a server: NVMe, SATA, virtio behind PCI. `device` is the resolved
/// `/sys/block/<name>/device`.
fn path_link(device: &str, name: &str) -> Option<String> {
    let parts: Vec<&str> = device.split('/').collect();
    let pci = pci_address(Path::new(device))?;
    let rest = if let Some(namespace) = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n')) {
        format!("-nvme-{}", namespace.1)
    } else if let Some(port) = parts.iter().find_map(|part| part.strip_prefix("ata")) {
        format!("-ata-{port}")
    } else if parts.iter().any(|part| part.starts_with("virtio")) && name.starts_with("vd") {
        String::new()
    } else {
        return None;
    };
    Some(format!("/dev/disk/by-path/pci-{pci}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_udevs() {
        let link = |device: &str, name: &str| path_link(device, name).unwrap_or_default();
        assert_eq!(
            link("/sys/devices/pci0000:00/0000:00:1d.0/0000:3b:00.0/nvme/nvme0", "nvme0n1"),
            "/dev/disk/by-path/pci-0000:3b:00.0-nvme-1"
        );
        assert_eq!(link("/sys/devices/pci0000:00/0000:00:04.0/virtio1", "vda"), "/dev/disk/by-path/pci-0000:00:04.0");
        assert_eq!(path_link("/sys/devices/virtual/block/loop0", "loop0"), None);
    }
}
