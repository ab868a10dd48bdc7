//! Raw disk images, written so that a disk with half an image, or a wrong one, does not boot: the first MiB is
//! cleared before anything else and written after everything else, when the digest holds and the rest has been read back.
//!
//! Past the page cache, which a machine with little memory needs for itself. Runs of zeros are not sent; the device is
//! told to read as zeros there. Nothing behind the image is touched, unless it is to be grown to the whole disk.
//!
//! What is about disks (claiming one, tables, partitions of the kernel, mounts) is [`crate::disk`]'s.

mod filesystem;
mod gpt;
mod grow;
mod relay;
mod stale;
mod target;
mod zeros;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256, digest};

use self::gpt::{Growth, TableFault};
use self::relay::relay;
use self::target::Target;
use self::zeros::Writer;
use super::error::ImageError;
use super::fetch::Stop;
use super::fill::fill;
use super::pipeline::Sink;
use super::queue::{QueueReader, is_gone};
use super::report::Counters;

/// Partition table and boot code.
const HEAD_BYTES: usize = 1 << 20;

/// Writes a raw image to a device or file.
pub(super) struct RawWriter {
    target: PathBuf,
    grow: bool,
    counters: Arc<Counters>,
    written: Option<Written>,
}

impl RawWriter {
    pub(super) fn new(target: &Path, grow: bool, counters: &Arc<Counters>) -> Self {
        Self { target: target.to_owned(), grow, counters: Arc::clone(counters), written: None }
    }
}

impl Sink for RawWriter {
    fn write(&mut self, _: &str, input: &mut QueueReader) -> Result<(), Stop> {
        self.written = Some(write(input, &self.target, self.grow, &self.counters)?);
        Ok(())
    }

    fn settle(self) -> Result<u64, ImageError> {
        self.written.map_or(Err(ImageError::StageDied { stage: "write" }), Written::finish)
    }

    /// Nothing is in the way of writing all again, but our own hold on the device.
    fn start_over(&mut self, _: ImageError) -> Result<(), ImageError> {
        self.written = None;
        Ok(())
    }
}

/// Written but for its head.
struct Written {
    target: Target,
    head: Vec<u8>,
    /// Of all, head first.
    sha256: Vec<u8>,
    bytes: u64,
    growth: Option<Growth>,
    counters: Arc<Counters>,
}

/// Writes all but the head of the image in `input`. Nothing is written before the image's table has been looked at.
fn write(input: &mut impl Read, path: &Path, grow: bool, counters: &Arc<Counters>) -> Result<Written, Stop> {
    let target = Target::open(path)?;
    let mut head = vec![0; HEAD_BYTES];
    let length = fill_from(input, &mut head, path)?;
    head.truncate(length);
    if head.is_empty() {
        return Err(target.unfit("the image is empty".to_owned()).into());
    }
    target.check_room(head.len() as u64)?;
    let growth = judge(&target, &head, grow, counters)?;
    target.clear(head.len())?;
    let mut hash = Context::new(&SHA256);
    hash.update(&head);
    let mut offset = head.len() as u64;
    Counters::add(&counters.bytes_out, offset);
    let mut writer = Writer::new(&target, counters);
    relay(
        |piece| {
            piece.offset = offset;
            piece.length = fill_from(input, piece.buffer.as_mut_slice(), path)?;
            offset += piece.length as u64;
            target.check_room(offset)?;
            hash.update(piece.bytes());
            Ok::<bool, Stop>(piece.length > 0)
        },
        |piece| Ok(writer.write(piece.bytes(), piece.offset)?),
    )?;
    writer.finish()?;
    let sha256 = hash.finish().as_ref().to_vec();
    Ok(Written { target, head, sha256, bytes: offset, growth, counters: Arc::clone(counters) })
}

