//! What every file should be, for as many files as there are: kept in a file without a name on the target itself, as
//! memory is bounded and files are not.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::read_back::{Identity, Written};
use crate::image::error::ImageError;

/// Archives name few files twice. One that replaces more is not worth the memory.
const FORGOTTEN_MAX: usize = 1 << 15;
/// Device, inode, offset, length (8 bytes each), SHA-256, and the path's length (4 bytes).
const HEAD_BYTES: usize = 4 * 8 + 32 + 4;

pub(super) struct Records {
    file: BufWriter<File>,
    count: u64,
    /// Records before this one are of a file that is gone.
    forgotten: HashMap<Identity, u64>,
    /// More were forgotten than could be remembered.
    overflowed: bool,
}

impl Records {
    pub(super) fn new(root: impl AsFd) -> Result<Self, Errno> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let file = openat(root, ".", flags, Mode::from_bits_truncate(0o600))?;
        let file = BufWriter::with_capacity(64 << 10, File::from(file));
        Ok(Self { file, count: 0, forgotten: HashMap::new(), overflowed: false })
    }

    pub(super) fn keep(&mut self, written: &Written) -> io::Result<()> {
        let Written { path, identity, offset, bytes, sha256 } = written;
        for number in [identity.device, identity.inode, *offset, *bytes] {
            self.file.write_all(&number.to_le_bytes())?;
        }
        self.file.write_all(sha256)?;
        self.file.write_all(&u32::try_from(path.len()).unwrap_or(0).to_le_bytes())?;
        self.file.write_all(path)?;
        self.count += 1;
        Ok(())
    }

    pub(super) fn forget(&mut self, gone: Identity) {
        if self.forgotten.len() >= FORGOTTEN_MAX && !self.forgotten.contains_key(&gone) {
            self.overflowed = true;
            return;
        }
        self.forgotten.insert(gone, self.count);
    }

    /// All that still hold, in the order in which they were written.
    pub(super) fn for_each(
        &mut self,
        work: &mut dyn FnMut(&Written) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        if self.overflowed {
            let reason = format!(
                "the archive replaces more than {FORGOTTEN_MAX} of its own files, too many to verify all of them"
            );
            return Err(ImageError::UnfitTarget { path: "target".into(), reason });
        }
        let failed = |source| ImageError::Write {
            action: "reading back",
            path: "the list of all files, which lies on the target".to_owned(),
            offset: 0,
            written: 0,
            source,
        };
        self.file.flush().map_err(failed)?;
        self.file.get_mut().rewind().map_err(failed)?;
        let mut input = BufReader::with_capacity(64 << 10, self.file.get_ref());
        for number in 0..self.count {
            let written = read_record(&mut input).map_err(failed)?;
            if self.forgotten.get(&written.identity).is_none_or(|from| number >= *from) {
                work(&written)?;
            }
        }
        Ok(())
    }
}

fn read_record(input: &mut impl Read) -> io::Result<Written> {
    let mut head = [0; HEAD_BYTES];
    input.read_exact(&mut head)?;
    let (numbers, rest) = head.split_at(4 * 8);
    let (digest, length) = rest.split_at(32);
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest);
    let mut numbers = numbers.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
    let mut next = || numbers.next().unwrap_or_default();
    let identity = Identity { device: next(), inode: next() };
    let (offset, bytes) = (next(), next());
    let length = u32::from_le_bytes(length.try_into().unwrap_or_default());
    let mut path = Vec::new();
    input.by_ref().take(length.into()).read_to_end(&mut path)?;
    Ok(Written { path, identity, offset, bytes, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(inode: u64, path: &[u8]) -> Written {
        Written {
            path: path.to_vec(),
            identity: Identity { device: 7, inode },
            offset: 1,
            bytes: u64::MAX,
            sha256: [inode as u8; 32],
        }
    }

    fn all(records: &mut Records) -> Vec<Written> {
        let mut found = Vec::new();
        records
            .for_each(&mut |written| {
                found.push(written.clone());
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn what_is_kept_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let mut records = Records::new(File::open(root.path()).unwrap()).unwrap();
        let [one, two] = [written(1, b"one"), written(2, b"\xff")];
        records.keep(&one).unwrap();
        records.keep(&two).unwrap();
        assert_eq!(all(&mut records), [one, two]);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "it has no name");
    }

    #[test]
    fn a_number_that_comes_again_is_another_file() {
        let root = tempfile::tempdir().unwrap();
        let mut records = Records::new(File::open(root.path()).unwrap()).unwrap();
        let [one, two, three] = [written(1, b"one"), written(2, b"two"), written(1, b"again")];
        records.keep(&one).unwrap();
        records.keep(&two).unwrap();
        records.forget(one.identity);
        records.keep(&three).unwrap();
        assert_eq!(all(&mut records), [two, three]);
    }
}
