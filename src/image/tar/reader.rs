//! An archive entry by entry, in one pass.

use std::io::{self, BufRead};

use bytes::Bytes;

use super::acl::{self, AclFault};
use super::entry::{Entry, Kind, Segment, Timestamp};
use super::header::{BadField, Family, Header, sparse_extension};
use super::names::Names;
use super::pax::{BadRecord, Records, XATTR_NAMES_MAX_BYTES};
use super::{BLOCK_BYTES, Block, EXTENDED_MAX_BYTES, LINK_MAX_BYTES, PATH_MAX_BYTES, SEGMENTS_MAX, sparse};

/// What is wrong with an archive, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} of the archive: {fault}")]
pub struct TarError {
    /// Of the header at fault, in the uncompressed archive.
    pub offset: u64,
    pub fault: TarFault,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TarFault {
    #[error("it ends here, in the middle of {0}")]
    Truncated(&'static str),
    #[error("expected a header, found {0}")]
    NoHeader(String),
    #[error("a lone block of zeros, with more behind it")]
    LoneZeroBlock,
    #[error("it is empty")]
    Empty,
    #[error("field {0} is no number in range")]
    Field(&'static str),
    #[error("extended header is damaged near {0:?}")]
    Record(String),
    #[error("extended headers of one entry are larger than {limit} bytes: {found}")]
    ExtendedTooLarge { found: u64, limit: u64 },
    #[error("sparse file: {0}")]
    SparseMap(&'static str),
    #[error("sparse file has more than {SEGMENTS_MAX} pieces")]
    TooManySegments,
    #[error("entry type {0:?} is not supported")]
    Type(char),
    #[error("entry has no name")]
    NoName,
    #[error("{what} of {bytes} bytes, more than {limit}, begins with {start:?}")]
    LongName { what: &'static str, bytes: usize, limit: usize, start: String },
    #[error("entry has more than {XATTR_NAMES_MAX_BYTES} bytes of attributes' names: no file can have them")]
    TooManyXattrs,
}

/// The archive is at fault, or what it is read from.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Input that can give away what it holds without a copy.
pub trait Pieces: BufRead {
    /// At least one byte and at most `most`, used up; none at the end of the input.
    fn piece(&mut self, most: usize) -> io::Result<Bytes>;
}

/// Reads an archive from a stream.
pub struct Reader<R> {
    input: R,
    offset: u64,
    /// Of the header that an error would be about.
    header_offset: u64,
    /// Content of the present entry not read yet.
    remaining: u64,
    /// From the end of that content to the next header.
    padding: u64,
    globals: Records,
    globals_bytes: u64,
    /// An entry was seen.
    begun: bool,
    /// A directory gives an ACL to what is made in it.
    default_acl_seen: bool,
    names: Names,
}

/// What extended headers before an entry said.
struct Extensions {
    records: Records,
    /// A pax header belongs to this entry.
    is_pax: bool,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Of their bodies.
    bytes: u64,
    /// How many there were.
    headers: u64,
}

impl<R: BufRead> Reader<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            header_offset: 0,
            remaining: 0,
            padding: 0,
            globals: Records::default(),
            globals_bytes: 0,
            begun: false,
            default_acl_seen: false,
            names: Names::default(),
        }
    }

    /// Bytes read of the archive.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, `None` at the end mark. Content that was not read is passed over.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        self.skip(self.remaining, "a file's content")?;
        self.remaining = 0;
        self.names.end();
        self.skip(self.padding, "a file's padding")?;
        self.padding = 0;
        let start = self.offset;
        if start == 0 && self.input.fill_buf()?.is_empty() {
            return Err(self.fault(TarFault::Empty));
        }
        let mut extensions = Extensions {
            records: self.globals.clone(),
            is_pax: false,
            long_path: None,
            long_link: None,
            bytes: 0,
            headers: 0,
        };
        loop {
            self.header_offset = self.offset;
            let Some(block) = self.read_header_block()? else {
                return if self.begun { Ok(None) } else { Err(self.fault(TarFault::Empty)) };
            };
            let Some(header) = Header::parse(&block) else {
                return Err(self.fault(TarFault::NoHeader(hex::encode(&block[..16]))));
            };
            self.begun = true;
            match header.typeflag() {
                b'x' | b'X' => {
                    let body = self.read_extension(&header, &mut extensions)?;
                    extensions.is_pax = true;
                    extensions.records.add(&body).map_err(|bad| self.bad_record(bad))?;
                }
                b'g' => {
                    let body = self.read_extension(&header, &mut extensions)?;
                    self.globals_bytes = self.globals_bytes.saturating_add(body.len() as u64);
                    self.check_extended(self.globals_bytes)?;
                    self.globals.add(&body).map_err(|bad| self.bad_record(bad))?;
                    extensions.records.add(&body).map_err(|bad| self.bad_record(bad))?;
                }
                b'L' => extensions.long_path = Some(until_nul(self.read_extension(&header, &mut extensions)?)),
                b'K' => extensions.long_link = Some(until_nul(self.read_extension(&header, &mut extensions)?)),
                // a volume's label is no file
                b'V' if header.family == Family::Gnu => self.count_extension(&mut extensions, 0)?,
                _ => return self.entry(&header, extensions, start).map(Some),
            }
        }
    }

    /// The next piece of the present entry's content, empty at its end. [`Self::consume`] says how much was used.
    pub fn content(&mut self) -> Result<&[u8], ReadError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        if self.input.fill_buf()?.is_empty() {
            return Err(self.fault(TarFault::Truncated("a file's content")));
        }
        let available = self.input.fill_buf()?;
        let count = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(available.len());
        Ok(available.get(..count).unwrap_or_default())
    }

