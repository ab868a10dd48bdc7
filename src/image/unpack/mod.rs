//! Unpacking: entries of an archive become files below a directory.
//!
//! One thread reads the archive and makes directories, links and nodes; regular files are made by [`Workers`] beside
//! it.

mod before;
mod directories;
mod fault;
mod file;
mod jobs;
mod layers;
mod metadata;
mod read_back;
mod records;
mod removal;
mod sample;
mod syncing;
mod tree;
mod workers;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};

use self::before::Before;
use self::directories::Directories;
use self::fault::{Fault, directory_failed, failed};
use self::file::{Content, FileJob, Making, Piece, kind};
use self::layers::{Layers, Name, parse_name};
use self::metadata::Metadata;
use self::read_back::ReadBack;
use self::removal::Removal;
use self::syncing::{Syncing, sync};
use self::tree::{Dir, Tree, components};
use self::workers::{Place, Workers};
use super::engine::Verify;
use super::error::ImageError;
use super::fetch::Stop;
use super::pipeline::Sink;
use super::queue::{CHUNK_BYTES, Gone, QueueReader, is_gone};
use super::report::Counters;
use super::tar::{Entry, Kind, ReadError, Reader, Segment, TarFault};

/// Files up to this size are copied out of the stream and sent as a whole; the pieces of longer ones are not copied.
const WHOLE_MAX_BYTES: u64 = 64 << 10;

/// How archives are unpacked.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub(super) user_mode: bool,
    pub(super) verify: Verify,
    /// Each that comes is a layer of one image, upon those before it.
    pub(super) layered: bool,
}

/// A tree that an archive is unpacked into.
pub(super) struct Unpacker {
    target: PathBuf,
    manner: Manner,
    counters: Arc<Counters>,
    /// What was below the target at the start.
    before: Before,
    writer: Writer,
}

impl Unpacker {
    pub(super) fn open(target: &Path, manner: Manner, counters: &Arc<Counters>) -> Result<Self, ImageError> {
        let failed = |source| ImageError::OpenTarget { path: target.to_owned(), source };
        let before = Before::read(target);
        let writer = Writer::open(target, manner, counters).map_err(failed)?;
        Ok(Self { target: target.to_owned(), manner, counters: Arc::clone(counters), before, writer })
    }
}

impl Sink for Unpacker {
    fn write(&mut self, image: &str, input: &mut QueueReader) -> Result<(), Stop> {
        let read = self.writer.read(image, input);
        // a file that failed comes before the entry that the reader is at
        self.writer.workers.wait_for_all()?;
        read
    }

    fn settle(self) -> Result<u64, ImageError> {
        self.writer.warn_of_losses();
        let Writer { tree, mut directories, workers, .. } = self.writer;
        directories.apply(&tree).map_err(|(path, err)| directory_failed(&path, 0, 0, err))?;
        workers.making().syncing.end()?;
        tree.devices().try_for_each(sync)?;
        workers.making().read_back().verify(&tree)
    }

