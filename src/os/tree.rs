//! The installed system as a tree of files: every path is taken inside its root, whatever links the image holds.
//!
//! An image may have `/etc/resolv.conf -> /run/systemd/resolve/stub-resolv.conf`. Followed from outside, an absolute link
//! ends in the agent's own file system; so all access goes through `openat2` with `RESOLVE_IN_ROOT` (Linux 5.6).

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// An installed system's root directory, held open.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    root: OwnedFd,
}

impl Tree {
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.canonicalize().with_context(|| format!("looking up {}", root.display()))?;
        let root = open(&path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { path, root })
    }

    /// Where the root is in the agent's own file system, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file for reading; `None` when there is no such file.
    pub fn file(&self, path: &str) -> Result<Option<File>> {
        let fd = self.resolve(path, OFlag::O_RDONLY).with_context(|| format!("opening {path} of the image"))?;
        Ok(fd.map(File::from))
    }

    /// The content of a file; `None` when there is no such file.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(mut file) = self.file(path)? else { return Ok(None) };
        let mut content = Vec::new();
        file.read_to_end(&mut content).with_context(|| format!("reading {path} of the image"))?;
        Ok(Some(content))
    }

    /// As [`Self::read`], as text; bytes that are not UTF-8 are replaced.
    pub fn read_text(&self, path: &str) -> Result<Option<String>> {
        Ok(self.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether `path` leads to anything, links followed.
    pub fn exists(&self, path: &str) -> bool {
        matches!(self.resolve(path, OFlag::O_PATH), Ok(Some(_)))
    }

    /// Names in a directory, sorted; none when there is no such directory.
    pub fn names(&self, dir: &str) -> Result<Vec<String>> {
        let context = || format!("listing {dir} of the image");
        let Some(fd) = self.resolve(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY).with_context(context)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in Dir::from_fd(fd).with_context(context)?.iter() {
            let name = entry.with_context(context)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Puts a new file in place of whatever `path` was, a link too; owned by root, `mode` whatever the umask is.
    /// Directories that are missing on the way are made.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        self.create(path, content.as_ref(), mode, (0, 0)).with_context(|| format!("writing {path} of the image"))
    }

    /// As [`Self::write`], for another owner than root.
    pub fn write_owned(&self, path: &str, content: impl AsRef<[u8]>, mode: u32, owner: (u32, u32)) -> Result<()> {
        self.create(path, content.as_ref(), mode, owner).with_context(|| format!("writing {path} of the image"))
    }

    /// Replaces the content of an existing file; mode and owner stay.
    pub fn rewrite(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let Some(file) = self.file(path)? else { bail!("image has no {path}") };
        let meta = file.metadata().with_context(|| format!("looking at {path} of the image"))?;
        self.write_owned(path, content, meta.mode() & 0o7777, (meta.uid(), meta.gid()))
    }

    /// Removes a file or link; false when there was none.
    pub fn remove(&self, path: &str) -> Result<bool> {
        let (dir, name) = split(path)?;
        let context = || format!("removing {path} of the image");
        let Some(dir) = self.resolve(dir, OFlag::O_PATH | OFlag::O_DIRECTORY).with_context(context)? else {
            return Ok(false);
        };
        match unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error).with_context(context),
        }
    }

    /// Opens a directory, making it and those above it (0755) if they are missing.
    pub fn make_dir(&self, path: &str) -> Result<OwnedFd> {
        let context = || format!("making directory {path} of the image");
        let mut done = String::new();
        let mut dir = self.root.try_clone().with_context(context)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            done = format!("{done}/{name}");
            let wanted = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            dir = match self.resolve(&done, wanted).with_context(context)? {
                Some(found) => found,
                None => {
                    mkdirat(&dir, name, Mode::from_bits_truncate(0o755)).with_context(context)?;
                    let made = self.resolve(&done, wanted).with_context(context)?;
                    made.with_context(|| format!("{done} vanished from the image"))?
                }
            };
        }
        Ok(dir)
    }

    /// Makes a directory, if it is missing, and sets its mode and owner.
    pub fn make_dir_owned(&self, path: &str, mode: u32, owner: (u32, u32)) -> Result<()> {
        let dir = File::from(self.make_dir(path)?);
        let context = || format!("setting owner and mode of {path} of the image");
        fchown(&dir, Some(owner.0), Some(owner.1)).with_context(context)?;
        dir.set_permissions(Permissions::from_mode(mode)).with_context(context)
    }

    fn create(&self, path: &str, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<()> {
        let (dir, name) = split(path)?;
        let dir = self.make_dir(dir)?;
        match unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error).context("removing what was there"),
        }
        // Closed to others until it has its mode: some of the content is secret.
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
        let how = how(flags).mode(Mode::from_bits_truncate(0o600));
        let mut file = File::from(openat2(&dir, name, how)?);
        file.write_all(content)?;
        fchown(&file, Some(owner.0), Some(owner.1))?;
        Ok(file.set_permissions(Permissions::from_mode(mode))?)
    }

    fn resolve(&self, path: &str, flags: OFlag) -> Result<Option<OwnedFd>, Errno> {
        let path = if path.is_empty() { "/" } else { path };
        match openat2(self.root.as_fd(), path, how(flags)) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the image has one of systemd's programs.
pub(super) fn has_systemd(tree: &Tree, name: &str) -> bool {
    ["/usr/lib/systemd", "/lib/systemd"].iter().any(|dir| tree.exists(&format!("{dir}/{name}")))
}

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT)
}

/// `/etc/hostname` is `hostname` in `/etc`.
fn split(path: &str) -> Result<(&str, &str)> {
    match path.rsplit_once('/') {
        Some((dir, name)) if !name.is_empty() && name != "." && name != ".." => Ok((dir, name)),
        Some(_) | None => bail!("{path} is not the absolute path of a file"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn absolute_links_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "agent's own").unwrap();
        symlink(outside.path(), dir.path().join("etc")).unwrap();
        symlink("/../../../../proc/version", dir.path().join("up")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();

        assert_eq!(tree.read("/etc/secret").unwrap(), None);
        assert_eq!(tree.read("/up").unwrap(), None);
        assert!(tree.write("/etc/secret", "x", 0o644).is_err(), "a dangling link on the way is not made good");
        assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "agent's own");
    }

    #[test]
    fn a_link_is_replaced_and_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target"), "old").unwrap();
        symlink("target", dir.path().join("link")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();

        tree.write("/link", "new", 0o640).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("target")).unwrap(), "old");
        let meta = std::fs::symlink_metadata(dir.path().join("link")).unwrap();
        assert!(meta.is_file());
        assert_eq!(meta.mode() & 0o7777, 0o640);
    }

    #[test]
    fn missing_directories_are_made_and_a_rewrite_keeps_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        tree.write("/a/b/c", "1", 0o604).unwrap();
        tree.rewrite("/a/b/c", "2").unwrap();
        assert_eq!(tree.read_text("/a/b/c").unwrap().as_deref(), Some("2"));
        assert_eq!(std::fs::metadata(dir.path().join("a/b/c")).unwrap().mode() & 0o7777, 0o604);
        assert_eq!(tree.names("/a").unwrap(), ["b"]);
        assert!(tree.remove("/a/b/c").unwrap());
        assert!(!tree.remove("/a/b/c").unwrap());
    }
}
