//! An archive's entries, written below a directory with all that they hold: owners, modes, times, links, attributes,
//! devices. Nothing is written outside that directory, whatever the archive says.

mod directories;
mod metadata;
mod sample;
mod tree;

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use self::directories::Directories;
use self::metadata::Metadata;
use self::sample::{Sample, Watch};
use self::tree::{Dir, Tree, components, reopen};
use super::error::ImageError;
use super::fetch::Stop;
use super::queue::is_gone;
use super::report::Counters;
use super::tar::{Entry, Kind, ReadError, Reader, Segment, TarFault};

/// Everything is written; nothing is known to be on the disk yet.
pub(super) struct Unpacked {
    tree: Tree,
    directories: Directories,
    sample: Sample,
}

/// Reads the archive to the end of its stream and writes what is in it below `target`.
pub(super) fn unpack(
    image: &str,
    input: impl BufRead,
    target: &Path,
    user_mode: bool,
    counters: &Arc<Counters>,
) -> Result<Unpacked, Stop> {
    let tree =
        Tree::open(target).map_err(|err| ImageError::OpenTarget { path: target.to_owned(), source: err.into() })?;
    let mut writer = Writer {
        metadata: Metadata::new(user_mode, tree.root_device(), Arc::clone(counters)),
        tree,
        directories: Directories::default(),
        sample: Sample::new(),
        user_mode,
        counters: Arc::clone(counters),
        acl_seen: false,
        devices_skipped: 0,
    };
    let mut reader = Reader::new(input);
    while let Some(entry) = reader.next_entry().map_err(|err| read_failed(image, err))? {
        writer.write(&entry, &mut reader).map_err(|fault| fault.stop(image, &entry, counters))?;
        Counters::add(&counters.files, 1);
    }
    let (_, other) = reader.drain().map_err(|err| read_failed(image, err))?;
    if other {
        counters.warn("there is something behind the archive's end mark; it was not unpacked".to_owned());
    }
    writer.warn_of_losses();
    Ok(Unpacked { tree: writer.tree, directories: writer.directories, sample: writer.sample })
}

impl Unpacked {
    /// Sets the times of directories, brings all to the disk and reads a sample back. Returns the files compared.
    pub(super) fn finish(mut self) -> Result<u64, ImageError> {
        self.directories.apply(&self.tree).map_err(|(path, err)| directory_failed(&path, 0, 0, err))?;
        for dir in self.tree.devices() {
            let synced = reopen(dir).and_then(nix::unistd::syncfs);
            synced.map_err(|err| {
                let (major, minor) = (nix::sys::stat::major(dir.device), nix::sys::stat::minor(dir.device));
                ImageError::Sync { path: format!("file system {major}:{minor}"), source: err.into() }
            })?;
        }
        self.sample.verify(&self.tree)
    }
}

