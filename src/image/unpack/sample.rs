//! A sample of the files written, to be read back from the disk.
//!
//! Reservoir sampling: of any number of files each has the same chance to be among the [`FILES`] kept, and only
//! files that enter the sample are hashed, about `FILES × ln(all / FILES)` of them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::{FileStat, fstat};
use ring::digest::{Context, SHA256};

use super::tree::Tree;
use crate::image::error::ImageError;

const FILES: usize = 64;
/// Of a longer file, one window of this length at a random place.
const WINDOW_BYTES: u64 = 4 << 20;
const PIECE_BYTES: usize = 128 << 10;

/// Files on this disk have equal numbers only if they are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

struct Sampled {
    path: Vec<u8>,
    identity: Identity,
    offset: u64,
    bytes: u64,
    sha256: Vec<u8>,
}

pub(super) struct Sample {
    /// By slot; free ones are not taken yet, or their file was removed.
    kept: Vec<Option<Sampled>>,
    seen: u64,
    random: SplitMix,
}

/// A file being written that will enter the sample.
pub(super) struct Watch {
    /// Its place, which it takes from another file.
    slot: usize,
    start: u64,
    end: u64,
    /// Bytes before this are hashed; holes are hashed as the zeros that they read as.
    position: u64,
    hash: Context,
}

impl Sample {
    pub(super) fn new() -> Self {
        // without a random source a fixed sample is still a sample
        Self { kept: (0..FILES).map(|_| None).collect(), seen: 0, random: SplitMix(getrandom::u64().unwrap_or(1)) }
    }

    /// Whether the next file is to be watched.
    pub(super) fn draw(&mut self, size: u64) -> Option<Watch> {
        let slot = match self.seen < FILES as u64 {
            true => self.seen,
            false => self.random.below(self.seen + 1),
        };
        self.seen += 1;
        let slot = usize::try_from(slot).ok().filter(|slot| *slot < FILES)?;
        let start = self.random.below(size.saturating_sub(WINDOW_BYTES).saturating_add(1));
        let end = size.min(start.saturating_add(WINDOW_BYTES));
        Some(Watch { slot, start, end, position: start, hash: Context::new(&SHA256) })
    }

    /// The watched file is complete.
    pub(super) fn keep(&mut self, watch: Watch, path: &[u8], stat: &FileStat) {
        let (slot, offset, bytes) = (watch.slot, watch.start, watch.end - watch.start);
        let identity = Identity { device: stat.st_dev, inode: stat.st_ino };
        let sampled = Sampled { path: path.to_vec(), identity, offset, bytes, sha256: watch.finish() };
        if let Some(place) = self.kept.get_mut(slot) {
            *place = Some(sampled);
        }
    }

    /// A file is removed to make room for another; its inode's number may come again at once.
    pub(super) fn forget(&mut self, device: u64, inode: u64) {
        let gone = Identity { device, inode };
        for slot in self.kept.iter_mut().filter(|slot| slot.as_ref().is_some_and(|kept| kept.identity == gone)) {
            *slot = None;
        }
    }

    /// Reads all back from the disk. Must come after a sync: only clean pages leave the cache. Returns the number
    /// of files compared.
    pub(super) fn verify(&self, tree: &Tree) -> Result<u64, ImageError> {
        let mut compared = 0;
        for sampled in self.kept.iter().flatten() {
            compared += u64::from(verify_one(sampled, tree)?);
        }
        Ok(compared)
    }
}

impl Watch {
    /// Bytes written at `offset`, which only grows.
    pub(super) fn wrote(&mut self, offset: u64, bytes: &[u8]) {
        let from = offset.max(self.position);
        let to = offset.saturating_add(bytes.len() as u64).min(self.end);
        if from >= to {
            return;
        }
        self.hash_zeros_to(from);
        let range = usize::try_from(from - offset).ok().zip(usize::try_from(to - offset).ok());
        self.hash.update(range.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default());
        self.position = to;
    }

    fn finish(mut self) -> Vec<u8> {
        self.hash_zeros_to(self.end);
        self.hash.finish().as_ref().to_vec()
    }

    fn hash_zeros_to(&mut self, offset: u64) {
        while self.position < offset {
            let count = (offset - self.position).min(PIECE_BYTES as u64);
            self.hash.update(&vec![0; usize::try_from(count).unwrap_or(PIECE_BYTES)]);
            self.position += count;
        }
    }
}