    pub fn consume(&mut self, count: usize) {
        self.pass_by(count);
        self.input.consume(count);
        self.offset += count as u64;
        self.remaining = self.remaining.saturating_sub(count as u64);
    }

    /// At most `most` bytes of the present entry's content, used up and without a copy. Empty at its end.
    pub fn piece(&mut self, most: usize) -> Result<Bytes, ReadError>
    where
        R: Pieces,
    {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(most);
        if most == 0 {
            return Ok(Bytes::new());
        }
        let piece = self.input.piece(most)?;
        if piece.is_empty() {
            return Err(self.fault(TarFault::Truncated("a file's content")));
        }
        self.offset += piece.len() as u64;
        self.remaining = self.remaining.saturating_sub(piece.len() as u64);
        Ok(piece)
    }

    /// Reads what is behind the end mark, so that whoever hashes the stream sees all of it. Returns its length and
    /// whether there was anything but zeros.
    pub fn drain(&mut self) -> Result<(u64, bool), ReadError> {
        let (mut count, mut other) = (0, false);
        loop {
            let piece = self.input.fill_buf()?;
            if piece.is_empty() {
                return Ok((count, other));
            }
            other |= piece.iter().any(|byte| *byte != 0);
            let length = piece.len();
            self.input.consume(length);
            self.offset += length as u64;
            count += length as u64;
        }
    }

    /// `None` at the end mark: two blocks of zeros, or one with nothing behind it.
    fn read_header_block(&mut self) -> Result<Option<Block>, ReadError> {
        let block = self.read_block("its headers, without an end mark")?;
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        match self.read_block("its end mark")?.iter().all(|byte| *byte == 0) {
            true => Ok(None),
            false => Err(self.fault(TarFault::LoneZeroBlock)),
        }
    }

