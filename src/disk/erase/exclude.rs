//! Disks that are never erased, by the operator's word (`drophammer.erase_exclude=`). Pure.

use anyhow::{Result, bail};

use crate::disk::device::DiskFacts;
use crate::disk::selector::named;

/// Why a disk was skipped, in its record and in a plan's fault.
pub const REASON: &str = "excluded by configuration";

/// What the names mean on one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excluded {
    /// Device paths.
    pub devices: Vec<String>,
    /// Names that no disk has. Of a list that is for many machines, those may be of the others.
    pub unknown: Vec<String>,
}

impl Excluded {
    /// # Errors
    ///
    /// A name that can't be understood: somebody wanted a disk left alone, and which one can't be told.
    pub fn find(names: &[String], disks: &[DiskFacts]) -> Result<Self> {
        let mut excluded = Self::default();
        let mut faults = Vec::new();
        for name in names {
            match named(name, disks) {
                Ok(found) if found.is_empty() => excluded.unknown.push(name.clone()),
                Ok(found) => excluded.add(&found, disks),
                Err(why) => faults.push(format!("{name:?}: {why}")),
            }
        }
        if !faults.is_empty() {
            bail!("drophammer.erase_exclude can't be understood, and nothing was erased: {}", faults.join("; "));
        }
        Ok(excluded)
    }

    /// The disks, and those that are the same disk by another path.
    fn add(&mut self, found: &[&DiskFacts], disks: &[DiskFacts]) {
        let same = |disk: &DiskFacts| {
            found.iter().any(|other| other.device == disk.device || (other.wwn.is_some() && other.wwn == disk.wwn))
        };
        for disk in disks.iter().filter(|disk| same(disk)) {
            if !self.contains(&disk.device) {
                self.devices.push(disk.device.clone());
            }
        }
    }

    pub fn contains(&self, device: &str) -> bool {
        self.devices.iter().any(|excluded| excluded == device)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::super::{EraseOptions, erase_all};
    use super::*;
    use crate::disk::device::{DiskKind, PartitionFacts};
    use crate::sys::units::Bytes;

    fn disk(name: &str, serial: &str, wwn: &str) -> DiskFacts {
        DiskFacts {
            serial: Some(serial.to_owned()),
            wwn: (!wwn.is_empty()).then(|| wwn.to_owned()),
            links: vec![format!("/dev/disk/by-id/ata-{serial}")],
            partitions: vec![PartitionFacts {
                number: 1,
                name: format!("{name}1"),
                start: Bytes(0),
                size: Bytes(1),
                signature: None,
            }],
            ..facts(name, DiskKind::Fixed)
        }
    }

    fn find(names: &[&str]) -> Result<Excluded> {
        let disks = [disk("sda", "S1", "naa.5000"), disk("sdb", "S 2", ""), disk("sdc", "S3", "naa.5000")];
        Excluded::find(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &disks)
    }

    #[test]
    fn every_form_of_a_name_means_its_disk() {
        for name in ["/dev/sdb", "/dev/sdb1", "serial:S 2", "by-id:ata-S 2", "by-id:ata-S 2-part1"] {
            assert_eq!(find(&[name]).unwrap().devices, ["/dev/sdb"], "{name}");
        }
        assert_eq!(find(&["/dev/disk/by-id/ata-S 2-part3"]).unwrap().devices, ["/dev/sdb"]);
    }

    #[test]
    fn a_disk_seen_by_two_paths_is_excluded_by_both() {
        assert_eq!(find(&["serial:S1", "wwn:0x5000"]).unwrap().devices, ["/dev/sda", "/dev/sdc"]);
    }

    #[test]
    fn an_excluded_disk_is_not_even_opened() {
        // There is no such disk: opening it would be a failure.
        let disks = [disk("drophammer-none", "S1", "")];
        let excluded = Excluded::find(&["serial:S1".to_owned()], &disks).unwrap();
        let options = EraseOptions { excluded: excluded.devices, ..EraseOptions::default() };
        let records = erase_all(&disks, &options, &mut |_| {});
        assert!(records[0].is_excluded() && !records[0].is_of_a_disk(), "{}", records[0]);
        let records = erase_all(&disks, &EraseOptions::default(), &mut |_| {});
        assert!(records[0].is_failure(), "{}", records[0]);
    }

    #[test]
    fn a_name_of_no_disk_is_told_and_one_that_is_none_stops() {
        let excluded = find(&["serial:S9", "/dev/sdx", "/dev/sda"]).unwrap();
        assert_eq!(excluded.unknown, ["serial:S9", "/dev/sdx"]);
        let error = find(&["seral:S1", "sda", "serial:"]).unwrap_err().to_string();
        for expected in ["\"seral:S1\"", "\"sda\"", "\"serial:\"", "nothing was erased"] {
            assert!(error.contains(expected), "{error}");
        }
    }
}
