//! The tree being written. Nothing outside it can be reached from here.
//!
//! A directory is only ever opened by `openat2` with `RESOLVE_IN_ROOT`, so that the kernel itself reads absolute
//! links and `..` in links as if the target were `/`. Everything else is done to a single name in a directory so
//! opened, without following it. Source: openat2(2), since Linux 5.6.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};

use super::read_back::Identity;

/// Directories kept open. Archives come directory by directory, so few are enough.
const CACHE_MAX: usize = 128;
/// The kernel asks for another try when a rename went on beside a lookup.
const AGAIN_MAX: usize = 16;

/// A directory inside the tree, to name files in.
pub(super) struct Dir {
    fd: OwnedFd,
    /// `st_dev`: tells file systems apart.
    pub(super) device: u64,
    /// `st_ino`: tells directories of one file system apart.
    pub(super) inode: u64,
}

impl Dir {
    /// Tells directories apart.
    pub(super) fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.inode }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) struct Tree {
    root: Arc<Dir>,
    /// By path, with the time of last use.
    open: HashMap<Vec<u8>, (Arc<Dir>, u64)>,
    uses: u64,
    /// One directory of each file system that was written to.
    devices: HashMap<u64, Arc<Dir>>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self, Errno> {
        let fd = nix::fcntl::open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let root = Arc::new(dir(fd)?);
        let devices = HashMap::from([(root.device, Arc::clone(&root))]);
        Ok(Self { root, open: HashMap::new(), uses: 0, devices })
    }

    pub(super) fn root_device(&self) -> u64 {
        self.root.device
    }

    /// One directory of each file system that was written to.
    pub(super) fn devices(&self) -> impl Iterator<Item = &Dir> {
        self.devices.values().map(Arc::as_ref)
    }

    /// Something was written to that file system.
    pub(super) fn is_written(&self, device: u64) -> bool {
        self.devices.contains_key(&device)
    }

    /// The directory of these names, if it is there.
    pub(super) fn existing(&self, names: &[&[u8]]) -> Result<Option<Dir>, Errno> {
        match self.lookup(&names.join(&b'/'), OFlag::O_PATH) {
            Ok(found) => dir(found).map(Some),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// The directory of these names, made if it is not there.
    pub(super) fn directory(&mut self, names: &[&[u8]]) -> Result<Arc<Dir>, Errno> {
        if names.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let path = names.join(&b'/');
        self.uses += 1;
        if let Some((dir, used)) = self.open.get_mut(&path) {
            *used = self.uses;
            return Ok(Arc::clone(dir));
        }
        let found = match self.lookup(&path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => self.make(names)?,
            found => found?,
        };
        let dir = Arc::new(dir(found)?);
        self.devices.entry(dir.device).or_insert_with(|| Arc::clone(&dir));
        self.remember(path, &dir);
        Ok(dir)
    }

    /// An existing directory or file, links followed inside the tree.
    pub(super) fn lookup(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        // openat2 refuses flags that mean nothing together
        let more = if flags.contains(OFlag::O_PATH) { OFlag::O_DIRECTORY } else { OFlag::O_NOCTTY };
        let how = OpenHow::new()
            .flags(flags | more | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.is_empty() { b".".as_slice() } else { path };
        let mut tries = 0;
        loop {
            match openat2(&self.root.fd, path, how) {
                Err(Errno::EAGAIN) if tries < AGAIN_MAX => tries += 1,
                opened => return opened,
            }
        }
    }

    /// Something that was no plain file is gone: directories reached through it may be others now.
    pub(super) fn forget_directories(&mut self) {
        self.open.clear();
    }

    /// Makes what is missing of these directories, from the top down.
    fn make(&self, names: &[&[u8]]) -> Result<OwnedFd, Errno> {
        let mut parent = self.lookup(b"", OFlag::O_PATH)?;
        for (depth, name) in names.iter().enumerate() {
            let path = names.get(..=depth).unwrap_or_default().join(&b'/');
            parent = match self.lookup(&path, OFlag::O_PATH) {
                Err(Errno::ENOENT) => {
                    // a link that leads nowhere is there all the same: EEXIST
                    mkdirat(&parent, OsStr::from_bytes(name), Mode::from_bits_truncate(0o755))?;
                    self.lookup(&path, OFlag::O_PATH)?
                }
                found => found?,
            };
        }
        Ok(parent)
    }

    fn remember(&mut self, path: Vec<u8>, dir: &Arc<Dir>) {
        if self.open.len() >= CACHE_MAX {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone());
            oldest.and_then(|path| self.open.remove(&path));
        }
        self.open.insert(path, (Arc::clone(dir), self.uses));
    }
}

/// The directory itself, for what an `O_PATH` descriptor can't do.
pub(super) fn reopen(dir: impl AsFd) -> Result<OwnedFd, Errno> {
    openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// A file system, for people.
pub(super) fn file_system_name(device: u64) -> String {
    format!("file system {}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

pub(super) fn dir(fd: OwnedFd) -> Result<Dir, Errno> {
    let stat = fstat(&fd)?;
    Ok(Dir { fd, device: stat.st_dev, inode: stat.st_ino })
}

/// The names of a path in an archive, from the root down; empty for the root itself.
///
/// Absolute paths count from the root of the tree. Refused, with the reason: `..`, which has no business in an
/// image, and NUL, which no file system takes.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.contains(&0) {
        return Err("name with a NUL byte");
    }
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.map(|name| if name == b".." { Err("name with ..") } else { Ok(name) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_count_from_the_root() {
        assert_eq!(components(b"/etc//./passwd").unwrap(), [b"etc".as_slice(), b"passwd"]);
        assert_eq!(components(b"./").unwrap(), [] as [&[u8]; 0]);
        assert_eq!(components(b"\xff/...").unwrap(), [b"\xff".as_slice(), b"..."]);
        assert!(components(b"a/../b").is_err());
        assert!(components(b"a\0b").is_err());
    }

    #[test]
    fn links_stay_inside_the_tree() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        std::fs::create_dir_all(root.join("inside")).unwrap();
        std::fs::create_dir(temp.path().join("inside")).unwrap();
        for (link, leads) in [("absolute", "/inside"), ("climbing", "../../../inside")] {
            std::os::unix::fs::symlink(leads, root.join(link)).unwrap();
        }
        let mut tree = Tree::open(&root).unwrap();
        for link in ["absolute", "climbing"] {
            tree.directory(&[link.as_bytes(), b"made"]).unwrap();
        }
        assert!(root.join("inside/made").is_dir());
        assert!(!temp.path().join("inside/made").exists());
    }

    #[test]
    fn a_link_that_leads_nowhere_is_no_directory() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        assert_eq!(tree.directory(&[b"link"]).err(), Some(Errno::EEXIST));
    }

    #[test]
    fn many_directories_need_few_descriptors() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        for n in 0..CACHE_MAX * 2 {
            tree.directory(&[b"d", n.to_string().as_bytes()]).unwrap();
        }
        assert_eq!(tree.open.len(), CACHE_MAX);
        assert!(root.path().join("d/0").is_dir());
    }
}