    fn entry(&mut self, header: &Header<'_>, extensions: Extensions, start: u64) -> Result<Entry, ReadError> {
        let Extensions { records, is_pax, long_path, long_link, .. } = extensions;
        let size = match records.size {
            Some(size) => size,
            None => header.size().map_err(|bad| self.bad_field(bad))?,
        };
        let path = records.sparse.name.clone().or(records.path).or(long_path).unwrap_or_else(|| header.path());
        let link = || records.link.or(long_link).unwrap_or_else(|| header.link());
        let device = || header.device();
        if path.is_empty() {
            return Err(self.fault(TarFault::NoName));
        }
        self.check_name("name", &path, PATH_MAX_BYTES)?;
        let kind = match header.typeflag() {
            // before ustar a directory was a file with a slash at its end
            b'0' | 0 if path.last() == Some(&b'/') => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::SymLink(link()),
            b'3' => {
                device().map(|(major, minor)| Kind::CharDevice { major, minor }).map_err(|bad| self.bad_field(bad))?
            }
            b'4' => {
                device().map(|(major, minor)| Kind::BlockDevice { major, minor }).map_err(|bad| self.bad_field(bad))?
            }
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(self.fault(TarFault::Type(char::from(other)))),
        };
        match &kind {
            Kind::HardLink(leads) => self.check_name("hard link's target", leads, PATH_MAX_BYTES)?,
            Kind::SymLink(leads) => self.check_name("link's target", leads, LINK_MAX_BYTES)?,
            Kind::File | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Directory | Kind::Fifo => {}
        }
        // a link's size may be that of the file it names; only pax stores content with it
        let stored = match (&kind, header.typeflag()) {
            (Kind::File, _) | (Kind::Directory, b'D') => size,
            (Kind::HardLink(_), _) if is_pax => size,
            _ => 0,
        };
        let old_sparse = header.typeflag() == b'S';
        let mut real_size = records.sparse.real_size;
        let mut segments = records.sparse.segments;
        if old_sparse {
            real_size = Some(header.sparse_size().map_err(|bad| self.bad_field(bad))?);
            segments = Some(self.read_old_map(header)?);
        }
        self.begin_content(stored)?;
        if (records.sparse.major, records.sparse.minor) == (Some(1), Some(0)) && kind == Kind::File {
            segments = Some(self.read_map()?);
        }
        let segments = segments.filter(|_| kind == Kind::File);
        let size = match (&kind, &segments) {
            (Kind::File, Some(map)) => {
                let size = real_size.ok_or_else(|| self.fault(TarFault::SparseMap("its length is missing")))?;
                sparse::check(map, self.remaining, size).map_err(|fault| self.fault(fault))?;
                size
            }
            (Kind::File, None) => stored,
            _ => 0,
        };
        let modified = match records.modified {
            Some(time) => time,
            None => Timestamp { seconds: header.modified().map_err(|bad| self.bad_field(bad))?, nanos: 0 },
        };
        let mode = header.mode().map_err(|bad| self.bad_field(bad))?;
        if kind == Kind::File && segments.is_none() {
            self.names.begin(&path, size);
        }
        let mut xattrs = records.xattrs;
        let texts = [("access", acl::ACCESS, records.acl), ("default", acl::DEFAULT, records.default_acl)];
        let mut has_acl = records.has_other_acl;
        for (name, attribute, text) in texts {
            has_acl |= !self.take_acl(name, attribute, text, &mut xattrs)?;
        }
        let xattrs = self.with_acls(&kind, mode, xattrs);
        Ok(Entry {
            path,
            kind,
            mode,
            uid: self.id(records.uid, header.uid(), "owner")?,
            gid: self.id(records.gid, header.gid(), "group")?,
            modified,
            size,
            segments,
            xattrs,
            has_acl,
            offset: start,
        })
    }