/// Why an entry could not be written.
enum Fault {
    Refused(&'static str),
    Failed(&'static str, std::io::Error),
    Read(ReadError),
    Directory(Vec<u8>, Errno),
}

impl From<ReadError> for Fault {
    fn from(err: ReadError) -> Self {
        Self::Read(err)
    }
}

impl From<metadata::Failed> for Fault {
    fn from((action, source): metadata::Failed) -> Self {
        Self::Failed(action, source)
    }
}

impl Fault {
    fn stop(self, image: &str, entry: &Entry, counters: &Counters) -> Stop {
        let written = Counters::get(&counters.bytes_out);
        let name = || String::from_utf8_lossy(&entry.path).into_owned();
        Stop::Failed(match self {
            Self::Refused(reason) => {
                ImageError::Refused { entry: name(), offset: entry.offset, reason: reason.to_owned() }
            }
            Self::Failed(action, source) => {
                ImageError::Write { action, path: name(), offset: entry.offset, written, source }
            }
            Self::Directory(path, err) => directory_failed(&path, entry.offset, written, err),
            Self::Read(err) => return read_failed(image, err),
        })
    }
}

fn directory_failed(path: &[u8], offset: u64, written: u64, err: Errno) -> ImageError {
    let path = String::from_utf8_lossy(path).into_owned();
    ImageError::Write { action: "setting time of directory", path, offset, written, source: err.into() }
}

fn read_failed(image: &str, err: ReadError) -> Stop {
    match err {
        ReadError::Io(err) if is_gone(&err) => Stop::Gone,
        ReadError::Io(source) => {
            Stop::Failed(ImageError::Decompress { image: image.to_owned(), format: "archive", offset: 0, source })
        }
        ReadError::Tar(source) => Stop::Failed(match &source.fault {
            TarFault::NoHeader(start) if source.offset == 0 => {
                ImageError::NotAnArchive { image: image.to_owned(), start: start.clone() }
            }
            _ => ImageError::Archive { image: image.to_owned(), source },
        }),
    }
}

/// An action and its failure.
fn failed(action: &'static str) -> impl Fn(Errno) -> Fault {
    move |err| Fault::Failed(action, err.into())
}

struct Writer {
    tree: Tree,
    metadata: Metadata,
    directories: Directories,
    sample: Sample,
    user_mode: bool,
    counters: Arc<Counters>,
    acl_seen: bool,
    devices_skipped: u64,
}

impl Writer {
    fn write<R: BufRead>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), Fault> {
        self.acl_seen |= entry.has_acl;
        let names = components(&entry.path).map_err(Fault::Refused)?;
        let Some((name, parents)) = names.split_last() else {
            return self.write_root(entry);
        };
        let dir = self.tree.directory(parents).map_err(failed("making the directories above"))?;
        let name = OsStr::from_bytes(name);
        match &entry.kind {
            Kind::File => self.write_file(&dir, name, entry, reader),
            Kind::Directory => self.write_directory(&dir, name, names.join(&b'/'), entry),
            Kind::SymLink(leads) => self.write_symlink(&dir, name, leads, entry),
            Kind::HardLink(old) => self.write_hard_link(&dir, name, old),
            Kind::CharDevice { major, minor } => self.write_device(&dir, name, SFlag::S_IFCHR, (*major, *minor), entry),
            Kind::BlockDevice { major, minor } => {
                self.write_device(&dir, name, SFlag::S_IFBLK, (*major, *minor), entry)
            }
            Kind::Fifo => self.write_node(&dir, name, SFlag::S_IFIFO, 0, entry),
        }
    }

    /// The target directory itself, `./` in the archive.
    fn write_root(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Directory {
            return Err(Fault::Refused("would replace the target directory"));
        }
        let device = self.tree.root_device();
        let fd = self.tree.lookup(b"", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed("opening"))?;
        self.finish_directory(fd, device, Vec::new(), entry)
    }

    fn write_file<R: BufRead>(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), Fault> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let create = || openat(dir, name, flags, Mode::from_bits_truncate(0o600));
        let file = File::from(self.create(dir, name, create).map_err(failed("creating"))?);
        let mut watch = self.sample.draw(entry.size);
        match &entry.segments {
            None => self.write_segment(&file, Segment { offset: 0, bytes: entry.size }, &mut watch, reader)?,
            Some(segments) => {
                for segment in segments {
                    self.write_segment(&file, *segment, &mut watch, reader)?;
                }
                file.set_len(entry.size).map_err(|err| Fault::Failed("setting length of", err))?;
            }
        }
        if let Some(watch) = watch {
            self.sample.keep(watch, &entry.path, &file).map_err(failed("looking at"))?;
        }
        Ok(self.metadata.apply_open(OwnedFd::from(file), dir.device, entry, true)?)
    }