/// What the image's table says about the device: that it does not fit, or how it can grow.
fn judge(target: &Target, head: &[u8], grow: bool, counters: &Counters) -> Result<Option<Growth>, ImageError> {
    let (capacity, sector_bytes) = match (target.capacity(), target.sector_bytes()) {
        (Some(capacity), Some(sector_bytes)) => (capacity, sector_bytes),
        _ if grow => return Err(target.unfit("it is a file, and only disks have an end to grow to".to_owned())),
        _ => return Ok(None),
    };
    let table = gpt::parse_head(head, sector_bytes);
    if let Ok(table) = &table
        && table.disk_bytes() > capacity
    {
        let (device, image) = (target.path().to_owned(), table.disk_bytes());
        return Err(ImageError::TooBig { device, capacity, image });
    }
    let unfit = |fault: TableFault| target.unfit(format!("the image can't grow: {fault}"));
    match table {
        Ok(table) if grow => {
            target.check_is_disk()?;
            let growth = table.plan_growth(head, capacity / u64::from(sector_bytes)).map_err(unfit)?;
            Ok(Some(growth))
        }
        Err(fault) if grow => Err(unfit(fault)),
        Err(fault @ TableFault::OtherSectors { .. }) => {
            counters.warn(format!("the image will not be understood on {}: {fault}", target.path().display()));
            Ok(None)
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

impl Written {
    /// Brings the body to the disk and reads it back, then the head, and grows what is to grow. Returns the bytes
    /// compared. A disk that does not give back what was written has no head.
    fn finish(self) -> Result<u64, ImageError> {
        let Self { target, head, sha256, bytes, growth, counters } = self;
        target.sync()?;
        let body = hash_range(&target, Some(&head), head.len() as u64, bytes)?;
        compare(&target, &sha256, &body, bytes)?;
        target.write(&head, 0)?;
        if let Err(err) = check_head(&target, &head) {
            // the reason comes before whatever this one may be
            let _ = target.clear(head.len());
            return Err(err);
        }
        match growth {
            Some(growth) => grow::apply(target, &growth, &counters)?,
            None => stale::warn(&target, bytes, &counters),
        }
        Ok(bytes)
    }
}

fn check_head(target: &Target, head: &[u8]) -> Result<(), ImageError> {
    target.sync()?;
    let wanted = digest(&SHA256, head);
    let found = hash_range(target, None, 0, head.len() as u64)?;
    compare(target, wanted.as_ref(), &found, head.len() as u64)
}

fn compare(target: &Target, expected: &[u8], found: &[u8], bytes: u64) -> Result<(), ImageError> {
    if expected == found {
        return Ok(());
    }
    Err(ImageError::ReadBack {
        path: target.path().display().to_string(),
        expected: format!("sha256:{}", hex::encode(expected)),
        found: format!("sha256:{} over {bytes} bytes", hex::encode(found)),
    })
}

/// SHA-256 of what comes before, if anything, and of a range that is read from the disk and not from memory.
fn hash_range(target: &Target, before: Option<&[u8]>, start: u64, end: u64) -> Result<Vec<u8>, ImageError> {
    target.forget_cached()?;
    let mut hash = Context::new(&SHA256);
    hash.update(before.unwrap_or_default());
    let mut offset = start;
    relay(
        |piece| {
            piece.offset = offset;
            piece.length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(piece.buffer.as_slice().len());
            offset += piece.length as u64;
            target.read(piece)?;
            Ok::<bool, ImageError>(piece.length > 0)
        },
        |piece| {
            hash.update(piece.bytes());
            Ok(())
        },
    )?;
    Ok(hash.finish().as_ref().to_vec())
}

/// Fills `room`, or takes what is left of the image. Returns the bytes.
fn fill_from(input: &mut impl Read, room: &mut [u8], path: &Path) -> Result<usize, Stop> {
    fill(input, room).map_err(|source| match is_gone(&source) {
        true => Stop::Gone,
        false => {
            ImageError::Device { action: "reading the image for", path: path.to_owned(), offset: 0, source }.into()
        }
    })
}