/// False if another file took the path's place later in the archive.
fn verify_one(sampled: &Sampled, tree: &Tree) -> Result<bool, ImageError> {
    let path = String::from_utf8_lossy(&sampled.path).into_owned();
    let failed = |source| ImageError::Write {
        action: "reading back",
        path: path.clone(),
        offset: sampled.offset,
        written: sampled.bytes,
        source,
    };
    let fd = match tree.lookup(&sampled.path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK) {
        Ok(fd) => fd,
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ELOOP | nix::errno::Errno::ENOTDIR) => return Ok(false),
        Err(err) => return Err(failed(err.into())),
    };
    let stat = fstat(&fd).map_err(|err| failed(err.into()))?;
    if (Identity { device: stat.st_dev, inode: stat.st_ino }) != sampled.identity {
        return Ok(false);
    }
    posix_fadvise(&fd, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(|err| failed(err.into()))?;
    let found = hash_range(&File::from(fd), sampled.offset, sampled.bytes).map_err(failed)?;
    if found == sampled.sha256 {
        return Ok(true);
    }
    Err(ImageError::ReadBack {
        path,
        expected: format!("sha256:{}", hex::encode(&sampled.sha256)),
        found: format!("sha256:{} over {} bytes from {}", hex::encode(found), sampled.bytes, sampled.offset),
    })
}

/// SHA-256 of a range; a file that ends inside it gives that of the part there is.
fn hash_range(file: &File, mut offset: u64, mut bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut hash = Context::new(&SHA256);
    let mut piece = vec![0; PIECE_BYTES];
    while bytes > 0 {
        let wanted = usize::try_from(bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let count = file.read_at(piece.get_mut(..wanted).unwrap_or_default(), offset)?;
        if count == 0 {
            break;
        }
        hash.update(piece.get(..count).unwrap_or_default());
        offset += count as u64;
        bytes -= count as u64;
    }
    Ok(hash.finish().as_ref().to_vec())
}

/// Steele, Lea and Flood's generator: small, and random enough to choose files.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree_with(name: &str, content: &[u8]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(name), content).unwrap();
        let tree = Tree::open(root.path()).unwrap();
        (root, tree)
    }

    fn sample_of(root: &std::path::Path, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> Sample {
        let mut sample = Sample::new();
        let mut watch = sample.draw(size).unwrap();
        pieces.iter().for_each(|(offset, bytes)| watch.wrote(*offset, bytes));
        sample.keep(watch, name.as_bytes(), &fstat(File::open(root.join(name)).unwrap()).unwrap());
        sample
    }

    #[test]
    fn holes_read_back_as_zeros() {
        let content = [&[0; 100][..], b"abc", &[0; 200], b"de", &[0; 50]].concat();
        let (root, tree) = tree_with("a", &content);
        let sample = sample_of(root.path(), "a", content.len() as u64, &[(100, b"abc"), (303, b"de")]);
        assert_eq!(sample.verify(&tree).unwrap(), 1);
    }

    #[test]
    fn one_wrong_byte_is_found() {
        let (root, tree) = tree_with("a", b"abd");
        let sample = sample_of(root.path(), "a", 3, &[(0, b"abc")]);
        assert!(matches!(sample.verify(&tree), Err(ImageError::ReadBack { .. })));
    }

    #[test]
    fn a_file_cut_short_is_found() {
        let (root, tree) = tree_with("a", b"ab");
        let sample = sample_of(root.path(), "a", 3, &[(0, b"abc")]);
        assert!(matches!(sample.verify(&tree), Err(ImageError::ReadBack { .. })));
    }

    #[test]
    fn a_file_replaced_later_is_not_compared() {
        let (root, tree) = tree_with("a", b"abc");
        let sample = sample_of(root.path(), "a", 3, &[(0, b"abc")]);
        std::fs::write(root.path().join("b"), b"other").unwrap();
        std::fs::rename(root.path().join("b"), root.path().join("a")).unwrap();
        assert_eq!(sample.verify(&tree).unwrap(), 0);
    }

    #[test]
    fn long_files_are_watched_through_a_window() {
        let size = 3 * WINDOW_BYTES;
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let (root, tree) = tree_with("a", &content);
        let pieces: Vec<(u64, &[u8])> = content
            .chunks(100_000)
            .scan(0, |at, piece| Some((std::mem::replace(at, *at + piece.len() as u64), piece)))
            .collect();
        let sample = sample_of(root.path(), "a", size, &pieces);
        assert_eq!(sample.kept[0].as_ref().unwrap().bytes, WINDOW_BYTES);
        assert_eq!(sample.verify(&tree).unwrap(), 1);
    }

    #[test]
    fn the_sample_stays_small() {
        let (root, _tree) = tree_with("a", b"");
        let stat = fstat(File::open(root.path().join("a")).unwrap()).unwrap();
        let mut sample = Sample::new();
        for _ in 0..10_000 {
            if let Some(watch) = sample.draw(0) {
                sample.keep(watch, b"a", &stat);
            }
        }
        assert_eq!(sample.kept.iter().flatten().count(), FILES);
    }
}
