//! Extended headers of pax: records `LENGTH KEY=VALUE\n`.
//!
//! Source: POSIX.1 `pax`, "pax Extended Header"; keys `GNU.sparse.*` and `SCHILY.*`: GNU tar manual, star(5).

use super::{Segment, Timestamp};

/// The most that the kernel lists of a file: `XATTR_LIST_MAX` of `include/uapi/linux/limits.h`, names with their NULs.
pub(super) const XATTR_NAMES_MAX_BYTES: usize = 65536;

/// What the records of one extended header say. `None`: not mentioned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) modified: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// ACLs in text form, a file's own and the one of a directory for what is made in it.
    pub(super) acl: Option<Vec<u8>>,
    pub(super) default_acl: Option<Vec<u8>>,
    /// There is an ACL of another kind.
    pub(super) has_other_acl: bool,
    pub(super) sparse: Sparse,
}

/// Keys `GNU.sparse.*`, formats 0.0, 0.1 and 1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// Length with holes.
    pub(super) real_size: Option<u64>,
    pub(super) segments: Option<Vec<Segment>>,
    /// Format 0.0: an offset whose length has not come yet.
    offset: Option<u64>,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadRecord {
    /// It can't be understood; its beginning.
    Unclear(String),
    /// With it there are more attributes than a file can have.
    TooManyXattrs,
}

impl Records {
    /// Adds the records of one header. Later ones replace earlier ones; an empty value takes a value back.
    pub(super) fn add(&mut self, mut bytes: &[u8]) -> Result<(), BadRecord> {
        // some writers fill up with NULs
        while bytes.first().is_some_and(|byte| *byte != 0) {
            let (key, value, rest) = split_record(bytes).ok_or_else(|| BadRecord::Unclear(shorten(bytes)))?;
            self.set(key, value).ok_or_else(|| BadRecord::Unclear(shorten(key)))?;
            if self.xattr_name_bytes() > XATTR_NAMES_MAX_BYTES {
                return Err(BadRecord::TooManyXattrs);
            }
            bytes = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let bytes = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes,
            b"linkpath" => self.link = bytes,
            b"size" => self.size = optional(value, parse_number)?,
            b"uid" => self.uid = optional(value, parse_number)?,
            b"gid" => self.gid = optional(value, parse_number)?,
            b"mtime" => self.modified = optional(value, parse_time)?,
            b"SCHILY.acl.access" => self.acl = bytes,
            b"SCHILY.acl.default" => self.default_acl = bytes,
            // what GNU tar --selinux writes; the kernel keeps the label with its NUL
            b"RHT.security.selinux" => self.set_xattr(b"security.selinux".to_vec(), &[value, &[0]].concat()),
            _ => match (key.strip_prefix(b"SCHILY.xattr."), key.strip_prefix(b"GNU.sparse.")) {
                (Some(name), _) => self.set_xattr(unescape(name), value),
                (None, Some(name)) => self.sparse.set(name, value)?,
                (None, None) => self.has_other_acl |= key.starts_with(b"SCHILY.acl."),
            },
        }
        Some(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: &[u8]) {
        self.xattrs.retain(|(other, _)| *other != name);
        self.xattrs.push((name, value.to_vec()));
    }

    fn xattr_name_bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, _)| name.len() + 1).sum()
    }
}

impl Sparse {
    fn set(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        match name {
            b"major" => self.major = Some(parse_number(value)?),
            b"minor" => self.minor = Some(parse_number(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(parse_number(value)?),
            b"map" => self.segments = Some(parse_map(value)?),
            b"offset" => self.offset = Some(parse_number(value)?),
            b"numbytes" => {
                let (offset, bytes) = (self.offset.take()?, parse_number(value)?);
                self.segments.get_or_insert_default().push(Segment { offset, bytes });
            }
            // numblocks: the number of segments, which we count ourselves
            _ => {}
        }
        Some(())
    }
}

/// Key, value and what follows the record.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = parse_number(bytes.get(..blank)?)?;
    let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, bytes.get(length..)?))
}

/// `OFFSET,LENGTH,OFFSET,LENGTH…`
fn parse_map(value: &[u8]) -> Option<Vec<Segment>> {
    let mut numbers = value.split(|byte| *byte == b',').filter(|number| !number.is_empty());
    let mut segments = Vec::new();
    while let Some(offset) = numbers.next() {
        segments.push(Segment { offset: parse_number(offset)?, bytes: parse_number(numbers.next()?)? });
    }
    Some(segments)
}

