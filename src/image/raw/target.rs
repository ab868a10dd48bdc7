//! Where a raw image goes: a disk or partition, claimed and written past the page cache, or a file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::relay::Piece;
use crate::disk::block::{AlignedBuffer, BlockDevice, OpenDisk};
use crate::disk::device::read_disk_at;
use crate::image::error::ImageError;
use crate::sys::roots::Roots;

/// Of zeros, where the kernel can't make them itself.
const ZEROS_BYTES: usize = 1 << 20;

pub(super) struct Target {
    place: Place,
    path: PathBuf,
}

enum Place {
    Device(OpenDisk),
    File(File),
}

impl Target {
    /// An existing block device that nobody uses, or an existing file. Nothing is written.
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::OpenTarget { path: path.to_owned(), source };
        let unfit = |reason: &str| ImageError::UnfitTarget { path: path.to_owned(), reason: reason.to_owned() };
        // a link such as those below /dev/disk names the device; the kernel knows it by its own name
        let path = path.canonicalize().map_err(failed)?;
        let kind = path.metadata().map_err(failed)?.file_type();
        let place = if kind.is_block_device() {
            // the kernel refuses a device that is mounted, swapped to, or part of something else
            Place::Device(OpenDisk::claim(&path).map_err(|err| match err.raw_os_error() {
                Some(libc::EBUSY) => unfit("it is in use: mounted, swap, or part of an array or volume group"),
                _ => failed(err),
            })?)
        } else if kind.is_file() {
            Place::File(OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?)
        } else {
            return Err(unfit("neither a block device nor a file"));
        };
        Ok(Self { place, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes; `None` for a file, which grows.
    pub(super) fn capacity(&self) -> Option<u64> {
        match &self.place {
            Place::Device(disk) => Some(disk.size_bytes()),
            Place::File(_) => None,
        }
    }

    /// Of a device.
    pub(super) fn sector_bytes(&self) -> Option<u32> {
        match &self.place {
            Place::Device(disk) => Some(disk.sector_bytes()),
            Place::File(_) => None,
        }
    }

    /// For ioctls.
    pub(super) fn as_file(&self) -> &File {
        match &self.place {
            Place::Device(disk) => disk.as_file(),
            Place::File(file) => file,
        }
    }

    /// A whole disk, and no partition of one.
    pub(super) fn check_is_disk(&self) -> Result<(), ImageError> {
        let found = read_disk_at(&Roots::system(), &self.path.display().to_string());
        found.map(|_| ()).map_err(|err| self.unfit(format!("only a whole disk can be grown to: {err:#}")))
    }

    pub(super) fn check_room(&self, image: u64) -> Result<(), ImageError> {
        match self.capacity() {
            Some(capacity) if image > capacity => {
                Err(ImageError::TooBig { device: self.path.clone(), capacity, image })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes away what was there, so that nothing boots until the image is whole: of a device the first `head` bytes,
    /// of a file everything.
    pub(super) fn clear(&self, head: usize) -> Result<(), ImageError> {
        match &self.place {
            Place::Device(_) => self.write(&vec![0; head], 0)?,
            Place::File(file) => file.set_len(0).map_err(|source| self.failed("clearing", 0, source))?,
        }
        self.sync()
    }

    /// At an offset that is a multiple of the sector size. What lies behind the bytes in their last sector stays.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), ImageError> {
        let written = match &self.place {
            Place::Device(disk) => write_sectors(disk, bytes, offset),
            Place::File(file) => file.write_all_at(bytes, offset),
        };
        written.map_err(|source| self.failed("writing", offset, source))
    }

    /// Makes a range of whole sectors read as zeros. Behind a file's end everything does.
    pub(super) fn zero(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        match &self.place {
            Place::Device(disk) => {
                zero_sectors(disk, offset, length).map_err(|source| self.failed("zeroing", offset, source))
            }
            Place::File(file) => {
                let end = offset.saturating_add(length);
                let grown = file.metadata().and_then(|found| file.set_len(end.max(found.len())));
                grown.map_err(|source| self.failed("zeroing", offset, source))
            }
        }
    }

    pub(super) fn sync(&self) -> Result<(), ImageError> {
        let synced = match &self.place {
            Place::Device(disk) => disk.sync(),
            Place::File(file) => file.sync_all(),
        };
        synced.map_err(|source| ImageError::Sync { path: self.path.display().to_string(), source })
    }

    /// So that what is read comes from the disk.
    pub(super) fn forget_cached(&self) -> Result<(), ImageError> {
        let dropped = posix_fadvise(self.as_file(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        dropped.map_err(|err| self.failed("dropping caches of", 0, err.into()))
    }

    /// Fills a piece with what lies at its offset.
    pub(super) fn read(&self, piece: &mut Piece) -> Result<(), ImageError> {
        let (offset, length) = (piece.offset, piece.length);
        // whole sectors; the buffer has room for them
        let sector = self.sector_bytes().map_or(1, |bytes| bytes as usize);
        let room = piece.buffer.as_mut_slice().get_mut(..length.next_multiple_of(sector)).unwrap_or_default();
        let read = match &self.place {
            Place::Device(disk) => disk.read_at(room, offset),
            Place::File(file) => file.read_exact_at(room, offset),
        };
        read.map_err(|source| self.failed("reading back", offset, source))
    }

    pub(super) fn unfit(&self, reason: String) -> ImageError {
        ImageError::UnfitTarget { path: self.path.clone(), reason }
    }

    pub(super) fn failed(&self, action: &'static str, offset: u64, source: io::Error) -> ImageError {
        ImageError::Device { action, path: self.path.clone(), offset, source }
    }
}

fn write_sectors(disk: &OpenDisk, bytes: &[u8], offset: u64) -> io::Result<()> {
    let sector = disk.sector_bytes() as usize;
    let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % sector);
    if !whole.is_empty() {
        disk.write_at(whole, offset)?;
    }
    if rest.is_empty() {
        return Ok(());
    }
    let offset = offset + whole.len() as u64;
    let mut last = AlignedBuffer::zeroed(sector);
    disk.read_at(last.as_mut_slice(), offset)?;
    last.as_mut_slice()[..rest.len()].copy_from_slice(rest);
    disk.write_at(last.as_slice(), offset)
}

fn zero_sectors(disk: &OpenDisk, offset: u64, length: u64) -> io::Result<()> {
    match disk.zero_out(offset, length) {
        Err(err) if matches!(err.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL)) => {}
        done => return done,
    }
    let zeros = AlignedBuffer::zeroed(ZEROS_BYTES);
    let mut done = 0;
    while done < length {
        let count = usize::try_from(length - done).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
        disk.write_at(zeros.as_slice().get(..count).unwrap_or_default(), offset + done)?;
        done += count as u64;
    }
    Ok(())
}