    fn start_over(&mut self, changed: ImageError) -> Result<(), ImageError> {
        if !self.before.is_clear() {
            self.counters.warn("the target held files before: what was unpacked can't be told from them".to_owned());
            return Err(changed);
        }
        self.before.restore(&self.target)?;
        let failed = |source| ImageError::OpenTarget { path: self.target.clone(), source };
        self.writer = Writer::open(&self.target, self.manner, &self.counters).map_err(failed)?;
        Ok(())
    }
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

/// Why the reader stopped at an entry.
enum Halt {
    Fault(Fault),
    Read(ReadError),
    /// A worker failed, and knows why.
    Gone,
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<ReadError> for Halt {
    fn from(err: ReadError) -> Self {
        Self::Read(err)
    }
}

impl From<Gone> for Halt {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<metadata::Failed> for Halt {
    fn from(failed: metadata::Failed) -> Self {
        Self::Fault(failed.into())
    }
}

/// A directory of the tree, and a name in it.
type Located = (Arc<Dir>, Vec<u8>);

struct Writer {
    tree: Tree,
    directories: Directories,
    workers: Workers,
    user_mode: bool,
    /// Only of an image that consists of layers.
    layers: Option<Layers>,
    counters: Arc<Counters>,
    acl_seen: bool,
    devices_skipped: u64,
}

impl Writer {
    fn open(target: &Path, manner: Manner, counters: &Arc<Counters>) -> std::io::Result<Self> {
        let Manner { user_mode, verify, layered } = manner;
        let tree = Tree::open(target)?;
        let read_back = match verify {
            Verify::Sample => ReadBack::of_a_sample(),
            Verify::Full => ReadBack::of_all(tree.lookup(b"", OFlag::O_PATH)?)?,
        };
        let making = Making {
            metadata: Metadata::new(user_mode, tree.root_device(), Arc::clone(counters)),
            read_back: Mutex::new(read_back),
            syncing: Syncing::start()?,
            counters: Arc::clone(counters),
            directories_changed: AtomicBool::new(false),
        };
        Ok(Self {
            tree,
            directories: Directories::default(),
            workers: Workers::start(making)?,
            user_mode,
            layers: layered.then(Layers::default),
            counters: Arc::clone(counters),
            acl_seen: false,
            devices_skipped: 0,
        })
    }

    /// Reads the archive to the end of its stream.
    fn read(&mut self, image: &str, input: &mut QueueReader) -> Result<(), Stop> {
        let mut reader = Reader::new(input);
        if let Some(layers) = &mut self.layers {
            layers.begin();
        }
        let mut is_first = self.layers.is_none();
        while let Some(entry) = self.next_entry(&mut reader).map_err(|err| read_failed(image, err))? {
            let (path, offset) = (entry.path.clone(), entry.offset);
            if is_first && let Some(is_container) = is_container_archive(&path) {
                is_first = false;
                if is_container {
                    let (image, entry) = (image.to_owned(), String::from_utf8_lossy(&path).into_owned());
                    return Err(ImageError::ContainerArchive { image, entry }.into());
                }
            }
            self.write(entry, &mut reader).map_err(|halt| match halt {
                Halt::Fault(fault) => Stop::Failed(fault.into_error(&path, offset, &self.counters)),
                Halt::Read(err) => read_failed(image, err),
                Halt::Gone => Stop::Gone,
            })?;
        }
        let (_, other) = reader.drain().map_err(|err| read_failed(image, err))?;
        if other {
            self.counters.warn("there is something behind the archive's end mark; it was not unpacked".to_owned());
        }
        Ok(())
    }

    /// A layer may be empty, which an archive that is the whole image may not.
    fn next_entry(&self, reader: &mut Reader<&mut QueueReader>) -> Result<Option<Entry>, ReadError> {
        match reader.next_entry() {
            Err(ReadError::Tar(err)) if self.layers.is_some() && err.fault == TarFault::Empty => Ok(None),
            read => read,
        }
    }

    fn write(&mut self, entry: Entry, reader: &mut Reader<&mut QueueReader>) -> Result<(), Halt> {
        self.acl_seen |= entry.has_acl;
        if self.workers.making().directories_changed.swap(false, Ordering::SeqCst) {
            self.tree.forget_directories();
        }
        if self.layers.is_some() && self.apply_whiteout(&entry)? {
            return Ok(());
        }
        if entry.kind == Kind::File {
            return self.write_file(entry, reader);
        }
        self.write_other(&entry)?;
        Counters::add(&self.counters.files, 1);
        Ok(())
    }

