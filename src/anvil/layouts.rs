//! File system layouts on the server: which collide, which is chosen, and whether it fits a machine. What makes one
//! valid by itself is in [`crate::api::layout::validate`].

use super::refusal::Refusal;
use super::version::{ImageId, VersionConstraint};
use crate::api::layout::{FilesystemLayout, is_selector};
use crate::api::rest::Disk;

const MIB: u64 = 1 << 20;

/// Why a new layout would make the choice ambiguous: for one size and operating system both would be chosen.
pub fn collision(new: &FilesystemLayout, others: &[FilesystemLayout]) -> Option<String> {
    for other in others.iter().filter(|other| other.id != new.id) {
        let common_sizes: Vec<&String> =
            new.constraints.sizes.iter().filter(|size| other.constraints.sizes.contains(size)).collect();
        let Some(size) = common_sizes.first() else { continue };
        for (os, ours) in &new.constraints.images {
            if let Some(theirs) = other.constraints.images.get(os)
                && constraints_collide(ours, theirs)
            {
                return Some(format!(
                    "layout {:?} ({os} {ours}) and layout {:?} ({os} {theirs}) would both fit size {size:?}",
                    new.id, other.id
                ));
            }
        }
    }
    None
}

fn constraints_collide(one: &str, other: &str) -> bool {
    if one == "*" || other == "*" || one == other {
        return true;
    }
    let (Ok(one), Ok(other)) = (VersionConstraint::parse(one), VersionConstraint::parse(other)) else { return false };
    match (one.version(), other.version()) {
        (Some(one_version), Some(other_version)) => one.accepts(other_version) && other.accepts(one_version),
        (None, _) | (_, None) => true,
    }
}

/// The first layout, by id, made for this size and image.
pub fn choose<'l>(layouts: &'l [FilesystemLayout], size: &str, image: &ImageId<'_>) -> Option<&'l FilesystemLayout> {
    let mut fitting: Vec<&FilesystemLayout> = layouts
        .iter()
        .filter(|layout| layout.constraints.sizes.iter().any(|s| s == size))
        .filter(|layout| {
            layout.constraints.images.get(image.os).is_some_and(|constraint| {
                VersionConstraint::parse(constraint).is_ok_and(|constraint| constraint.accepts(&image.version))
            })
        })
        .collect();
    fitting.sort_by(|a, b| a.id.cmp(&b.id));
    fitting.first().copied()
}

/// Whether every disk of the layout is there and large enough. Names every fault.
pub fn check_fit(layout: &FilesystemLayout, disks: &[Disk]) -> Result<(), Refusal> {
    let mut faults = Vec::new();
    // What a selector stands for the agent's plan finds out: serial numbers and buses are not registered.
    for wanted in layout.disks.iter().filter(|disk| !is_selector(&disk.device)) {
        let found = disks.iter().find(|disk| with_dev(&disk.name) == with_dev(&wanted.device));
        let needed_mib = wanted.partitions.iter().fold(0_u64, |sum, partition| sum.saturating_add(partition.size));
        match found {
            None => {
                let names: Vec<String> = disks.iter().map(|disk| with_dev(&disk.name)).collect();
                let have = if names.is_empty() { "no disks".to_owned() } else { names.join(", ") };
                faults.push(format!("disk {} is not there, the machine has {have}", wanted.device));
            }
            Some(disk) if disk.size / MIB < needed_mib => faults.push(format!(
                "disk {} has {} MiB, its partitions need {needed_mib} MiB",
                wanted.device,
                disk.size / MIB
            )),
            Some(_) => {}
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Refusal::Unprocessable(format!("filesystemlayout {:?} does not fit: {}", layout.id, faults.join("; "))))
}

fn with_dev(name: &str) -> String {
    if name.starts_with("/dev/") { name.to_owned() } else { format!("/dev/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::layout::{Constraints, Disk as LayoutDisk, Partition};

    fn layout(id: &str, sizes: &[&str], images: &[(&str, &str)]) -> FilesystemLayout {
        FilesystemLayout {
            id: id.to_owned(),
            constraints: Constraints {
                sizes: sizes.iter().map(ToString::to_string).collect(),
                images: images.iter().map(|(os, version)| (os.to_string(), version.to_string())).collect(),
            },
            ..FilesystemLayout::default()
        }
    }

    fn with_disk(device: &str, sizes_mib: &[u64]) -> FilesystemLayout {
        let partitions = sizes_mib.iter().map(|size| Partition { size: *size, ..Partition::default() }).collect();
        FilesystemLayout {
            id: "l".into(),
            disks: vec![LayoutDisk { device: device.into(), partitions, wipeonreinstall: true }],
            ..FilesystemLayout::default()
        }
    }

    #[test]
    fn a_disk_that_is_selected_is_left_to_the_agent() {
        let disks = [Disk { name: "/dev/sda".into(), size: 1 << 30 }];
        assert!(check_fit(&with_disk("/dev/sdb", &[100]), &disks).is_err());
        assert!(check_fit(&with_disk("serial:S1", &[100]), &disks).is_ok());
        assert!(check_fit(&with_disk("smallest nvme", &[100]), &disks).is_ok());
    }

    #[test]
    fn chooses_the_first_by_id_for_size_os_and_version() {
        let layouts = [
            layout("z", &["s1"], &[("debian", "*")]),
            layout("b", &["s1"], &[("debian", ">= 12.0.20260101")]),
            layout("a", &["s2"], &[("debian", "*")]),
            layout("dev", &[], &[]),
        ];
        let chosen = |size: &str, image: &str| {
            choose(&layouts, size, &ImageId::parse(image).unwrap()).map(|layout| layout.id.as_str())
        };
        assert_eq!(chosen("s1", "debian-12.0.20260701"), Some("b"));
        assert_eq!(chosen("s1", "debian-12.0.20250701"), Some("z"));
        assert_eq!(chosen("s2", "debian-12.0.20250701"), Some("a"));
        assert_eq!(chosen("s1", "ubuntu-24.04.20260701"), None);
        assert_eq!(chosen("s3", "debian-12.0.20260701"), None);
    }

    #[test]
    fn names_every_disk_that_does_not_fit() {
        let mut wanted = with_disk("/dev/sda", &[500, 600, 0]);
        wanted.disks.push(LayoutDisk { device: "/dev/sdb".into(), ..LayoutDisk::default() });
        let disks = [Disk { name: "sda".into(), size: 1099 * MIB + 5 }];
        let text = check_fit(&wanted, &disks).unwrap_err().to_string();
        assert!(text.contains("disk /dev/sda has 1099 MiB, its partitions need 1100 MiB"), "{text}");
        assert!(text.contains("disk /dev/sdb is not there, the machine has /dev/sda"), "{text}");
        assert!(check_fit(&with_disk("/dev/sda", &[500, 599, 0]), &disks).is_ok());
    }

    #[test]
    fn collisions_need_a_common_size_and_os() {
        let new = layout("new", &["s1", "s2"], &[("debian", ">= 12.0")]);
        let others = |images: &[(&str, &str)]| [layout("old", &["s2"], images)];
        assert!(collision(&new, &others(&[("debian", "*")])).unwrap().contains("size \"s2\""));
        assert!(collision(&new, &others(&[("debian", "<= 13.0")])).is_some());
        assert_eq!(collision(&new, &others(&[("debian", "< 12.0")])), None);
        assert_eq!(collision(&new, &others(&[("ubuntu", "*")])), None);
        assert_eq!(collision(&new, &[layout("old", &["s3"], &[("debian", "*")])]), None);
    }
}
