use std::cell::RefCell;
use std::io;
use std::sync::Mutex;

use super::*;

/// A disk in memory whose every command can be made to refuse, break or lie.
struct FakeDisk {
    data: Mutex<Vec<u8>>,
    format: Behaviour,
    zero_out: Behaviour,
    /// Writes from this offset on fail.
    broken_from: Option<u64>,
}

#[derive(Clone, Copy)]
enum Behaviour {
    Works,
    Refuses,
    /// Reports success and does nothing.
    Lies,
    /// Reports success and leaves the last sector.
    LeavesTail,
}

impl FakeDisk {
    fn dirty(format: Behaviour, zero_out: Behaviour) -> Self {
        let data = Mutex::new(vec![0x5a; (9 << 20) + 512]);
        Self { data, format, zero_out, broken_from: None }
    }

    fn clear(&self, behaviour: Behaviour, offset: u64, length: u64) -> io::Result<()> {
        let mut data = self.data.lock().unwrap();
        let (start, end) = (offset as usize, (offset + length) as usize);
        match behaviour {
            Behaviour::Works => data[start..end].fill(0),
            Behaviour::Refuses => return Err(io::Error::from(io::ErrorKind::Unsupported)),
            Behaviour::Lies => {}
            Behaviour::LeavesTail => {
                let end = end.min(data.len() - 512);
                data[start..end].fill(0);
            }
        }
        Ok(())
    }
}

impl BlockDevice for FakeDisk {
    fn size_bytes(&self) -> u64 {
        self.data.lock().unwrap().len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let data = self.data.lock().unwrap();
        buffer.copy_from_slice(&data[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.broken_from.is_some_and(|broken| offset + bytes.len() as u64 > broken) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        self.data.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero_out(&self, offset: u64, length: u64) -> io::Result<()> {
        self.clear(self.zero_out, offset, length)
    }

    fn secure_discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn nvme_format(&self, _limit: Duration) -> io::Result<()> {
        let size = self.size_bytes();
        self.clear(self.format, 0, size)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

const LADDER: [Method; 3] = [Method::NvmeFormat, Method::ZeroOut, Method::Overwrite];

fn options() -> EraseOptions {
    EraseOptions { seed: 1, stall_limit: Duration::from_secs(60) }
}

fn erase(disk: &FakeDisk) -> Result<Erased, Vec<Refusal>> {
    erase_device(disk, &LADDER, &[], &options(), &|_, _| {})
}

#[test]
fn the_strongest_method_that_works_is_used_alone() {
    let disk = FakeDisk::dirty(Behaviour::Works, Behaviour::Refuses);
    let erased = erase(&disk).unwrap();
    assert_eq!((erased.method, erased.refused.len(), erased.verified_bytes), (Method::NvmeFormat, 0, (9 << 20) + 512));
}

#[test]
fn a_refused_method_is_told_and_the_next_one_taken() {
    let erased = erase(&FakeDisk::dirty(Behaviour::Refuses, Behaviour::Works)).unwrap();
    assert_eq!(erased.method, Method::ZeroOut);
    assert_eq!(erased.refused, [Refusal { method: Method::NvmeFormat, reason: "unsupported".into() }]);
}

#[test]
fn a_lying_disk_is_found_out_and_overwritten() {
    let disk = FakeDisk::dirty(Behaviour::Lies, Behaviour::LeavesTail);
    let erased = erase(&disk).unwrap();
    assert_eq!(erased.method, Method::Overwrite);
    let reasons: Vec<&str> = erased.refused.iter().map(|r| r.reason.as_str()).collect();
    let found = "5a".repeat(16);
    let format = format!("not blank when read back: at offset 0, expected zeros or 0xff throughout, found {found}");
    let zero_out = format!("not blank when read back: at offset 9437184, expected zeros, found {found}");
    assert_eq!(reasons, [format, zero_out]);
    assert!(disk.data.lock().unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_that_can_not_be_erased_is_an_error_with_all_reasons() {
    let mut disk = FakeDisk::dirty(Behaviour::Refuses, Behaviour::Refuses);
    disk.broken_from = Some(8 << 20);
    let refusals = erase(&disk).unwrap_err();
    let methods: Vec<Method> = refusals.iter().map(|r| r.method).collect();
    assert_eq!(methods, LADDER);
    assert!(refusals[2].reason.contains("Input/output error"), "{}", refusals[2].reason);
}

#[test]
fn progress_ends_with_the_size_of_the_disk() {
    let seen = RefCell::new(Vec::new());
    let disk = FakeDisk::dirty(Behaviour::Refuses, Behaviour::Works);
    erase_device(&disk, &LADDER, &[], &options(), &|method, done| seen.borrow_mut().push((method, done))).unwrap();
    assert_eq!(seen.into_inner().last(), Some(&(Method::ZeroOut, (9 << 20) + 512)));
}

fn facts(name: &str, kind: DiskKind) -> DiskFacts {
    DiskFacts {
        device: format!("/dev/{name}"),
        name: name.to_owned(),
        size: Bytes(4096),
        sector_bytes: 512,
        serial: None,
        wwn: None,
        model: None,
        links: vec![],
        kind,
        read_only: false,
        rotational: None,
        uses: vec![],
        partitions: vec![],
        content: None,
    }
}

#[test]
fn what_is_no_disk_of_the_machine_is_skipped_and_what_can_not_be_erased_fails() {
    use crate::disk::device::DiskUse;
    let mut busy = facts("no-such-disk", DiskKind::Fixed);
    busy.uses.push(DiskUse::Held { device: "/dev/no-such-disk".into(), by: "/dev/md0".into() });
    let mut write_protected = facts("no-such-disk", DiskKind::Fixed);
    write_protected.read_only = true;
    let disks = [
        facts("sr0", DiskKind::Optical),
        facts("loop0", DiskKind::Loop),
        facts("sdz", DiskKind::Removable),
        facts("md0", DiskKind::Md),
        busy,
        write_protected,
        facts("no-such-disk", DiskKind::Fixed),
    ];
    let outcomes = erase_all(&disks, &options(), &mut |_| {});
    let told: Vec<String> = outcomes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "/dev/sr0 (4.0 kB, serial none): skipped: optical drive",
            "/dev/loop0 (4.0 kB, serial none): skipped: loop device",
            "/dev/sdz (4.0 kB, serial none): skipped: removable medium",
            "/dev/md0 (4.0 kB, serial none): skipped: RAID array, made of other disks",
            "/dev/no-such-disk (4.0 kB, serial none): NOT ERASED: in use: /dev/no-such-disk is held by /dev/md0",
            "/dev/no-such-disk (4.0 kB, serial none): NOT ERASED: write-protected",
            "/dev/no-such-disk (4.0 kB, serial none): NOT ERASED: opening it for itself alone: \
             No such file or directory (os error 2)",
        ]
    );
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_failure()).count(), 3);
}
