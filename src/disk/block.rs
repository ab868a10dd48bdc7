//! Raw access to one disk. A trait, so that tests can have disks that refuse and disks that lie.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::roots::Roots;
use crate::sys::scsi::{Answer, Transfer};
use crate::sys::{block, nvme, scsi};

/// Offsets and lengths are bytes and multiples of the sector size.
pub trait BlockDevice: Send {
    fn size_bytes(&self) -> u64;
    fn sector_bytes(&self) -> u32;
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// By the device's own command if it has one.
    fn zero_out(&self, offset: u64, length: u64) -> io::Result<()>;
    fn has_secure_discard(&self) -> bool;
    fn secure_discard(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Everything is on the medium afterwards, and the next read comes from there.
    fn sync(&self) -> io::Result<()>;
    /// Where NVMe commands go; `None` when this is no NVMe namespace.
    fn nvme(&self) -> Option<&dyn NvmePort>;
    /// Where SCSI commands go, with ATA's inside them; `None` when the device takes none, or is better not asked.
    fn scsi(&self) -> Option<&dyn ScsiPort>;
}

/// NVMe admin commands of the controller behind a namespace.
pub trait NvmePort {
    fn namespace_id(&self) -> io::Result<u32>;
    fn identify(&self, namespace: u32, what: nvme::Identify) -> io::Result<Vec<u8>>;
    /// Format NVM; dword 10 as it goes to the controller. Returns when it is done.
    fn format(&self, namespace: u32, cdw10: u32, limit: Duration) -> io::Result<()>;
    /// Sanitize; dword 10 as it goes to the controller. Returns when it has begun.
    fn sanitize(&self, cdw10: u32, limit: Duration) -> io::Result<()>;
    /// Log page 81h.
    fn sanitize_log(&self) -> io::Result<Vec<u8>>;
}

/// SCSI commands.
pub trait ScsiPort {
    fn execute(&self, command: &[u8], transfer: Transfer<'_>, limit: Duration) -> io::Result<Answer>;
}

/// Every page size and sector size in use divides it: what O_DIRECT wants.
const DIRECT_ALIGNMENT: usize = 4096;

/// Memory whose address O_DIRECT accepts.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    pub fn zeroed(length: usize) -> Self {
        let memory = vec![0; length + DIRECT_ALIGNMENT];
        let start = memory.as_ptr().align_offset(DIRECT_ALIGNMENT);
        Self { memory, start, length }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// A disk of this machine, opened for writing and claimed: nobody can mount it meanwhile.
pub struct OpenDisk {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    sector_bytes: u32,
    direct: bool,
    language: Language,
}

/// Which commands the device takes beside reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Nvme,
    Scsi,
    None,
}

impl Language {
    /// By the kernel's name and place of the device. A bridge to USB is not asked: many hang or lie when they see a
    /// command that they do not know, and a security erase broken off by one leaves a locked disk.
    fn of(path: &Path) -> Self {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Self::None };
        if name.starts_with("nvme") {
            return Self::Nvme;
        }
        let place = std::fs::canonicalize(Roots::system().sys.join("class/block").join(name));
        let is_usb =
            place.is_ok_and(|place| place.components().any(|part| part.as_os_str().as_bytes().starts_with(b"usb")));
        if name.starts_with("sd") && !is_usb { Self::Scsi } else { Self::None }
    }
}

impl OpenDisk {
    /// Fails with EBUSY when the disk or a part of it is mounted or held by md, dm and their like.
    ///
    /// Reads and writes go past the page cache where the device lets them: it would hold gigabytes of zeros.
    pub fn claim(path: &Path) -> io::Result<Self> {
        let open =
            |flags: i32| File::options().read(true).write(true).custom_flags(flags | nix::libc::O_EXCL).open(path);
        let (file, direct) = match open(nix::libc::O_DIRECT) {
            Ok(file) => (file, true),
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => (open(0)?, false),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.file_type().is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a block device"));
        }
        let (size_bytes, sector_bytes) = (block::size_bytes(file.as_fd())?, block::sector_bytes(file.as_fd())?);
        let language = Language::of(path);
        Ok(Self { path: path.to_owned(), file, size_bytes, sector_bytes, direct, language })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For ioctls that are not about data.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    fn needs_copy(&self, address: *const u8) -> bool {
        self.direct && address.align_offset(DIRECT_ALIGNMENT) != 0
    }
}

impl BlockDevice for OpenDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.needs_copy(buffer.as_ptr()) {
            return self.file.read_exact_at(buffer, offset);
        }
        let mut aligned = AlignedBuffer::zeroed(buffer.len());
        self.file.read_exact_at(aligned.as_mut_slice(), offset)?;
        buffer.copy_from_slice(aligned.as_slice());
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if !self.needs_copy(data.as_ptr()) {
            return self.file.write_all_at(data, offset);
        }
        let mut aligned = AlignedBuffer::zeroed(data.len());
        aligned.as_mut_slice().copy_from_slice(data);
        self.file.write_all_at(aligned.as_slice(), offset)
    }

    fn zero_out(&self, offset: u64, length: u64) -> io::Result<()> {
        block::zero_out(self.file.as_fd(), offset, length)
    }

    fn secure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        block::secure_discard(self.file.as_fd(), offset, length)
    }

    /// The kernel refuses a range off the grid of sectors only after it has looked whether the device can do it
    /// (block/ioctl.c, `blk_ioctl_secure_erase`): so one can ask and erase nothing.
    fn has_secure_discard(&self) -> bool {
        let answer = block::secure_discard(self.file.as_fd(), 1, 0);
        answer.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EINVAL))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        block::flush_buffers(self.file.as_fd())
    }

    fn nvme(&self) -> Option<&dyn NvmePort> {
        (self.language == Language::Nvme).then_some(self)
    }

    fn scsi(&self) -> Option<&dyn ScsiPort> {
        (self.language == Language::Scsi).then_some(self)
    }
}

impl NvmePort for OpenDisk {
    fn namespace_id(&self) -> io::Result<u32> {
        nvme::namespace_id(self.file.as_fd())
    }

    fn identify(&self, namespace: u32, what: nvme::Identify) -> io::Result<Vec<u8>> {
        nvme::identify(self.file.as_fd(), namespace, what)
    }

    fn format(&self, namespace: u32, cdw10: u32, limit: Duration) -> io::Result<()> {
        nvme::format(self.file.as_fd(), namespace, cdw10, limit)
    }

    fn sanitize(&self, cdw10: u32, limit: Duration) -> io::Result<()> {
        nvme::sanitize(self.file.as_fd(), cdw10, limit)
    }

    fn sanitize_log(&self) -> io::Result<Vec<u8>> {
        nvme::sanitize_log(self.file.as_fd())
    }
}

impl ScsiPort for OpenDisk {
    fn execute(&self, command: &[u8], transfer: Transfer<'_>, limit: Duration) -> io::Result<Answer> {
        scsi::execute(self.file.as_fd(), command, transfer, limit)
    }
}
