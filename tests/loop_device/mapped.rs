//! Device mapper below a loop device: the disk under test stays a plain loop device, and what lies below it fails, lies,
//! is slow, hangs, or remembers every write.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::write_log::WriteLog;
use super::{Loop, output};

const SECTOR: u64 = 512;

/// What is wrong with some bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing works.
    Error,
    /// Reads work.
    WritesFail,
    /// Writes are said to be done and are not.
    WritesLost,
    /// All works, each request so many milliseconds late.
    Late(u32),
}

/// A loop device with a device of the device mapper on it; both gone when dropped.
pub struct Mapping {
    name: String,
    base: String,
    sectors: u64,
    /// Where all writes are kept, when they are: the file and its loop device.
    log: Option<Box<Loop>>,
}

impl Mapping {
    /// All is well until it is told otherwise.
    fn linear(file: &Path) -> Self {
        let mapping = Self::on(file, None);
        mapping.create(&mapping.table(&[]));
        mapping
    }

    /// With a log of all writes.
    fn logged(file: &Path, log_mib: u64) -> Self {
        let mapping = Self::on(file, Some(Box::new(Loop::new(log_mib, 512))));
        let log = mapping.log.as_ref().map(|log| log.device.clone()).unwrap_or_default();
        mapping.create(&format!("0 {} log-writes {} {log}", mapping.sectors, mapping.base));
        mapping
    }

    fn on(file: &Path, log: Option<Box<Loop>>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("drophammer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let base = output("losetup", &["-f", "--show", file.to_str().unwrap()]).trim().to_owned();
        Self { name, base, sectors: file.metadata().unwrap().len() / SECTOR, log }
    }

    pub fn node(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    fn create(&self, table: &str) {
        dmsetup(&["create", &self.name, "--table", table]);
    }

    fn table(&self, faults: &[(Range<u64>, Fault)]) -> String {
        let mut faults: Vec<(u64, u64, Fault)> =
            faults.iter().map(|(bytes, fault)| (bytes.start / SECTOR, bytes.end.div_ceil(SECTOR), *fault)).collect();
        faults.sort_by_key(|(start, ..)| *start);
        let base = &self.base;
        let mut lines = Vec::new();
        let mut at = 0;
        for (start, end, fault) in faults {
            let end = end.min(self.sectors);
            if at < start {
                lines.push(format!("{at} {} linear {base} {at}", start - at));
            }
            let length = end - start;
            lines.push(match fault {
                Fault::Error => format!("{start} {length} error"),
                // Up for no second and down for all that follow.
                Fault::WritesFail => format!("{start} {length} flakey {base} {start} 0 1000000 1 error_writes"),
                Fault::WritesLost => format!("{start} {length} flakey {base} {start} 0 1000000 1 drop_writes"),
                Fault::Late(milliseconds) => format!("{start} {length} delay {base} {start} {milliseconds}"),
            });
            at = end;
        }
        if at < self.sectors {
            lines.push(format!("{at} {} linear {base} {at}", self.sectors - at));
        }
        lines.join("\n")
    }

    /// From now on.
    pub fn fail(&self, faults: &[(Range<u64>, Fault)]) {
        self.load(&self.table(faults));
    }

    /// From now on all is well.
    pub fn heal(&self) {
        self.fail(&[]);
    }

    /// Works for some seconds, fails for some, and so on.
    pub fn come_and_go(&self, up_seconds: u32, down_seconds: u32) {
        self.load(&format!("0 {} flakey {} 0 {up_seconds} {down_seconds}", self.sectors, self.base));
    }

    /// These sectors can't be read until they are written to.
    pub fn lose_sectors(&self, sectors: &[u64]) {
        self.load(&format!("0 {} dust {} 0 512", self.sectors, self.base));
        for sector in sectors {
            dmsetup(&["message", &self.name, "0", "addbadblock", &sector.to_string()]);
        }
        dmsetup(&["message", &self.name, "0", "enable"]);
    }

    fn load(&self, table: &str) {
        dmsetup(&["reload", &self.name, "--table", table]);
        dmsetup(&["resume", &self.name]);
    }

    /// No request comes back until [`Mapping::go_on`].
    pub fn hang(&self) {
        dmsetup(&["suspend", "--noflush", "--nolockfs", &self.name]);
    }

    pub fn go_on(&self) {
        dmsetup(&["resume", &self.name]);
    }

    /// A line in the log of writes.
    pub fn mark(&self, text: &str) {
        dmsetup(&["message", &self.name, "0", "mark", text]);
    }

    /// All that was written, when the log is complete: the disk must be gone from above.
    pub fn into_log(mut self) -> WriteLog {
        self.remove();
        let log = self.log.take().expect("the test has asked for a log");
        WriteLog::read(&log.device)
    }

    fn remove(&mut self) {
        if !self.name.is_empty() {
            let _ = Command::new("dmsetup").env(NO_UDEV.0, NO_UDEV.1).args(["remove", "--retry", &self.name]).status();
            let _ = Command::new("losetup").args(["-d", &self.base]).status();
            self.name.clear();
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Else it waits for a udev to make the nodes.
const NO_UDEV: (&str, &str) = ("DM_DISABLE_UDEV", "1");

fn dmsetup(arguments: &[&str]) {
    let output = Command::new("dmsetup").env(NO_UDEV.0, NO_UDEV.1).args(arguments).output().unwrap();
    assert!(output.status.success(), "dmsetup {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A sparse disk with nothing wrong below it yet.
pub fn fragile(size_mib: u64) -> Loop {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size_mib << 20).unwrap();
    fragile_on(file, 512)
}

pub fn fragile_on(file: tempfile::NamedTempFile, sector_bytes: u32) -> Loop {
    Loop::over(Mapping::linear(file.path()), file, sector_bytes)
}

/// A disk that remembers what was written to it, up to a size.
pub fn logged(file: tempfile::NamedTempFile, log_mib: u64) -> Loop {
    Loop::over(Mapping::logged(file.path(), log_mib), file, 512)
}
