//! One member of an archive, with all extensions applied.

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    /// Another name of a file earlier in the archive.
    HardLink(Vec<u8>),
    SymLink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Directory,
    Fifo,
}

/// Since 1970, possibly before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    pub seconds: i64,
    /// 0 to 999,999,999, counted forwards.
    pub nanos: u32,
}

/// A piece of a sparse file that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the archive: may be absolute, hold `..`, or be no UTF-8.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permissions with set-id and sticky bits, 0 to 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Timestamp,
    /// Length of the file in bytes, holes included; 0 for all but files.
    pub size: u64,
    /// Where the stored bytes go; `None` for a file without holes.
    pub segments: Option<Vec<Segment>>,
    /// Names and values of extended attributes, ACLs among them. Behind an entry with a default ACL, each has the ACLs
    /// that keep it from inheriting one.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The entry has an ACL that is not taken over: it names somebody whose number neither it nor the archive before it
    /// tells, or is no POSIX one.
    pub has_acl: bool,
    /// Where the entry's first header starts in the archive.
    pub offset: u64,
}