    fn id(&self, record: Option<i64>, field: Result<i64, BadField>, name: &'static str) -> Result<u32, ReadError> {
        let id = match record {
            Some(id) => id,
            None => field.map_err(|bad| self.bad_field(bad))?,
        };
        // the largest number means "leave as it is" to the kernel
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| self.bad_field(BadField(name)))
    }

    /// An ACL in text form becomes an attribute. False if it names somebody whose number is not known.
    fn take_acl(
        &self,
        name: &str,
        attribute: &[u8],
        text: Option<Vec<u8>>,
        xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<bool, ReadError> {
        let Some(text) = text else { return Ok(true) };
        match acl::parse_acl(&text, &self.names) {
            Ok(value) => {
                xattrs.retain(|(other, _)| other != attribute);
                xattrs.push((attribute.to_vec(), value));
                Ok(true)
            }
            Err(AclFault::NameOnly) => Ok(false),
            Err(AclFault::Syntax) => Err(self.fault(TarFault::Record(format!("SCHILY.acl.{name}")))),
        }
    }

    /// Content that is about to be consumed.
    fn pass_by(&mut self, count: usize) {
        // it is in the buffer already, so that nothing is read here
        if self.names.is_seeing()
            && let Ok(bytes) = self.input.fill_buf()
        {
            self.names.see(bytes.get(..count).unwrap_or(bytes));
        }
    }

    /// What is made in a directory with a default ACL inherits it. An archive means what it says, so each entry gets
    /// its own; of the mode if it has no other.
    fn with_acls(&mut self, kind: &Kind, mode: u32, mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let has = |xattrs: &[(Vec<u8>, Vec<u8>)], wanted: &[u8]| xattrs.iter().any(|(name, _)| name == wanted);
        self.default_acl_seen |= has(&xattrs, acl::DEFAULT);
        if !self.default_acl_seen || matches!(kind, Kind::HardLink(_) | Kind::SymLink(_)) {
            return xattrs;
        }
        if !has(&xattrs, acl::ACCESS) {
            xattrs.push((acl::ACCESS.to_vec(), acl::of_mode(mode)));
        }
        if *kind == Kind::Directory && !has(&xattrs, acl::DEFAULT) {
            xattrs.push((acl::DEFAULT.to_vec(), acl::none()));
        }
        xattrs
    }

    fn check_name(&self, what: &'static str, name: &[u8], limit: usize) -> Result<(), ReadError> {
        if name.len() <= limit {
            return Ok(());
        }
        let start = String::from_utf8_lossy(name.get(..40).unwrap_or(name)).into_owned();
        Err(self.fault(TarFault::LongName { what, bytes: name.len(), limit, start }))
    }

    fn begin_content(&mut self, stored: u64) -> Result<(), ReadError> {
        self.remaining = stored;
        self.padding = padding(stored);
        match stored.checked_add(self.padding) {
            Some(_) => Ok(()),
            None => Err(self.bad_field(BadField("size"))),
        }
    }

    /// The map before the content of a sparse file in format 1.0; counts as content in the header.
    fn read_map(&mut self) -> Result<Vec<Segment>, ReadError> {
        let mut parser = sparse::MapParser::default();
        loop {
            if self.remaining < BLOCK_BYTES as u64 {
                return Err(self.fault(TarFault::SparseMap("the map is longer than what is stored")));
            }
            let block = self.read_block("a sparse map")?;
            self.remaining -= BLOCK_BYTES as u64;
            if parser.feed(&block).map_err(|fault| self.fault(fault))? {
                return Ok(parser.finish());
            }
        }
    }

    fn read_old_map(&mut self, header: &Header<'_>) -> Result<Vec<Segment>, ReadError> {
        let (mut segments, mut more) = header.sparse().map_err(|bad| self.bad_field(bad))?;
        while more {
            let block = self.read_block("a sparse map")?;
            let (next, more_still) = sparse_extension(&block).map_err(|bad| self.bad_field(bad))?;
            segments.extend(next);
            more = more_still;
            if segments.len() > SEGMENTS_MAX {
                return Err(self.fault(TarFault::TooManySegments));
            }
        }
        Ok(segments)
    }

    /// The body of an extended header, within the limit for all of an entry.
    fn read_extension(&mut self, header: &Header<'_>, extensions: &mut Extensions) -> Result<Vec<u8>, ReadError> {
        let size = header.size().map_err(|bad| self.bad_field(bad))?;
        self.count_extension(extensions, size)?;
        let mut body = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_exact(&mut body, "an extended header")?;
        self.skip(padding(size), "an extended header")?;
        Ok(body)
    }

    /// Empty ones count as well: there could be any number of them.
    fn count_extension(&self, extensions: &mut Extensions, size: u64) -> Result<(), ReadError> {
        let blocks = extensions.headers.saturating_mul(BLOCK_BYTES as u64);
        extensions.headers += 1;
        extensions.bytes = extensions.bytes.saturating_add(size);
        self.check_extended(extensions.bytes.saturating_add(blocks))
    }

    fn check_extended(&self, found: u64) -> Result<(), ReadError> {
        match found <= EXTENDED_MAX_BYTES {
            true => Ok(()),
            false => Err(self.fault(TarFault::ExtendedTooLarge { found, limit: EXTENDED_MAX_BYTES })),
        }
    }

    fn read_block(&mut self, what: &'static str) -> Result<Block, ReadError> {
        let mut block = [0; BLOCK_BYTES];
        self.read_exact(&mut block, what)?;
        Ok(block)
    }

    fn read_exact(&mut self, buf: &mut [u8], what: &'static str) -> Result<(), ReadError> {
        let mut filled = 0;
        while let Some(room) = buf.get_mut(filled..).filter(|room| !room.is_empty()) {
            let count = self.input.read(room)?;
            if count == 0 {
                return Err(self.fault(TarFault::Truncated(what)));
            }
            filled += count;
            self.offset += count as u64;
        }
        Ok(())
    }

    fn skip(&mut self, mut count: u64, what: &'static str) -> Result<(), ReadError> {
        while count > 0 {
            let available = self.input.fill_buf()?.len();
            if available == 0 {
                return Err(self.fault(TarFault::Truncated(what)));
            }
            let skipped = usize::try_from(count).unwrap_or(usize::MAX).min(available);
            self.pass_by(skipped);
            self.input.consume(skipped);
            self.offset += skipped as u64;
            count -= skipped as u64;
        }
        Ok(())
    }

    fn fault(&self, fault: TarFault) -> ReadError {
        let offset = match fault {
            TarFault::Truncated(_) => self.offset,
            _ => self.header_offset,
        };
        TarError { offset, fault }.into()
    }

    fn bad_field(&self, BadField(name): BadField) -> ReadError {
        self.fault(TarFault::Field(name))
    }

    fn bad_record(&self, bad: BadRecord) -> ReadError {
        self.fault(match bad {
            BadRecord::Unclear(near) => TarFault::Record(near),
            BadRecord::TooManyXattrs => TarFault::TooManyXattrs,
        })
    }
}

