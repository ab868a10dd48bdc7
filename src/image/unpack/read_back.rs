//! What was written is read back from the disk and compared with what the archive said: a sample of the files, or all.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::{FileStat, fstat};
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::records::Records;
use super::sample::{Sample, Slot};
use super::tree::Tree;
use crate::image::error::ImageError;

/// Of a longer file in the sample, one window of this length at a random place.
const WINDOW_BYTES: u64 = 4 << 20;
const PIECE_BYTES: usize = 128 << 10;
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// Files on this disk have equal numbers only if they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// A file, or a part of it, as it should read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) path: Vec<u8>,
    pub(super) identity: Identity,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) sha256: [u8; SHA256_OUTPUT_LEN],
}

/// Remembers what was written.
pub(super) struct ReadBack {
    kept: Kept,
    /// A link was replaced: the path of a file may lead elsewhere now.
    paths_moved: bool,
}

enum Kept {
    Sample(Sample),
    All(Records),
}

/// A file being written that will be read back.
pub(super) struct Watch {
    slot: Option<Slot>,
    start: u64,
    end: u64,
    /// Bytes before this are hashed; holes are hashed as the zeros that they read as.
    position: u64,
    hash: Context,
}

impl ReadBack {
    pub(super) fn of_a_sample() -> Self {
        Self { kept: Kept::Sample(Sample::new()), paths_moved: false }
    }

    /// What all files should be is kept on the disk itself, in a file without a name.
    pub(super) fn of_all(root: impl AsFd) -> Result<Self, Errno> {
        Ok(Self { kept: Kept::All(Records::new(root)?), paths_moved: false })
    }

    /// Whether the next file is to be watched.
    pub(super) fn draw(&mut self, size: u64) -> Option<Watch> {
        let watch = |slot, start, end| Watch { slot, start, end, position: start, hash: Context::new(&SHA256) };
        match &mut self.kept {
            Kept::All(_) => Some(watch(None, 0, size)),
            Kept::Sample(sample) => {
                let slot = sample.draw()?;
                let start = sample.below(size.saturating_sub(WINDOW_BYTES).saturating_add(1));
                Some(watch(Some(slot), start, size.min(start.saturating_add(WINDOW_BYTES))))
            }
        }
    }

    /// The watched file is complete.
    pub(super) fn keep(&mut self, watch: Watch, path: &[u8], stat: &FileStat) -> std::io::Result<()> {
        let identity = Identity { device: stat.st_dev, inode: stat.st_ino };
        let (offset, bytes) = (watch.start, watch.end - watch.start);
        let (slot, sha256) = watch.finish();
        let written = Written { path: path.to_vec(), identity, offset, bytes, sha256 };
        match (&mut self.kept, slot) {
            (Kept::Sample(sample), Some(slot)) => sample.keep(slot, written),
            (Kept::All(records), _) => records.keep(&written)?,
            (Kept::Sample(_), None) => {}
        }
        Ok(())
    }

    /// A file is removed to make room for another; its inode's number may come again at once.
    pub(super) fn forget(&mut self, device: u64, inode: u64) {
        let gone = Identity { device, inode };
        match &mut self.kept {
            Kept::Sample(sample) => sample.forget(gone),
            Kept::All(records) => records.forget(gone),
        }
    }

    /// A link is removed, through which files may have been written.
    pub(super) fn forget_link(&mut self) {
        self.paths_moved = true;
    }

