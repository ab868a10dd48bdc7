//! Reading tar archives: v7, ustar, pax and GNU, with long names, sparse files, large numbers and attributes.
//!
//! A parser of our own, because none at hand keeps all that an operating system's image holds (times before 1970 and
//! below a second, attributes with any bytes, all four ways to store a sparse file) within a fixed memory. It reads
//! only; names are bytes as they stand in the archive, and whoever writes files must judge them.

mod acl;
mod entry;
mod header;
mod names;
mod pax;
mod reader;
mod sparse;

pub use entry::{Entry, Kind, Segment, Timestamp};
pub use reader::{Pieces, ReadError, Reader, TarError, TarFault};

/// Size of everything in an archive: headers, and content rounded up to it.
const BLOCK_BYTES: usize = 512;
/// Extended headers of one entry, together. Of several each costs a block beside its body.
const EXTENDED_MAX_BYTES: u64 = 1 << 20;
/// A path that a system call takes (`PATH_MAX`), and a name in the directory that it leads to (`NAME_MAX`).
const PATH_MAX_BYTES: usize = 4096 + 255;
/// Where a symbolic link leads (`PATH_MAX`).
const LINK_MAX_BYTES: usize = 4096;
/// Pieces of one sparse file.
const SEGMENTS_MAX: usize = 1 << 18;

type Block = [u8; BLOCK_BYTES];