/// From the end of `size` bytes to the next block.
fn padding(size: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    (block - size % block) % block
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of the simplest kind, with its checksum.
    fn header(name: &str, typeflag: u8, size: u64) -> Block {
        let mut block = [0; BLOCK_BYTES];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[156] = typeflag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn padded(content: &[u8]) -> Vec<u8> {
        let mut content = content.to_vec();
        content.resize(content.len().next_multiple_of(BLOCK_BYTES), 0);
        content
    }

    const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

    fn read(archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>, TarFault> {
        let mut reader = Reader::new(archive);
        let mut found = Vec::new();
        let fault = |err| match err {
            ReadError::Tar(err) => err.fault,
            ReadError::Io(err) => panic!("{err}"),
        };
        while let Some(entry) = reader.next_entry().map_err(fault)? {
            let mut content = Vec::new();
            loop {
                let piece = reader.content().map_err(fault)?;
                if piece.is_empty() {
                    break;
                }
                let count = piece.len();
                content.extend_from_slice(piece);
                reader.consume(count);
            }
            found.push((String::from_utf8(entry.path).unwrap(), content));
        }
        Ok(found)
    }

    #[test]
    fn content_follows_its_header() {
        let archive = [&header("a", b'0', 3)[..], &padded(b"one"), &header("b", b'0', 0), &END].concat();
        assert_eq!(read(&archive).unwrap(), [("a".into(), b"one".to_vec()), ("b".into(), Vec::new())]);
    }

    #[test]
    fn an_archive_cut_anywhere_is_an_error() {
        let archive = [&header("a", b'0', 600)[..], &padded(&[7; 600]), &header("b", b'5', 0), &END].concat();
        for cut in 1..archive.len() - BLOCK_BYTES {
            let fault = read(&archive[..cut]).unwrap_err();
            assert!(matches!(fault, TarFault::Truncated(_)), "cut at {cut}: {fault:?}");
        }
        assert!(read(&archive[..archive.len() - BLOCK_BYTES]).is_ok());
    }

    #[test]
    fn extended_headers_have_a_limit() {
        let huge = [&header("x", b'x', 1 << 30)[..], &[b'1'; 4096]].concat();
        let found = TarFault::ExtendedTooLarge { found: 1 << 30, limit: EXTENDED_MAX_BYTES };
        assert_eq!(read(&huge).unwrap_err(), found);
        let half = EXTENDED_MAX_BYTES / 2 + 512;
        let long = [&header("L", b'L', half)[..], &padded(&vec![b'a'; half as usize])].concat();
        assert!(matches!(read(&[&long[..], &long].concat()).unwrap_err(), TarFault::ExtendedTooLarge { .. }));
    }

    #[test]
    fn global_records_have_a_limit_in_all() {
        let size = EXTENDED_MAX_BYTES / 2;
        let global = [&header("g", b'g', size)[..], &vec![0; size as usize]].concat();
        let archive = [&global[..], &header("a", b'0', 0), &global, &header("b", b'0', 0), &END].concat();
        assert_eq!(read(&archive).unwrap().len(), 2);
        let archive = [&archive[..archive.len() - END.len()], &global, &header("c", b'0', 0), &END].concat();
        assert!(matches!(read(&archive).unwrap_err(), TarFault::ExtendedTooLarge { .. }));
    }

    #[test]
    fn what_is_no_archive_is_named_as_such() {
        assert!(matches!(read(&[b'<'; 1024]).unwrap_err(), TarFault::NoHeader(start) if start.starts_with("3c3c")));
        assert_eq!(read(&[0; 10240]).unwrap_err(), TarFault::Empty);
        assert_eq!(read(&[]).unwrap_err(), TarFault::Empty);
        assert_eq!(read(&header("a", b'Q', 0)).unwrap_err(), TarFault::Type('Q'));
        let lone = [&header("a", b'0', 0)[..], &[0; 512], &header("b", b'0', 0), &END].concat();
        assert_eq!(read(&lone).unwrap_err(), TarFault::LoneZeroBlock);
    }

    #[test]
    fn a_symlink_with_a_size_has_no_content() {
        let archive = [&header("a", b'2', 9)[..], &header("b", b'0', 0), &END].concat();
        assert_eq!(read(&archive).unwrap().len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048), flag: u8) {
            let _ = read(&bytes);
            let _ = read(&[&header("a", flag, bytes.len() as u64)[..], &padded(&bytes), &END].concat());
        }
    }
}