    /// Reads all back from the disk. Must come after a sync: only clean pages leave the cache. Returns the number
    /// of files compared.
    pub(super) fn verify(&mut self, tree: &Tree) -> Result<u64, ImageError> {
        let paths_moved = self.paths_moved;
        let mut compared = 0;
        let mut verify = |written: &Written| {
            compared += u64::from(verify_one(written, tree, paths_moved)?);
            Ok(())
        };
        match &mut self.kept {
            Kept::Sample(sample) => sample.kept().try_for_each(&mut verify)?,
            Kept::All(records) => records.for_each(&mut verify)?,
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

    fn finish(mut self) -> (Option<Slot>, [u8; SHA256_OUTPUT_LEN]) {
        self.hash_zeros_to(self.end);
        (self.slot, sha256(self.hash))
    }

    fn hash_zeros_to(&mut self, offset: u64) {
        while self.position < offset {
            let count = (offset - self.position).min(PIECE_BYTES as u64);
            self.hash.update(usize::try_from(count).ok().and_then(|count| ZEROS.get(..count)).unwrap_or(&ZEROS));
            self.position += count;
        }
    }
}

/// False if the path may lead to another file than the one written.
fn verify_one(written: &Written, tree: &Tree, paths_moved: bool) -> Result<bool, ImageError> {
    let path = String::from_utf8_lossy(&written.path).into_owned();
    let failed = |source| ImageError::Write {
        action: "reading back",
        path: path.clone(),
        offset: written.offset,
        written: written.bytes,
        source,
    };
    let wrong = |found| ImageError::ReadBack {
        path: path.clone(),
        expected: format!("sha256:{}", hex::encode(written.sha256)),
        found,
    };
    let fd = match tree.lookup(&written.path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK) {
        Ok(fd) => fd,
        Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) if paths_moved => return Ok(false),
        Err(err @ (Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR)) => return Err(wrong(err.desc().to_owned())),
        Err(err) => return Err(failed(err.into())),
    };
    let stat = fstat(&fd).map_err(|err| failed(err.into()))?;
    if (Identity { device: stat.st_dev, inode: stat.st_ino }) != written.identity {
        return if paths_moved { Ok(false) } else { Err(wrong("another file".to_owned())) };
    }
    let found = read_again(fd, written.offset, written.bytes).map_err(failed)?;
    if found == written.sha256 {
        return Ok(true);
    }
    Err(wrong(format!("sha256:{} over {} bytes from {}", hex::encode(found), written.bytes, written.offset)))
}

/// SHA-256 of a range, from the disk; a file that ends inside it gives that of the part there is.
fn read_again(file: OwnedFd, mut offset: u64, mut bytes: u64) -> std::io::Result<[u8; SHA256_OUTPUT_LEN]> {
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let file = File::from(file);
    let mut hash = Context::new(&SHA256);
    let mut piece = vec![0; usize::try_from(bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
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
    Ok(sha256(hash))
}

fn sha256(hash: Context) -> [u8; SHA256_OUTPUT_LEN] {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(hash.finish().as_ref());
    bytes
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

    /// Both kinds, with one file written in pieces.
    fn kept(root: &std::path::Path, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> [ReadBack; 2] {
        let of_all = ReadBack::of_all(File::open(root).unwrap()).unwrap();
        [ReadBack::of_a_sample(), of_all].map(|mut read_back| {
            let mut watch = read_back.draw(size).unwrap();
            pieces.iter().for_each(|(offset, bytes)| watch.wrote(*offset, bytes));
            let stat = fstat(File::open(root.join(name)).unwrap()).unwrap();
            read_back.keep(watch, name.as_bytes(), &stat).unwrap();
            read_back
        })
    }

    #[test]
    fn holes_read_back_as_zeros() {
        let content = [&[0; 100][..], b"abc", &[0; 200], b"de", &[0; 50]].concat();
        let (root, tree) = tree_with("a", &content);
        for mut read_back in kept(root.path(), "a", content.len() as u64, &[(100, b"abc"), (303, b"de")]) {
            assert_eq!(read_back.verify(&tree).unwrap(), 1);
        }
    }

    #[test]
    fn one_wrong_byte_is_found() {
        let (root, tree) = tree_with("a", b"abd");
        for mut read_back in kept(root.path(), "a", 3, &[(0, b"abc")]) {
            assert!(matches!(read_back.verify(&tree), Err(ImageError::ReadBack { .. })));
        }
    }

    #[test]
    fn a_file_cut_short_is_found() {
        let (root, tree) = tree_with("a", b"ab");
        for mut read_back in kept(root.path(), "a", 3, &[(0, b"abc")]) {
            assert!(matches!(read_back.verify(&tree), Err(ImageError::ReadBack { .. })));
        }
    }

    #[test]
    fn a_file_that_is_gone_is_found() {
        let (root, tree) = tree_with("a", b"abc");
        for mut read_back in kept(root.path(), "a", 3, &[(0, b"abc")]) {
            let _ = std::fs::remove_file(root.path().join("a"));
            let err = read_back.verify(&tree).unwrap_err();
            assert!(
                matches!(&err, ImageError::ReadBack { found, .. } if found == "No such file or directory"),
                "{err}"
            );
            read_back.forget_link();
            assert_eq!(read_back.verify(&tree).unwrap(), 0, "its path may lead elsewhere");
        }
    }

    #[test]
    fn a_file_replaced_later_is_not_compared() {
        let (root, tree) = tree_with("a", b"abc");
        for mut read_back in kept(root.path(), "a", 3, &[(0, b"abc")]) {
            std::fs::write(root.path().join("a"), b"xyz").unwrap();
            let stat = fstat(File::open(root.path().join("a")).unwrap()).unwrap();
            read_back.forget(stat.st_dev, stat.st_ino);
            let mut watch = read_back.draw(3).unwrap();
            watch.wrote(0, b"xyz");
            read_back.keep(watch, b"a", &stat).unwrap();
            assert_eq!(read_back.verify(&tree).unwrap(), 1, "the same number, and another file");
            std::fs::write(root.path().join("a"), b"abc").unwrap();
        }
    }

    #[test]
    fn long_files_are_watched_through_a_window_or_as_a_whole() {
        let size = 3 * WINDOW_BYTES;
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let (root, tree) = tree_with("a", &content);
        let pieces: Vec<(u64, &[u8])> = content
            .chunks(100_000)
            .scan(0, |at, piece| Some((std::mem::replace(at, *at + piece.len() as u64), piece)))
            .collect();
        for (mut read_back, expected) in kept(root.path(), "a", size, &pieces).into_iter().zip([WINDOW_BYTES, size]) {
            let mut lengths = Vec::new();
            match &mut read_back.kept {
                Kept::Sample(sample) => lengths.extend(sample.kept().map(|written| written.bytes)),
                Kept::All(records) => records
                    .for_each(&mut |written| {
                        lengths.push(written.bytes);
                        Ok(())
                    })
                    .unwrap(),
            }
            assert_eq!(lengths, [expected]);
            assert_eq!(read_back.verify(&tree).unwrap(), 1);
        }
    }
}