/// Seconds, with a fraction of any length.
fn parse_time(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    let seconds: i64 = if whole.is_empty() || whole == "-" { 0 } else { whole.parse().ok()? };
    // -1.25 is 0.75 after -2
    match text.starts_with('-') && nanos > 0 {
        true => Some(Timestamp { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos }),
        false => Some(Timestamp { seconds, nanos }),
    }
}

pub(super) fn parse_number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The outer `None` is a bad value, the inner one an empty value.
fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() { Some(None) } else { parse(value).map(Some) }
}

/// GNU tar writes `%` and `=` in the names of attributes as `%25` and `%3D`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'%', [b'2', b'5', tail @ ..]) => (b'%', tail),
            (b'%', [b'3', b'D' | b'd', tail @ ..]) => (b'=', tail),
            _ => (*first, tail),
        };
        plain.push(byte);
        rest = tail;
    }
    plain
}

fn shorten(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..40).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &[u8]) -> Result<Records, BadRecord> {
        let mut records = Records::default();
        records.add(text)?;
        Ok(records)
    }

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let length = (1..).find(|length: &usize| length.to_string().len() + body.len() == *length).unwrap();
        [length.to_string().as_bytes(), &body].concat()
    }

    #[test]
    fn records_may_hold_any_byte() {
        let text = [record("SCHILY.xattr.user.a%3Db", b"\0\n=\xff"), record("path", b"a\nb")].concat();
        let found = records(&text).unwrap();
        assert_eq!(found.xattrs, [(b"user.a=b".to_vec(), b"\0\n=\xff".to_vec())]);
        assert_eq!(found.path.as_deref(), Some(&b"a\nb"[..]));
    }

    #[test]
    fn an_empty_value_takes_back() {
        assert_eq!(records(b"13 size=1234\n").unwrap().size, Some(1234));
        assert_eq!(records(b"13 size=1234\n8 size=\n").unwrap().size, None);
    }

    #[test]
    fn times_before_1970_count_forwards() {
        let time = |text: &str| parse_time(text.as_bytes()).map(|time| (time.seconds, time.nanos));
        assert_eq!(time("1.5"), Some((1, 500_000_000)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-1"), Some((-1, 0)));
        assert_eq!(time("-0.000000001"), Some((-1, 999_999_999)));
        assert_eq!(time("7.1234567899"), Some((7, 123_456_789)));
        assert_eq!((time("x"), time("1.x"), time("1e9")), (None, None, None));
    }

    #[test]
    fn sparse_maps_of_both_old_forms() {
        let text = [("offset", b"0"), ("numbytes", b"5"), ("offset", b"9")];
        let text = text.map(|(key, value)| record(&format!("GNU.sparse.{key}"), value)).concat();
        let old = records(&text).unwrap();
        assert_eq!(old.sparse.segments, Some(vec![Segment { offset: 0, bytes: 5 }]));
        assert_eq!(
            parse_map(b"0,5,10,2"),
            Some(vec![Segment { offset: 0, bytes: 5 }, Segment { offset: 10, bytes: 2 }])
        );
        assert_eq!(parse_map(b"0,5,10"), None);
    }

    #[test]
    fn acls_are_kept_as_text() {
        let both = [record("SCHILY.acl.access", b"user::r--"), record("SCHILY.acl.default", b"other::r--")].concat();
        let found = records(&both).unwrap();
        assert_eq!((found.acl, found.default_acl), (Some(b"user::r--".to_vec()), Some(b"other::r--".to_vec())));
        assert!(records(&record("SCHILY.acl.ace", b"owner@:r")).unwrap().has_other_acl);
        let back = [record("SCHILY.acl.access", b"user::r--"), record("SCHILY.acl.access", b"")].concat();
        assert_eq!(records(&back).unwrap(), Records::default());
    }

    #[test]
    fn names_of_attributes_have_a_limit() {
        let named = |count: usize| {
            (0..count).flat_map(|n| record(&format!("SCHILY.xattr.user.{n:0994}"), b"")).collect::<Vec<u8>>()
        };
        assert_eq!(records(&named(65)).unwrap().xattrs.len(), 65);
        assert_eq!(records(&named(66)), Err(BadRecord::TooManyXattrs));
    }

    #[test]
    fn bad_records_are_named() {
        for text in [&b"5 a=b\n"[..], b"x path=a\n", b"99 path=a\n", b"7 path\n", b"0 a=\n"] {
            assert!(records(text).is_err(), "{text:?}");
        }
    }
}