    fn write_segment<R: BufRead>(
        &self,
        file: &File,
        segment: Segment,
        watch: &mut Option<Watch>,
        reader: &mut Reader<R>,
    ) -> Result<(), Fault> {
        let (mut offset, mut left) = (segment.offset, segment.bytes);
        while left > 0 {
            let piece = reader.content()?;
            let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = piece.get(..count).unwrap_or_default();
            if piece.is_empty() {
                // the map was checked against what is stored
                return Err(Fault::Refused("content ends before the file does"));
            }
            file.write_all_at(piece, offset).map_err(|err| Fault::Failed("writing", err))?;
            if let Some(watch) = watch {
                watch.wrote(offset, piece);
            }
            reader.consume(count);
            Counters::add(&self.counters.bytes_out, count as u64);
            offset += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// A directory that is there already, a mount point for instance, stays.
    fn write_directory(&mut self, dir: &Dir, name: &OsStr, path: Vec<u8>, entry: &Entry) -> Result<(), Fault> {
        let make = || mkdirat(dir, name, Mode::from_bits_truncate(0o700));
        match make() {
            Err(Errno::EEXIST) if !is_directory(dir, name).map_err(failed("looking at"))? => {
                self.remove(dir, name).map_err(failed("replacing"))?;
                make().map_err(failed("making directory"))?;
            }
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(err) => return Err(failed("making directory")(err)),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty()).map_err(failed("opening"))?;
        let device = nix::sys::stat::fstat(&fd).map_err(failed("looking at"))?.st_dev;
        self.finish_directory(fd, device, path, entry)
    }

    fn finish_directory(&mut self, fd: OwnedFd, device: u64, path: Vec<u8>, entry: &Entry) -> Result<(), Fault> {
        // without root, a directory must stay open to its owner until its files are in
        let later = self.user_mode.then_some(entry.mode & 0o1777);
        let open = Entry { mode: entry.mode | if self.user_mode { 0o700 } else { 0 }, ..entry.clone() };
        self.metadata.apply_open(fd, device, &open, false)?;
        let pushed = self.directories.push(&self.tree, path, later, entry.modified);
        pushed.map_err(|(path, err)| Fault::Directory(path, err))
    }

    fn write_symlink(&mut self, dir: &Dir, name: &OsStr, leads: &[u8], entry: &Entry) -> Result<(), Fault> {
        if leads.contains(&0) {
            return Err(Fault::Refused("link with a NUL byte"));
        }
        let leads = OsStr::from_bytes(leads);
        self.create(dir, name, || symlinkat(leads, dir, name)).map_err(failed("making link"))?;
        Ok(self.metadata.apply_named(dir, name, entry, false)?)
    }

    fn write_hard_link(&mut self, dir: &Dir, name: &OsStr, old: &[u8]) -> Result<(), Fault> {
        let old_names = components(old).map_err(Fault::Refused)?;
        let Some((old_name, old_parents)) = old_names.split_last() else {
            return Err(Fault::Refused("hard link to the target directory"));
        };
        let old_dir =
            self.tree.directory(old_parents).map_err(failed("opening the directory of what it links to, for"))?;
        let old_name = OsStr::from_bytes(old_name);
        // an entry may come twice: its own file must not be removed to make room for it
        if let (Some(old), Some(new)) = (look(&old_dir, old_name), look(dir, name))
            && (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino)
        {
            return Ok(());
        }
        let link = || linkat(&*old_dir, old_name, dir, name, AtFlags::empty());
        self.create(dir, name, link).map_err(failed("making hard link"))
    }

    fn write_device(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        kind: SFlag,
        (major, minor): (u32, u32),
        entry: &Entry,
    ) -> Result<(), Fault> {
        if self.user_mode {
            self.devices_skipped += 1;
            return Ok(());
        }
        self.write_node(dir, name, kind, makedev(major.into(), minor.into()), entry)
    }

    fn write_node(&mut self, dir: &Dir, name: &OsStr, kind: SFlag, device: u64, entry: &Entry) -> Result<(), Fault> {
        let make = || mknodat(dir, name, kind, Mode::from_bits_truncate(0o600), device);
        self.create(dir, name, make).map_err(failed("making device or FIFO"))?;
        Ok(self.metadata.apply_named(dir, name, entry, true)?)
    }

    /// Makes something that must not exist yet; what is in its place is removed.
    fn create<T>(&mut self, dir: &Dir, name: &OsStr, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match make() {
            Err(Errno::EEXIST) => {
                self.remove(dir, name)?;
                make()
            }
            made => made,
        }
    }

    /// A directory is removed only if it is empty.
    fn remove(&mut self, dir: &Dir, name: &OsStr) -> Result<(), Errno> {
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => {
                self.tree.forget_directories();
                unlinkat(dir, name, UnlinkatFlags::RemoveDir)
            }
            SFlag::S_IFREG => {
                self.sample.forget(stat.st_dev, stat.st_ino);
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)
            }
            // links lead to directories
            _ => {
                self.tree.forget_directories();
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)
            }
        }
    }

    fn warn_of_losses(&self) {
        if self.acl_seen {
            self.counters.warn("the archive has POSIX ACLs (SCHILY.acl), which are not taken over".to_owned());
        }
        if self.directories.overflowed {
            self.counters.warn("very many directories: the times of some may be those of the unpacking".to_owned());
        }
        if self.devices_skipped > 0 {
            self.counters.warn(format!("not root: {} device nodes left out", self.devices_skipped));
        }
    }
}

fn is_directory(dir: &Dir, name: &OsStr) -> Result<bool, Errno> {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

fn look(dir: &Dir, name: &OsStr) -> Option<FileStat> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}
