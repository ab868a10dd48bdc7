//! An OCI image layout: `oci-layout`, `index.json` and `blobs/ALGORITHM/HEX`, in a directory or in a tar file.
//!
//! Source: OCI image-spec, image-layout.md.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::OciError;
use crate::image::decompress::Compression;
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::tar::{Kind, ReadError, Reader, TarFault};

const MARK: &str = "oci-layout";
pub(super) const INDEX: &str = "index.json";
/// Of a tar file; an image has three and one for each layer.
const ENTRIES_MAX: usize = 1 << 16;
/// Enough for a header and what extends it.
const HEADER_BUFFER_BYTES: usize = 2048;
const BLOCK_BYTES: u64 = 512;

pub(super) enum Layout {
    Directory(PathBuf),
    Archive { path: PathBuf, entries: HashMap<String, Range> },
}

/// Where something lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Layout {
    pub(super) fn open_directory(path: &Path) -> Result<Self, ImageError> {
        Self::Directory(path.to_owned()).checked()
    }

    /// Looks where everything is. Blocks.
    pub(super) fn open_archive(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::ReadFile { path: path.to_owned(), offset: 0, source };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut head = Vec::new();
        At { file: &file, offset: 0 }.take(BLOCK_BYTES).read_to_end(&mut head).map_err(failed)?;
        match Compression::detect(&head) {
            Compression::None => {}
            other => {
                let source = OciError::CompressedArchive { path: path.to_owned(), format: other.as_str() };
                return Err(ImageError::Oci { image: path.display().to_string(), source });
            }
        }
        let entries = read_entries(path, &file, length)?;
        Self::Archive { path: path.to_owned(), entries }.checked()
    }

    fn checked(self) -> Result<Self, ImageError> {
        for name in [MARK, INDEX] {
            if self.find(name)?.is_none() {
                let (path, missing) = (self.path().to_owned(), name.to_owned());
                let image = path.display().to_string();
                return Err(ImageError::Oci { image, source: OciError::NoLayout { path, missing } });
            }
        }
        Ok(self)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path,
        }
    }

    /// The file that holds `name`, and where; `None` if there is none.
    pub(super) fn find(&self, name: &str) -> Result<Option<(PathBuf, Range)>, ImageError> {
        match self {
            Self::Directory(dir) => {
                let path = dir.join(name);
                match path.metadata() {
                    Ok(metadata) => Ok(Some((path, Range { offset: 0, bytes: metadata.len() }))),
                    Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(ImageError::ReadFile { path, offset: 0, source }),
                }
            }
            Self::Archive { path, entries } => Ok(entries.get(name).map(|range| (path.clone(), range.clone()))),
        }
    }

    /// All of a small document, `None` if there is none.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Result<Vec<u8>, OciError>>, ImageError> {
        let Some((path, range)) = self.find(name)? else { return Ok(None) };
        if range.bytes > limit {
            return Ok(Some(Err(OciError::TooLarge { what: name.to_owned(), limit })));
        }
        let failed = |source| ImageError::ReadFile { path: path.clone(), offset: range.offset, source };
        let file = File::open(&path).map_err(failed)?;
        let mut content = Vec::new();
        At { file: &file, offset: range.offset }.take(range.bytes).read_to_end(&mut content).map_err(failed)?;
        Ok(Some(Ok(content)))
    }
}

/// The name of a blob in a layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), hex::encode(digest.bytes()))
}

/// Entry by entry, and the content passed over without reading it.
fn read_entries(path: &Path, file: &File, length: u64) -> Result<HashMap<String, Range>, ImageError> {
    let image = || path.display().to_string();
    let mut entries = HashMap::new();
    let mut offset = 0;
    for _ in 0..ENTRIES_MAX {
        let input = BufReader::with_capacity(HEADER_BUFFER_BYTES, At { file, offset });
        let mut reader = Reader::new(input);
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(entries),
            Err(ReadError::Tar(err)) if err.fault == TarFault::Empty && offset > 0 => return Ok(entries),
            Err(ReadError::Tar(source)) => return Err(ImageError::Archive { image: image(), source }),
            Err(ReadError::Io(source)) => return Err(ImageError::ReadFile { path: path.to_owned(), offset, source }),
        };
        let content = offset.saturating_add(reader.offset());
        let end = content.saturating_add(entry.size);
        if end > length {
            return Err(ImageError::Short { image: image(), expected: end, found: length });
        }
        // sparse files are not stored as they read
        if entry.kind == Kind::File && entry.segments.is_none() {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            let name = name.trim_start_matches("./").to_owned();
            entries.insert(name, Range { offset: content, bytes: entry.size });
        }
        offset = end.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX);
    }
    let reason = format!("it has more than {ENTRIES_MAX} entries");
    Err(ImageError::Oci { image: image(), source: OciError::Malformed { what: "the archive".to_owned(), reason } })
}

/// Reads a file from an offset on, without moving anybody else's.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("image.tar");
        let made = std::process::Command::new("python3").args(["-c", script]).arg(&path).status().unwrap();
        assert!(made.success());
        path
    }

    #[test]
    fn an_archive_is_indexed_without_its_content() {
        let temp = tempfile::tempdir().unwrap();
        let script = "
import io, sys, tarfile
t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)
for name, data in [('./oci-layout', b'{}'), ('index.json', b'[1]'), ('blobs/' + 'x' * 200, b'long name' * 100)]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    t.addfile(info, io.BytesIO(data))
t.close()
";
        let layout = Layout::open_archive(&archive(temp.path(), script)).unwrap();
        assert_eq!(layout.read("index.json", 10).unwrap().unwrap().unwrap(), b"[1]");
        let blob = format!("blobs/{}", "x".repeat(200));
        assert_eq!(layout.read(&blob, 900).unwrap().unwrap().unwrap(), b"long name".repeat(100));
        assert!(matches!(layout.read(&blob, 899).unwrap(), Some(Err(OciError::TooLarge { .. }))));
        assert!(layout.read("blobs", 10).unwrap().is_none());
    }

    #[test]
    fn what_is_no_layout_says_what_is_missing() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("oci-layout"), "{}").unwrap();
        let missing = |found: Result<Layout, ImageError>| match found.map(drop).unwrap_err() {
            ImageError::Oci { source: OciError::NoLayout { missing, .. }, .. } => missing,
            other => panic!("{other}"),
        };
        assert_eq!(missing(Layout::open_directory(temp.path())), "index.json");
        let script = "import sys, tarfile; t = tarfile.open(sys.argv[1], 'w'); t.addfile(tarfile.TarInfo('a'))";
        assert_eq!(missing(Layout::open_archive(&archive(temp.path(), &format!("{script}; t.close()")))), "oci-layout");
    }
}
