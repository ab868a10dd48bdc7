//! Why decompressing ended early.

use std::io;

use super::output::Broken;
use crate::image::queue::{Gone, is_gone};

#[derive(Debug)]
pub(super) enum Fault {
    /// A neighbour ended; the reason is with it.
    Gone,
    Bad {
        /// In the compressed stream, near the damage.
        offset: u64,
        source: io::Error,
    },
}

impl Fault {
    pub(super) fn new(offset: u64, source: io::Error) -> Self {
        match is_gone(&source) {
            true => Self::Gone,
            false => Self::Bad { offset, source },
        }
    }

    pub(super) fn damage(offset: u64, text: String) -> Self {
        Self::Bad { offset, source: io::Error::new(io::ErrorKind::InvalidData, text) }
    }
}

impl From<Gone> for Fault {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl Fault {
    pub(super) fn after(broken: Broken, offset: u64) -> Self {
        match broken {
            Broken::Gone => Self::Gone,
            Broken::Reading(source) => Self::new(offset, source),
        }
    }
}
