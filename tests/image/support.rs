//! What the tests of the image engine share.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use drophammer::image::{DigestRule, ImageError, Options, Report, Retry, Source, Unobserved, unpack};
use drophammer::net::{Resolver, http_client};

/// Runs a program; panics with its words if it fails.
pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap_or_else(|err| panic!("{program}: {err}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Short pauses, so that failures are quick.
pub fn quick() -> Retry {
    Retry {
        tries: 4,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
        stall: Duration::from_millis(300),
    }
}

pub fn options(digest: DigestRule) -> Options {
    let http = http_client(Resolver::new(&[], &[]), None).expect("client");
    Options { http: Some(http), user_mode: false, retry: quick(), ..Options::new(digest) }
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime").block_on(work)
}

/// Unpacks a file without asking for a digest.
pub fn unpack_file(archive: &Path, target: &Path) -> Result<Report, ImageError> {
    let source = Source::File(archive.to_owned());
    block_on(unpack(&source, target, &options(DigestRule::AllowMissing), &Unobserved))
}

/// Everything about one file that an image must keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    size: u64,
    device: u64,
    links: u64,
    leads: Option<OsString>,
    /// SHA-256, as whole trees are compared.
    content: Option<Vec<u8>>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// The whole tree, by path below `root`, the root itself as the empty path.
pub fn facts(root: &Path) -> BTreeMap<OsString, Facts> {
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn walk(root: &Path, path: &Path, found: &mut BTreeMap<OsString, Facts>) {
    let stat = path.symlink_metadata().unwrap();
    let kind = stat.file_type();
    let is_device = kind.is_block_device() || kind.is_char_device();
    let facts = Facts {
        kind: match () {
            () if kind.is_dir() => 'd',
            () if kind.is_symlink() => 'l',
            () if kind.is_block_device() => 'b',
            () if kind.is_char_device() => 'c',
            () if kind.is_fifo() => 'p',
            () => 'f',
        },
        mode: stat.mode() & 0o7777,
        owner: (stat.uid(), stat.gid()),
        modified: (stat.mtime(), stat.mtime_nsec()),
        size: if kind.is_dir() { 0 } else { stat.size() },
        device: if is_device { stat.rdev() } else { 0 },
        links: if kind.is_dir() { 0 } else { stat.nlink() },
        leads: kind.is_symlink().then(|| std::fs::read_link(path).unwrap().into_os_string()),
        content: kind.is_file().then(|| hash(path)),
        xattrs: xattr::list(path)
            .unwrap()
            .map(|name| (name.clone(), xattr::get(path, &name).unwrap().unwrap_or_default()))
            .collect(),
    };
    found.insert(path.strip_prefix(root).unwrap().as_os_str().to_owned(), facts);
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(root, &entry.unwrap().path(), found);
        }
    }
}

fn hash(path: &Path) -> Vec<u8> {
    let mut file = std::fs::File::open(path).unwrap();
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return digest.finish().as_ref().to_vec(),
            count => digest.update(&piece[..count]),
        }
    }
}

/// Bytes that repeat nowhere.
pub fn content(length: usize) -> Vec<u8> {
    let mut state: u32 = 7;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A loop device over a file, gone when dropped.
pub struct Loop(pub PathBuf);

impl Loop {
    /// Over a new file in `dir`, without data.
    pub fn new(dir: &Path, size: u64, sector: u32) -> Self {
        let backing = dir.join("backing");
        std::fs::File::create(&backing).unwrap().set_len(size).unwrap();
        Self::attach(&backing, sector)
    }

    pub fn attach(backing: &Path, sector: u32) -> Self {
        let sector = sector.to_string();
        let name = run("losetup", &["--find", "--show", "--partscan", "--sector-size", &sector, text(backing)]);
        Self(PathBuf::from(String::from_utf8(name).unwrap().trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", text(&self.0)]);
    }
}

/// A file system of its own, gone when dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn tmpfs(at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "none", text(at)]);
        Self(at.to_owned())
    }

    /// What is on a device or in an image.
    pub fn device(device: &Path, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &[text(device), text(at)]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[text(&self.0)]);
    }
}

