//! Raw access to one disk. A trait, so that tests can have disks that refuse and disks that lie.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::{block, nvme};

/// Offsets and lengths are bytes and multiples of the sector size.
pub trait BlockDevice: Send {
    fn size_bytes(&self) -> u64;
    fn sector_bytes(&self) -> u32;
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// By the device's own command if it has one.
    fn zero_out(&self, offset: u64, length: u64) -> io::Result<()>;
    fn secure_discard(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Erases the user data of this one NVMe namespace and keeps its format.
    fn nvme_format(&self, limit: Duration) -> io::Result<()>;
    /// Everything is on the medium afterwards, and the next read comes from there.
    fn sync(&self) -> io::Result<()>;
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
        Ok(Self { path: path.to_owned(), file, size_bytes, sector_bytes, direct })
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

    fn nvme_format(&self, limit: Duration) -> io::Result<()> {
        let fd = self.file.as_fd();
        let namespace = nvme::namespace_id(fd)?;
        check_format(&nvme::identify(fd, namespace, nvme::Identify::Controller)?)?;
        let dword = format_dword(&nvme::identify(fd, namespace, nvme::Identify::Namespace)?);
        nvme::format(fd, namespace, dword, limit)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        block::flush_buffers(self.file.as_fd())
    }
}

/// NVM Express base specification 2.0, figure 275: OACS at 256 (bit 1: Format NVM), FNA at 524, NN at 516.
fn check_format(controller: &[u8]) -> io::Result<()> {
    let at = |offset: usize| controller.get(offset).copied().unwrap_or_default();
    if at(256) & 0x2 == 0 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the controller has no Format NVM command"));
    }
    let namespaces = u32::from_le_bytes([at(516), at(517), at(518), at(519)]);
    if at(524) & 0x3 != 0 && namespaces > 1 {
        // The other namespaces are other disks, each with its own decision whether it may be erased.
        let reason = format!("it would reach all namespaces of the controller, which can have {namespaces}");
        return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
    }
    Ok(())
}

/// Dword 10 of Format NVM: user data erase, and the format as it is (FLBAS at 26, DPS at 29 of the namespace).
fn format_dword(namespace: &[u8]) -> u32 {
    const USER_DATA_ERASE: u32 = 1 << 9;
    let at = |offset: usize| u32::from(namespace.get(offset).copied().unwrap_or_default());
    let (flbas, dps) = (at(26), at(29));
    let (index_low, metadata_inline, index_high) = (flbas & 0xf, flbas >> 4 & 1, flbas >> 5 & 3);
    let (protection, protection_first) = (dps & 0x7, dps >> 3 & 1);
    index_low | metadata_inline << 4 | protection << 5 | protection_first << 8 | USER_DATA_ERASE | index_high << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_keeps_the_sector_format_and_protection() {
        let mut namespace = [0_u8; nvme::IDENTIFY_BYTES];
        assert_eq!(format_dword(&namespace), 0x200);
        namespace[26] = 0b0101_0011;
        namespace[29] = 0b1010;
        assert_eq!(format_dword(&namespace), 0x2000 | 0x200 | 0x100 | 2 << 5 | 0x10 | 3);
    }

    #[test]
    fn format_that_reaches_other_namespaces_is_refused() {
        let mut controller = [0_u8; nvme::IDENTIFY_BYTES];
        let told = |controller: &[u8]| check_format(controller).map_err(|error| error.to_string());
        assert_eq!(told(&controller), Err("the controller has no Format NVM command".to_owned()));
        controller[256] = 0x2;
        controller[516] = 32;
        assert_eq!(told(&controller), Ok(()));
        controller[524] = 0x1;
        let reason = "it would reach all namespaces of the controller, which can have 32";
        assert_eq!(told(&controller), Err(reason.to_owned()));
        controller[516] = 1;
        assert_eq!(told(&controller), Ok(()));
    }
}
