//! Settings of systemd's services: a main file with drop-ins.

use std::collections::BTreeMap;

use anyhow::Result;

use super::tree::Tree;

/// The words of a list setting after main file and drop-ins are read in systemd's order: drop-ins by their name
/// whatever their directory, each assignment adds, an empty one starts over.
///
/// Source: systemd-system.conf(5), "Configuration directories and precedence".
pub fn read_setting(tree: &Tree, main: &str, key: &str) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for dir in ["/etc/systemd", "/usr/lib/systemd"] {
        if let Some(text) = tree.read_text(&format!("{dir}/{main}"))? {
            texts.push(text);
            break;
        }
    }
    // In /etc a drop-in hides that of the same name in /usr.
    let mut drop_ins = BTreeMap::new();
    for dir in drop_in_dirs(main) {
        for name in tree.names(&dir)?.into_iter().filter(|name| name.ends_with(".conf")) {
            let text = tree.read_text(&format!("{dir}/{name}"))?;
            drop_ins.insert(name, text.unwrap_or_default());
        }
    }
    texts.extend(drop_ins.into_values());
    Ok(parse_setting(&texts, key))
}

/// Whether the image has drop-ins for `main`, which would add to what the main file says.
pub fn has_drop_ins(tree: &Tree, main: &str) -> Result<bool> {
    for dir in drop_in_dirs(main) {
        if !tree.names(&dir)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Later ones go before earlier ones.
fn drop_in_dirs(main: &str) -> [String; 2] {
    ["/usr/lib/systemd", "/etc/systemd"].map(|dir| format!("{dir}/{main}.d"))
}

fn parse_setting(texts: &[String], key: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let assignments = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once('='));
    for (_, value) in assignments.filter(|(found, _)| found.trim() == key) {
        if value.trim().is_empty() {
            words.clear();
        }
        words.extend(value.split_whitespace().map(str::to_owned));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_add_in_the_order_of_their_names_and_an_empty_value_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let read = || read_setting(&tree, "resolved.conf", "DNS").unwrap();
        assert!(!has_drop_ins(&tree, "resolved.conf").unwrap());
        tree.write("/etc/systemd/resolved.conf", "[Resolve]\n#DNS=192.0.2.9\nDNS=a\n", 0o644).unwrap();
        tree.write("/usr/lib/systemd/resolved.conf.d/20-b.conf", "[Resolve]\nDNS=b\n", 0o644).unwrap();
        tree.write("/usr/lib/systemd/resolved.conf.d/10-c.conf", "[Resolve]\nDNS=hidden\n", 0o644).unwrap();
        tree.write("/etc/systemd/resolved.conf.d/10-c.conf", "[Resolve]\nDNS = c\n", 0o644).unwrap();
        assert_eq!(read(), ["a", "c", "b"]);
        tree.write("/etc/systemd/resolved.conf.d/zz-metal.conf", "[Resolve]\nDNS=\nDNS=10.1.0.53\n", 0o644).unwrap();
        assert_eq!(read(), ["10.1.0.53"]);
        assert!(has_drop_ins(&tree, "resolved.conf").unwrap());
    }
}
