//! POSIX ACLs: from the text in an archive to what the kernel keeps as an extended attribute.
//!
//! The text is that of acl(5), as GNU tar, star and bsdtar write it; the two latter add the number behind the name
//! (`user:carol:r-x:1000`). Source of the other form: `include/uapi/linux/posix_acl_xattr.h`.

use super::names::{Names, Table};

/// Attribute that holds a file's own ACL.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Attribute of a directory with the ACL that is given to what is made in it.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// `ACL_UNDEFINED_ID`, of entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// Why a text is not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AclFault {
    Syntax,
    /// A user or group is named without its number, and the archive's tables have not told it.
    NameOnly,
}

/// One line of an ACL. Ordered as the kernel wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    tag: u16,
    id: u32,
    permissions: u16,
}

/// The attribute's value for an ACL in text form. A number behind a name counts, and else the number of that name.
pub(super) fn parse_acl(text: &[u8], names: &Names) -> Result<Vec<u8>, AclFault> {
    let text = String::from_utf8_lossy(text);
    let texts = text.split([',', '\n']).map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut lines = texts
        .filter(|line| !line.is_empty())
        .map(|line| parse_line(line, names))
        .collect::<Result<Vec<Line>, AclFault>>()?;
    lines.sort_unstable();
    if is_complete(&lines) { Ok(binary(&lines)) } else { Err(AclFault::Syntax) }
}

/// The ACL that says no more than a mode. The kernel keeps it as the mode alone.
pub(super) fn of_mode(mode: u32) -> Vec<u8> {
    let line = |tag, shift: u32| Line { tag, id: NOBODY, permissions: u16::try_from(mode >> shift & 7).unwrap_or(0) };
    binary(&[line(USER_OBJ, 6), line(GROUP_OBJ, 3), line(OTHER, 0)])
}

/// No lines at all: takes an ACL away.
pub(super) fn none() -> Vec<u8> {
    binary(&[])
}

fn binary(lines: &[Line]) -> Vec<u8> {
    let mut value = VERSION.to_le_bytes().to_vec();
    for line in lines {
        value.extend(line.tag.to_le_bytes());
        value.extend(line.permissions.to_le_bytes());
        value.extend(line.id.to_le_bytes());
    }
    value
}

fn parse_line(line: &str, names: &Names) -> Result<Line, AclFault> {
    let fields: Vec<&str> = line.split(':').map(str::trim).collect();
    let (tag, name, permissions, number) = match fields.as_slice() {
        [tag @ ("mask" | "m" | "other" | "o"), permissions] => (*tag, "", *permissions, ""),
        [tag, name, permissions] => (*tag, *name, *permissions, ""),
        [tag, name, permissions, number] => (*tag, *name, *permissions, *number),
        _ => return Err(AclFault::Syntax),
    };
    let tag = match (tag, name.is_empty()) {
        ("user" | "u", true) => USER_OBJ,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => GROUP_OBJ,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", true) => MASK,
        ("other" | "o", true) => OTHER,
        _ => return Err(AclFault::Syntax),
    };
    let id = match tag {
        USER => parse_id(name, number, Table::Users, names)?,
        GROUP => parse_id(name, number, Table::Groups, names)?,
        _ => NOBODY,
    };
    Ok(Line { tag, id, permissions: parse_permissions(permissions)? })
}

/// The number behind, or a name that is one or has one.
fn parse_id(name: &str, number: &str, table: Table, names: &Names) -> Result<u32, AclFault> {
    let digits = if number.is_empty() { name } else { number };
    match digits.parse() {
        Ok(NOBODY) => Err(AclFault::Syntax),
        Ok(id) => Ok(id),
        Err(_) if number.is_empty() => names.id(table, name.as_bytes()).ok_or(AclFault::NameOnly),
        Err(_) => Err(AclFault::Syntax),
    }
}

fn parse_permissions(text: &str) -> Result<u16, AclFault> {
    text.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | 4),
        'w' => Ok(bits | 2),
        'x' => Ok(bits | 1),
        '-' => Ok(bits),
        _ => Err(AclFault::Syntax),
    })
}

/// What the kernel (`posix_acl_valid`) and acl_check(3) ask for: the three of a mode once each, a mask with names, and
/// nobody twice.
fn is_complete(sorted: &[Line]) -> bool {
    let count = |tag| sorted.iter().filter(|line| line.tag == tag).count();
    let masks = if count(USER) + count(GROUP) > 0 { 1..=1 } else { 0..=1 };
    let twice = sorted.windows(2).any(|pair| matches!(pair, [one, two] if (one.tag, one.id) == (two.tag, two.id)));
    [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1) && masks.contains(&count(MASK)) && !twice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_all_makers_gives_the_kernels_form() {
        let expected = [
            &[2_u8, 0, 0, 0][..],
            &[1, 0, 7, 0, 255, 255, 255, 255],
            &[2, 0, 5, 0, 0xe8, 3, 0, 0],
            &[4, 0, 5, 0, 255, 255, 255, 255],
            &[8, 0, 4, 0, 50, 0, 0, 0],
            &[16, 0, 7, 0, 255, 255, 255, 255],
            &[32, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        for text in [
            "user::rwx,user:1000:r-x,group::r-x,group:50:r--,mask::rwx,other::---",
            "user::rwx\nuser:1000:r-x\ngroup::r-x\ngroup:50:r--\nmask::rwx\nother::---\n",
            "user::rwx,user:carol:r-x:1000,group::r-x,group:staff:r--:50,mask::rwx,other::---",
            "user::rwx,group::r-x,group:50:r--\t#effective:r--,user:1000:rx,m:rwx,o:",
            "user::rwx,user:dave:r-x,group::r-x,group:crew:r--,mask::rwx,other::---",
        ] {
            let names = Names::of("dave:x:1000:1:\ncarol:x:7:7:\n", "crew:x:50:\n");
            assert_eq!(parse_acl(text.as_bytes(), &names), Ok(expected.clone()), "{text}");
        }
    }

    fn parse(text: &[u8]) -> Result<Vec<u8>, AclFault> {
        parse_acl(text, &Names::default())
    }

    #[test]
    fn a_name_alone_is_told_from_nonsense() {
        let with = |line: &str| parse(format!("user::rwx,group::r-x,mask::rwx,other::---,{line}").as_bytes());
        assert_eq!(with("user:carol:rwx"), Err(AclFault::NameOnly));
        for line in ["user:1:rwz", "user:1:rwx:carol", "who:1:rwx", "user", "user:4294967295:rwx", "other:1:r--", "::"]
        {
            assert_eq!(with(line), Err(AclFault::Syntax), "{line}");
        }
        assert_eq!(with("user:1:rwx,user:1:r--"), Err(AclFault::Syntax));
        assert_eq!(with("other::r--"), Err(AclFault::Syntax));
        assert_eq!(parse(b"user::rwx,group::r-x,other::---,user:1:r--"), Err(AclFault::Syntax), "no mask");
        assert_eq!(parse(b""), Err(AclFault::Syntax));
    }

    #[test]
    fn a_mode_is_an_acl_of_three_lines() {
        assert_eq!(Ok(of_mode(0o4751)), parse(b"user::rwx,group::r-x,other::--x"));
        assert_eq!(none(), [2, 0, 0, 0]);
    }
}