/// Compares two trees and names the first difference.
pub fn assert_same(expected: &BTreeMap<OsString, Facts>, found: &BTreeMap<OsString, Facts>) {
    for (path, facts) in expected {
        let name = String::from_utf8_lossy(path.as_bytes());
        let Some(other) = found.get(path) else { panic!("{name} is missing") };
        let brief = |facts: &Facts| Facts { content: None, ..facts.clone() };
        assert_eq!(brief(facts), brief(other), "{name}");
        assert!(facts.content == other.content, "content of {name} differs");
    }
    let extra: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(extra.is_empty(), "not in the archive: {extra:?}");
}

/// A tree with one of everything. Its directories are made last, so that their times are what the archive keeps.
pub fn make_tree(root: &Path) {
    let script = r#"
        set -e
        cd "$1"
        mkdir -p etc bin sub/deeper empty locked
        printf 'hello\n' > etc/motd
        : > etc/nothing
        head -c 700001 /dev/urandom > bin/large
        ln bin/large bin/large-again
        ln -s ../etc/motd sub/link
        ln -s /nowhere/at/all sub/dangling
        printf '#!/bin/sh\n' > bin/suid; chown 1000:1001 bin/suid; chmod 6755 bin/suid
        printf x > bin/capable
        mkdir sticky setgid; chmod 1777 sticky; chown 0:50 setgid; chmod 2775 setgid
        chmod 0500 locked; chown 4294967294:3000000 etc/nothing; chmod 000 etc/nothing
        mknod sub/null c 1 3; chmod 666 sub/null; mknod sub/disk b 259 1048; mkfifo sub/pipe; chmod 620 sub/pipe
        long=$(printf 'n%.0s' $(seq 1 200)); mkdir -p sub/$long/$long; printf long > sub/$long/$long/$long
        ln -s $long/$long/$long sub/long-link; ln sub/$long/$long/$long sub/$long/hard
        printf odd > "$(printf 'sub/not\377utf8 with blank')"
        truncate -s 5M sub/sparse; printf middle | dd of=sub/sparse bs=1 seek=2000000 conv=notrunc status=none
        truncate -s 3M sub/hole-at-end; printf start | dd of=sub/hole-at-end bs=1 conv=notrunc status=none
        truncate -s 1M sub/only-hole
        touch -d '1965-03-04 05:06:07.25 UTC' etc/motd
        touch -d '2001-02-03 04:05:06.123456789 UTC' bin/large
        touch -h -d '2011-02-03 04:05:06.5 UTC' sub/link
        touch -d '2020-01-01 00:00:00.000000001 UTC' sub sub/deeper empty locked setgid sticky bin etc .
    "#;
    run("sh", &["-c", script, "sh", text(root)]);
}

/// Attributes that GNU tar keeps with `--xattrs`.
pub fn add_xattrs(root: &Path) {
    run("setcap", &["cap_net_raw+ep", text(&root.join("bin/capable"))]);
    xattr::set(root.join("etc/motd"), "user.odd=name%", b"\0\n=\xff").unwrap();
    xattr::set(root.join("setgid"), "user.on.directory", b"kept").unwrap();
    xattr::set(root.join("sub/link"), "trusted.on.link", b"kept").unwrap();
}

/// An image to be served, the tree it was made of, and an empty directory.
pub struct Rack {
    _temp: tempfile::TempDir,
    pub tree: PathBuf,
    pub target: PathBuf,
    pub bytes: Arc<Vec<u8>>,
}

/// An image of several MB that does not compress.
pub fn rack() -> Rack {
    let temp = tempfile::tempdir().unwrap();
    let [tree, target, archive] = ["tree", "target", "image"].map(|name| temp.path().join(name));
    std::fs::create_dir(&tree).unwrap();
    std::fs::create_dir(&target).unwrap();
    make_tree(&tree);
    run("sh", &["-c", "head -c 3000000 /dev/urandom > $0/more; touch -d 2020-01-01 $0", text(&tree)]);
    run("tar", &["-C", text(&tree), "-H", "pax", "--sparse", "-I", "lz4", "-cf", text(&archive), "."]);
    let bytes = Arc::new(std::fs::read(&archive).unwrap());
    Rack { _temp: temp, tree, target, bytes }
}
