//! Why an entry of an archive could not be written.

use nix::errno::Errno;

use super::metadata;
use crate::image::error::ImageError;
use crate::image::report::Counters;

pub(super) enum Fault {
    Refused(&'static str),
    Failed(&'static str, std::io::Error),
    /// A directory whose turn came now, and not the entry at hand.
    Directory(Vec<u8>, Errno),
}

impl From<metadata::Failed> for Fault {
    fn from((action, source): metadata::Failed) -> Self {
        Self::Failed(action, source)
    }
}

impl Fault {
    /// `path` and `offset` are those of the entry in the archive.
    pub(super) fn into_error(self, path: &[u8], offset: u64, counters: &Counters) -> ImageError {
        let written = Counters::get(&counters.bytes_out);
        let name = || String::from_utf8_lossy(path).into_owned();
        match self {
            Self::Refused(reason) => ImageError::Refused { entry: name(), offset, reason: reason.to_owned() },
            Self::Failed(action, source) => ImageError::Write { action, path: name(), offset, written, source },
            Self::Directory(path, err) => directory_failed(&path, offset, written, err),
        }
    }
}

pub(super) fn directory_failed(path: &[u8], offset: u64, written: u64, err: Errno) -> ImageError {
    let path = String::from_utf8_lossy(path).into_owned();
    ImageError::Write { action: "setting time of directory", path, offset, written, source: err.into() }
}

/// An action and its failure.
pub(super) fn failed(action: &'static str) -> impl Fn(Errno) -> Fault {
    move |err| Fault::Failed(action, err.into())
}