    /// Hides what lower layers brought, if the entry says so; true if it is no file.
    fn apply_whiteout(&self, entry: &Entry) -> Result<bool, Halt> {
        let names = components(&entry.path).map_err(Fault::Refused)?;
        let name = parse_name(&names).map_err(Fault::Refused)?;
        let Some(layers) = self.layers.as_ref().filter(|_| name != Name::Plain) else { return Ok(false) };
        let parents = names.split_last().map_or(&[][..], |(_, parents)| parents);
        if layers.is_lowest() || name == Name::Ignored {
            return Ok(true);
        }
        let own = layers.places().map_err(Fault::Refused)?;
        if self.leads_through_own_link(parents, own)? {
            return Ok(true);
        }
        let Some(dir) = self.tree.existing(parents).map_err(failed("opening the directory of"))? else {
            return Ok(true);
        };
        // a directory without files must not go while one is being made there
        self.workers.wait_until_idle()?;
        let removal = Removal { tree: &self.tree, workers: &self.workers, keep: Some(own) };
        match name {
            Name::Whiteout(hidden) => removal.remove(&dir, OsStr::from_bytes(hidden))?,
            Name::Opaque => removal.clear(&dir)?,
            Name::Plain | Name::Ignored => {}
        }
        Ok(true)
    }

