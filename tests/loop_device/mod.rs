//! Real loop devices, and the distribution's own tools that judge what is on them. Needs root.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod layouts;
pub mod mapped;
pub mod write_log;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Command;

use drophammer::disk::device::{DiskFacts, read_disk_at};
use drophammer::sys::roots::Roots;
use ring::digest::{Context, SHA256};

use mapped::Mapping;

/// A file behind a loop device, both gone when dropped.
pub struct Loop {
    pub device: String,
    pub file: tempfile::NamedTempFile,
    /// What lies between the two.
    below: Option<Mapping>,
}

impl Loop {
    /// Sparse.
    pub fn new(size_mib: u64, sector_bytes: u32) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size_mib << 20).unwrap();
        Self::attach(file, sector_bytes)
    }

    pub fn attach(file: tempfile::NamedTempFile, sector_bytes: u32) -> Self {
        let sector = sector_bytes.to_string();
        let path = file.path().to_str().unwrap();
        let device = output("losetup", &["-f", "--show", "-P", "-b", &sector, path]).trim().to_owned();
        Self { device, file, below: None }
    }

    /// As [`Loop::attach`], with a mapping between file and loop device. Every request goes down there as it comes: there
    /// is no cache between the two.
    pub fn over(mapping: Mapping, file: tempfile::NamedTempFile, sector_bytes: u32) -> Self {
        let sector = sector_bytes.to_string();
        let node = mapping.node();
        let device = output("losetup", &["-f", "--show", "-P", "--direct-io=on", "-b", &sector, &node]);
        Self { device: device.trim().to_owned(), file, below: Some(mapping) }
    }

    /// What is below a disk that was made by [`Loop::over`].
    pub fn mapping(&self) -> &Mapping {
        self.below.as_ref().expect("the test has put a mapping below this disk")
    }

    /// Takes the disk apart, and leaves its file and what was below.
    pub fn detach(mut self) -> (tempfile::NamedTempFile, Option<Mapping>) {
        output("losetup", &["-d", &self.device]);
        self.device.clear();
        let file = std::mem::replace(&mut self.file, tempfile::NamedTempFile::new().unwrap());
        (file, self.below.take())
    }

    pub fn facts(&self) -> DiskFacts {
        read_disk_at(&Roots::system(), &self.device).unwrap()
    }

    /// The kernel's node of a partition, `/dev/loop3p1`.
    pub fn node(&self, number: u32) -> String {
        format!("{}p{number}", self.device)
    }

    /// The model's name of a partition, `/dev/loop31`.
    pub fn part(&self, number: u32) -> String {
        format!("{}{number}", self.device)
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.device).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        file.sync_all().unwrap();
    }

    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(self.file.path()).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    pub fn hash(&self) -> String {
        nix::unistd::sync();
        let mut digest = Context::new(&SHA256);
        let mut file = File::open(self.file.path()).unwrap();
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece).unwrap() {
                0 => return hex::encode(digest.finish()),
                length => digest.update(&piece[..length]),
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            let _ = Command::new("losetup").args(["-d", &self.device]).status();
        }
    }
}

/// What the tool prints; it must succeed.
pub fn output(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().unwrap_or_else(|error| panic!("{tool}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// What blkid finds by looking itself; empty when it finds nothing.
pub fn blkid(node: impl AsRef<OsStr>) -> BTreeMap<String, String> {
    let output = Command::new("blkid").args(["-p", "-o", "export"]).arg(node).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.replace('\\', ""))).collect()
}
