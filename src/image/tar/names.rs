//! Numbers of users and groups by name, from the archive's own `etc/passwd` and `etc/group` as they pass by.
//!
//! Only they can tell: the image's numbers are not those of the machine that unpacks it.

use std::collections::HashMap;

/// Larger tables are not looked at; Debian's have 2 kB.
const TABLE_MAX_BYTES: u64 = 128 << 10;

/// Whose names a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Users,
    Groups,
}

#[derive(Debug, Default)]
pub(super) struct Names {
    users: HashMap<Vec<u8>, u32>,
    groups: HashMap<Vec<u8>, u32>,
    /// The table whose content passes by, and what was seen of it.
    passing: Option<(Table, Vec<u8>)>,
}

impl Names {
    /// An entry with this content begins.
    pub(super) fn begin(&mut self, path: &[u8], content_bytes: u64) {
        self.end();
        let mut parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        let table = match (parts.next(), parts.next(), parts.next()) {
            (Some(b"etc"), Some(b"passwd"), None) => Table::Users,
            (Some(b"etc"), Some(b"group"), None) => Table::Groups,
            _ => return,
        };
        if content_bytes <= TABLE_MAX_BYTES {
            self.passing = Some((table, Vec::new()));
        }
    }

    /// Content of the present entry.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        if let Some((_, seen)) = &mut self.passing {
            seen.extend_from_slice(bytes);
        }
    }

    pub(super) fn is_seeing(&self) -> bool {
        self.passing.is_some()
    }

    pub(super) fn id(&self, table: Table, name: &[u8]) -> Option<u32> {
        match table {
            Table::Users => self.users.get(name).copied(),
            Table::Groups => self.groups.get(name).copied(),
        }
    }

    /// The present entry's content has passed.
    pub(super) fn end(&mut self) {
        match self.passing.take() {
            Some((Table::Users, text)) => self.users = parse_table(&text),
            Some((Table::Groups, text)) => self.groups = parse_table(&text),
            None => {}
        }
    }
}

/// passwd(5), group(5): the name first and the number third. Of a name that comes twice the first counts, as in libc.
fn parse_table(text: &[u8]) -> HashMap<Vec<u8>, u32> {
    let mut ids = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let id = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(id)) {
            ids.entry(name.to_vec()).or_insert(id);
        }
    }
    ids
}

#[cfg(test)]
impl Names {
    /// As if these tables had passed.
    pub(super) fn of(users: &str, groups: &str) -> Self {
        Self { users: parse_table(users.as_bytes()), groups: parse_table(groups.as_bytes()), passing: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_known_by_their_path_and_only_there() {
        let mut names = Names::default();
        for (path, text) in [
            ("./etc/passwd", "root:x:0:0:root:/root:/bin/sh\nodd\ncarol:x:1000:1000::/:/bin/sh\ncarol:x:1:1::/:/\n"),
            ("/etc/group", "adm:x:4:\n"),
            ("usr/etc/group", "adm:x:5:\n"),
            ("etc/group/below", "adm:x:6:\n"),
        ] {
            names.begin(path.as_bytes(), text.len() as u64);
            let (one, two) = text.as_bytes().split_at(3);
            names.see(one);
            names.see(two);
        }
        names.end();
        let ids = [(Table::Users, "carol"), (Table::Groups, "adm"), (Table::Users, "adm"), (Table::Users, "odd")];
        let ids = ids.map(|(table, name)| names.id(table, name.as_bytes()));
        assert_eq!(ids, [Some(1000), Some(4), None, None]);
    }

    #[test]
    fn a_table_too_large_to_be_one_is_not_kept() {
        let mut names = Names::default();
        names.begin(b"etc/passwd", TABLE_MAX_BYTES + 1);
        assert!(!names.is_seeing());
    }
}
