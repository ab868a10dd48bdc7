//! The archive in memory, and its cpio form (`newc`, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use cpio::newc::{self, Builder};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Directory { mode: u32 },
    File { mode: u32, data: Vec<u8> },
    Link { target: String },
    CharacterDevice { mode: u32, major: u32, minor: u32 },
}

/// Paths without a leading `/`, in the order they are written: a directory before what is in it.
#[derive(Debug, Default)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

/// Where programs and libraries of old are looked for, and where they are (as on the machine they come from).
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Mount points and places that programs expect.
const EMPTY: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
];

/// `path` as it is kept: without leading `/`, with `/bin` and the like as the links they are.
pub fn clean_path(path: &str) -> String {
    let path = path.trim_start_matches('/');
    match path.split_once('/') {
        Some((first, _)) if MERGED.contains(&first) => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

impl Archive {
    /// With the directories every system has, and the two devices that are needed before /dev is mounted.
    pub fn with_directories() -> Self {
        let mut archive = Self::default();
        for (path, mode) in EMPTY {
            archive.nodes.insert(path.to_owned(), Node::Directory { mode });
        }
        for path in MERGED {
            archive.nodes.insert(path.to_owned(), Node::Link { target: format!("usr/{path}") });
            archive.add_parents(&format!("usr/{path}/x"));
        }
        for (path, mode, minor) in [("dev/console", 0o600, (5, 1)), ("dev/null", 0o666, (1, 3))] {
            let node = Node::CharacterDevice { mode, major: minor.0, minor: minor.1 };
            archive.nodes.insert(path.to_owned(), node);
        }
        archive
    }

    pub fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(&clean_path(path))
    }

    /// Adding the same file twice is fine (two programs share a library); another file under its name is not.
    pub fn add_file(&mut self, path: &str, mode: u32, data: Vec<u8>) -> Result<()> {
        self.add(path, Node::File { mode, data })
    }

    pub fn add_link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, Node::Link { target: target.to_owned() })
    }

    fn add(&mut self, path: &str, node: Node) -> Result<()> {
        let path = clean_path(path);
        match self.nodes.get(&path) {
            Some(known) if *known == node => Ok(()),
            Some(_) => bail!("/{path} is in the archive already, as something else"),
            None => {
                self.add_parents(&path);
                self.nodes.insert(path, node);
                Ok(())
            }
        }
    }

    fn add_parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.nodes.entry(path[..end].to_owned()).or_insert(Node::Directory { mode: 0o755 });
        }
    }

    /// Bytes of all files.
    pub fn content_bytes(&self) -> usize {
        self.nodes.values().map(|node| if let Node::File { data, .. } = node { data.len() } else { 0 }).sum()
    }

    /// The cpio archive; `mtime` is the time of everything in it.
    pub fn to_bytes(&self, mtime: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.content_bytes() + 512 * self.nodes.len());
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            let header = Builder::new(path).ino(inode).mtime(mtime).uid(0).gid(0);
            write_node(&mut bytes, header, node).with_context(|| format!("writing /{path}"))?;
        }
        newc::trailer(&mut bytes).context("writing the archive's end")?;
        // The kernel wants no padding; other readers are used to whole blocks.
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        Ok(bytes)
    }
}

fn write_node(bytes: &mut Vec<u8>, header: Builder, node: &Node) -> Result<()> {
    let (header, data): (Builder, &[u8]) = match node {
        Node::Directory { mode } => (header.mode(DIRECTORY | mode).nlink(2), &[]),
        Node::File { mode, data } => (header.mode(FILE | mode), data),
        Node::Link { target } => (header.mode(LINK | 0o777), target.as_bytes()),
        Node::CharacterDevice { mode, major, minor } => {
            (header.mode(CHARACTER_DEVICE | mode).rdev_major(*major).rdev_minor(*minor), &[])
        }
    };
    let size = u32::try_from(data.len()).context("cpio's newc form has no files above 4 GiB")?;
    let mut writer = header.write(bytes, size);
    std::io::Write::write_all(&mut writer, data)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_places_are_links_into_usr() {
        assert_eq!(clean_path("/sbin/mke2fs"), "usr/sbin/mke2fs");
        assert_eq!(clean_path("/usr/sbin/mke2fs"), "usr/sbin/mke2fs");
        assert_eq!(clean_path("/etc/mke2fs.conf"), "etc/mke2fs.conf");
        assert_eq!(clean_path("/init"), "init");
    }

    #[test]
    fn a_second_file_under_the_same_name_is_refused_unless_it_is_the_same() {
        let mut archive = Archive::with_directories();
        archive.add_file("/lib/a", 0o644, vec![1]).unwrap();
        archive.add_file("/usr/lib/a", 0o644, vec![1]).unwrap();
        let error = archive.add_file("/lib/a", 0o644, vec![2]).unwrap_err();
        assert_eq!(error.to_string(), "/usr/lib/a is in the archive already, as something else");
    }
}
