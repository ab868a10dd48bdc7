//! Raw disk images, written so that a disk with half an image, or a wrong one, does not boot: the first MiB is
//! cleared before anything else and written after everything else, when the digest holds.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use ring::digest::{Context, SHA256};

use super::error::ImageError;
use super::fetch::Stop;
use super::queue::is_gone;
use super::report::Counters;

/// Partition table and boot code.
const HEAD_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 4 << 20;

/// Written but for its head.
pub(super) struct Written {
    target: Target,
    head: Vec<u8>,
    /// Of all, head first.
    sha256: Vec<u8>,
    bytes: u64,
}

struct Target {
    file: File,
    path: PathBuf,
    /// Bytes; `None` for a regular file, which grows.
    capacity: Option<u64>,
}

/// Writes all but the head of the image in `input`.
pub(super) fn write(input: &mut impl Read, path: &Path, counters: &Counters) -> Result<Written, Stop> {
    let target = Target::open(path)?;
    target.clear_head()?;
    let head = read_piece(input, HEAD_BYTES, path)?;
    if head.is_empty() {
        return Err(ImageError::UnfitTarget { path: path.to_owned(), reason: "the image is empty".to_owned() }.into());
    }
    target.check_room(head.len() as u64)?;
    let mut hash = Context::new(&SHA256);
    hash.update(&head);
    let mut offset = head.len() as u64;
    Counters::add(&counters.bytes_out, offset);
    loop {
        let piece = read_piece(input, PIECE_BYTES, path)?;
        if piece.is_empty() {
            break;
        }
        target.check_room(offset + piece.len() as u64)?;
        hash.update(&piece);
        target.write(&piece, offset)?;
        offset += piece.len() as u64;
        Counters::add(&counters.bytes_out, piece.len() as u64);
    }
    Ok(Written { target, head, sha256: hash.finish().as_ref().to_vec(), bytes: offset })
}

impl Written {
    /// Writes the head, brings all to the disk and reads all back. Returns the bytes compared.
    pub(super) fn finish(self) -> Result<u64, ImageError> {
        // the body must be there before the head says so
        self.target.sync()?;
        self.target.write(&self.head, 0)?;
        self.target.sync()?;
        let found = self.target.read_back(self.bytes)?;
        if found == self.sha256 {
            return Ok(self.bytes);
        }
        Err(ImageError::ReadBack {
            path: self.target.path.display().to_string(),
            expected: format!("sha256:{}", hex::encode(&self.sha256)),
            found: format!("sha256:{} over {} bytes", hex::encode(found), self.bytes),
        })
    }
}

impl Target {
    /// An existing block device that nobody uses, or an existing file, which is emptied.
    fn open(path: &Path) -> Result<Self, ImageError> {
        let unfit = |reason: &str| ImageError::UnfitTarget { path: path.to_owned(), reason: reason.to_owned() };
        let failed = |source| ImageError::OpenTarget { path: path.to_owned(), source };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if kind.is_block_device() {
            // the kernel refuses a device that is mounted, swapped to, or part of something else
            options.custom_flags(libc::O_EXCL);
        } else if !kind.is_file() {
            return Err(unfit("neither a block device nor a file"));
        }
        let mut file = options.open(path).map_err(|err| match err.raw_os_error() {
            Some(libc::EBUSY) => unfit("it is in use: mounted, swap, or part of an array or volume group"),
            _ => failed(err),
        })?;
        let capacity = match kind.is_block_device() {
            true => Some(file.seek(SeekFrom::End(0)).map_err(failed)?),
            false => None,
        };
        if capacity.is_none() {
            file.set_len(0).map_err(failed)?;
        }
        Ok(Self { file, path: path.to_owned(), capacity })
    }

    fn clear_head(&self) -> Result<(), ImageError> {
        let head = u64::try_from(HEAD_BYTES).unwrap_or(u64::MAX);
        let length = self.capacity.unwrap_or(head).min(head);
        self.write(&vec![0; usize::try_from(length).unwrap_or(HEAD_BYTES)], 0)?;
        self.sync()?;
        match self.capacity {
            Some(_) => Ok(()),
            None => self.file.set_len(0).map_err(|source| self.failed("clearing", 0, source)),
        }
    }

    fn check_room(&self, image: u64) -> Result<(), ImageError> {
        match self.capacity {
            Some(capacity) if image > capacity => {
                Err(ImageError::TooBig { device: self.path.clone(), capacity, image })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), ImageError> {
        self.file.write_all_at(bytes, offset).map_err(|source| self.failed("writing", offset, source))
    }

    fn sync(&self) -> Result<(), ImageError> {
        let path = || self.path.display().to_string();
        self.file.sync_all().map_err(|source| ImageError::Sync { path: path(), source })
    }

    /// SHA-256 of the first `bytes`, from the disk and not from memory.
    fn read_back(&self, bytes: u64) -> Result<Vec<u8>, ImageError> {
        let dropped = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        dropped.map_err(|err| self.failed("dropping caches of", 0, err.into()))?;
        let mut hash = Context::new(&SHA256);
        let mut piece = vec![0; PIECE_BYTES];
        let mut offset = 0;
        while offset < bytes {
            let wanted = usize::try_from(bytes - offset).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let room = piece.get_mut(..wanted).unwrap_or_default();
            self.file.read_exact_at(room, offset).map_err(|source| self.failed("reading back", offset, source))?;
            hash.update(room);
            offset += wanted as u64;
        }
        Ok(hash.finish().as_ref().to_vec())
    }

    fn failed(&self, action: &'static str, offset: u64, source: io::Error) -> ImageError {
        ImageError::Device { action, path: self.path.clone(), offset, source }
    }
}

/// A full piece, or what is left.
fn read_piece(input: &mut impl Read, length: usize, path: &Path) -> Result<Vec<u8>, Stop> {
    let mut piece = Vec::with_capacity(length);
    match input.by_ref().take(length as u64).read_to_end(&mut piece) {
        Ok(_) => Ok(piece),
        Err(err) if is_gone(&err) => Err(Stop::Gone),
        Err(source) => {
            Err(ImageError::Device { action: "reading the image for", path: path.to_owned(), offset: 0, source }.into())
        }
    }
}