    /// The layer put a link where a directory was, and with it all is gone that the whiteout could mean. Behind the
    /// link it would hit something else.
    fn leads_through_own_link(&self, parents: &[&[u8]], own: &HashSet<Place>) -> Result<bool, Fault> {
        for (depth, name) in parents.iter().enumerate() {
            let above = parents.get(..depth).unwrap_or_default();
            let Some(dir) = self.tree.existing(above).map_err(failed("opening the directory of"))? else { break };
            let is_link = look(&dir, OsStr::from_bytes(name)).is_some_and(|stat| kind(&stat) == SFlag::S_IFLNK);
            if is_link && own.contains(&self.workers.place(&dir, name)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes that a layer brings something there. A directory of a lower layer makes room for what is none.
    fn claim(&mut self, dir: &Dir, name: &[u8], kind: &Kind) -> Result<(), Halt> {
        let Some(layers) = &mut self.layers else { return Ok(()) };
        layers.add(self.workers.place(dir, name));
        let name = OsStr::from_bytes(name);
        if layers.is_lowest() || *kind == Kind::Directory || !is_directory(dir, name).unwrap_or(false) {
            return Ok(());
        }
        self.workers.wait_until_idle()?;
        Removal { tree: &self.tree, workers: &self.workers, keep: None }.remove(dir, name)?;
        self.tree.forget_directories();
        Ok(())
    }

    /// A regular file goes to the workers.
    fn write_file(&mut self, entry: Entry, reader: &mut Reader<&mut QueueReader>) -> Result<(), Halt> {
        let Some((dir, name)) = self.locate(&entry)? else {
            return Err(Fault::Refused("would replace the target directory").into());
        };
        self.claim(&dir, &name, &entry.kind)?;
        let place = self.workers.place(&dir, &name);
        let watch = self.workers.making().read_back().draw(entry.size);
        if entry.segments.is_none() && entry.size <= WHOLE_MAX_BYTES {
            let content = Content::Whole(self.whole(entry.size, reader)?);
            return Ok(self.workers.send(place, FileJob { dir, name, entry, watch, content })?);
        }
        let segments = entry.segments.clone().unwrap_or_else(|| vec![Segment { offset: 0, bytes: entry.size }]);
        let (pieces, content) = mpsc::channel();
        let content = Content::Stream(content, segments.iter().map(|segment| segment.bytes).sum());
        self.workers.send(place, FileJob { dir, name, entry, watch, content })?;
        segments.into_iter().try_for_each(|segment| self.send_segment(segment, &pieces, reader))
    }

    /// A copy, as a slice would keep its whole chunk in memory.
    fn whole(&self, size: u64, reader: &mut Reader<&mut QueueReader>) -> Result<Piece, Halt> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 {
            return Ok(Piece { offset: 0, bytes: Bytes::new(), room: None });
        }
        let room = self.workers.room(size)?;
        let mut content = Vec::with_capacity(size);
        while content.len() < size {
            let piece = reader.content()?;
            let count = piece.len().min(size - content.len());
            content.extend_from_slice(piece.get(..count).unwrap_or_default());
            reader.consume(count);
        }
        Ok(Piece { offset: 0, bytes: Bytes::from(content), room: Some(room) })
    }

    fn send_segment(
        &self,
        segment: Segment,
        pieces: &mpsc::Sender<Piece>,
        reader: &mut Reader<&mut QueueReader>,
    ) -> Result<(), Halt> {
        let (mut offset, mut left) = (segment.offset, segment.bytes);
        while left > 0 {
            // however short it is, it keeps its chunk
            let room = self.workers.room(CHUNK_BYTES)?;
            let bytes = reader.piece(usize::try_from(left).unwrap_or(usize::MAX))?;
            let count = bytes.len() as u64;
            pieces.send(Piece { offset, bytes, room: Some(room) }).map_err(|_| Gone)?;
            offset += count;
            left -= count;
        }
        Ok(())
    }

    /// The directory of an entry, made if need be, and its name there; `None` for the root.
    fn locate(&mut self, entry: &Entry) -> Result<Option<Located>, Fault> {
        let names = components(&entry.path).map_err(Fault::Refused)?;
        let Some((name, parents)) = names.split_last() else { return Ok(None) };
        let dir = self.tree.directory(parents).map_err(failed("making the directories above"))?;
        Ok(Some((dir, name.to_vec())))
    }

    /// Everything but regular files.
    fn write_other(&mut self, entry: &Entry) -> Result<(), Halt> {
        let Some((dir, name)) = self.locate(entry)? else { return self.write_root(entry) };
        self.workers.wait_for(self.workers.place(&dir, &name))?;
        self.claim(&dir, &name, &entry.kind)?;
        let name = OsStr::from_bytes(&name);
        match &entry.kind {
            Kind::File => Ok(()),
            Kind::Directory => Ok(self.write_directory(&dir, name, entry)?),
            Kind::SymLink(leads) => Ok(self.write_symlink(&dir, name, leads, entry)?),
            Kind::HardLink(old) => self.write_hard_link(&dir, name, old),
            Kind::CharDevice { major, minor } => {
                Ok(self.write_device(&dir, name, SFlag::S_IFCHR, (*major, *minor), entry)?)
            }
            Kind::BlockDevice { major, minor } => {
                Ok(self.write_device(&dir, name, SFlag::S_IFBLK, (*major, *minor), entry)?)
            }
            Kind::Fifo => Ok(self.write_node(&dir, name, SFlag::S_IFIFO, 0, entry)?),
        }
    }

    /// The target directory itself, `./` in the archive.
    fn write_root(&mut self, entry: &Entry) -> Result<(), Halt> {
        if entry.kind != Kind::Directory {
            return Err(Fault::Refused("would replace the target directory").into());
        }
        let fd = self.tree.lookup(b"", OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed("opening"))?;
        Ok(self.finish_directory(fd, Vec::new(), entry)?)
    }

    /// A directory that is there already, a mount point for instance, stays.
    fn write_directory(&mut self, dir: &Dir, name: &OsStr, entry: &Entry) -> Result<(), Fault> {
        let make = || mkdirat(dir, name, Mode::from_bits_truncate(0o700));
        match make() {
            Err(Errno::EEXIST) if !is_directory(dir, name).map_err(failed("looking at"))? => {
                self.workers.making().remove(dir, name).map_err(failed("replacing"))?;
                make().map_err(failed("making directory"))?;
            }
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(err) => return Err(failed("making directory")(err)),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty()).map_err(failed("opening"))?;
        let path = components(&entry.path).map_err(Fault::Refused)?.join(&b'/');
        self.finish_directory(fd, path, entry)
    }

    fn finish_directory(&mut self, fd: OwnedFd, path: Vec<u8>, entry: &Entry) -> Result<(), Fault> {
        // without root, a directory must stay open to its owner until its files are in
        let later = self.user_mode.then_some(entry.mode & 0o1777);
        let open = Entry { mode: entry.mode | if self.user_mode { 0o700 } else { 0 }, ..entry.clone() };
        let stat = fstat(&fd).map_err(failed("looking at"))?;
        self.workers.making().metadata.apply_directory(fd, &stat, &open)?;
        let pushed = self.directories.push(&self.tree, path, &stat, later, entry.modified);
        pushed.map_err(|(path, err)| Fault::Directory(path, err))
    }

    fn write_symlink(&self, dir: &Dir, name: &OsStr, leads: &[u8], entry: &Entry) -> Result<(), Fault> {
        if leads.contains(&0) {
            return Err(Fault::Refused("link with a NUL byte"));
        }
        let (leads, making) = (OsStr::from_bytes(leads), self.workers.making());
        making.create(dir, name, || symlinkat(leads, dir, name)).map_err(failed("making link"))?;
        Ok(making.metadata.apply_named(dir, name, entry, false)?)
    }

    fn write_hard_link(&mut self, dir: &Dir, name: &OsStr, old: &[u8]) -> Result<(), Halt> {
        let old_names = components(old).map_err(Fault::Refused)?;
        let Some((old_name, old_parents)) = old_names.split_last() else {
            return Err(Fault::Refused("hard link to the target directory").into());
        };
        let old_dir =
            self.tree.directory(old_parents).map_err(failed("opening the directory of what it links to, for"))?;
        self.workers.wait_for(self.workers.place(&old_dir, old_name))?;
        let old_name = OsStr::from_bytes(old_name);
        // an entry may come twice: its own file must not be removed to make room for it
        if let (Some(old), Some(new)) = (look(&old_dir, old_name), look(dir, name))
            && (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino)
        {
            return Ok(());
        }
        let link = || linkat(&*old_dir, old_name, dir, name, AtFlags::empty());
        Ok(self.workers.making().create(dir, name, link).map_err(failed("making hard link"))?)
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

    fn write_node(&self, dir: &Dir, name: &OsStr, kind: SFlag, device: u64, entry: &Entry) -> Result<(), Fault> {
        let (make, making) =
            (|| mknodat(dir, name, kind, Mode::from_bits_truncate(0o600), device), self.workers.making());
        making.create(dir, name, make).map_err(failed("making device or FIFO"))?;
        Ok(making.metadata.apply_named(dir, name, entry, true)?)
    }

    fn warn_of_losses(&self) {
        if self.acl_seen {
            self.counters.warn(
                "the archive has ACLs that name somebody whose number it does not tell: they are left out".to_owned(),
            );
        }
        if self.directories.overflowed {
            self.counters.warn("very many directories: the times of some may be those of the unpacking".to_owned());
        }
        if self.devices_skipped > 0 {
            self.counters.warn(format!("not root: {} device nodes left out", self.devices_skipped));
        }
    }
}

/// Judges by the first entry that tells: false for a root tree, true for what skopeo, podman and docker save.
fn is_container_archive(path: &[u8]) -> Option<bool> {
    let names = components(path).ok()?;
    match names.as_slice() {
        [] | [b"blobs"] => None,
        [b"oci-layout" | b"index.json" | b"manifest.json" | b"repositories"] => Some(true),
        [b"blobs", algorithm, ..] => Some(matches!(*algorithm, b"sha256" | b"sha512")),
        [name, ..] => {
            let digits = name.strip_suffix(b".json").or_else(|| name.strip_suffix(b".tar")).unwrap_or(name);
            Some(digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit))
        }
    }
}

fn is_directory(dir: &Dir, name: &OsStr) -> Result<bool, Errno> {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(kind(&stat) == SFlag::S_IFDIR)
}

fn look(dir: &Dir, name: &OsStr) -> Option<FileStat> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}
