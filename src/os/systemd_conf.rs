//! Settings of systemd's services and networks: a main file with drop-ins.

use std::collections::BTreeMap;

use anyhow::Result;

use super::tree::Tree;

/// Where the files are; earlier ones go before later ones.
const DIRS: [&str; 3] = ["/etc/systemd", "/usr/lib/systemd", "/lib/systemd"];

/// The words of a list setting after main file and drop-ins are read in systemd's order: drop-ins by their name
/// whatever their directory, each assignment adds, an empty one starts over. `main` is below systemd's directories:
/// `resolved.conf`, `network/80-dhcp.network`.
///
/// Source: systemd-system.conf(5), "Configuration directories and precedence"; systemd.network(5).
pub fn read_setting(tree: &Tree, main: &str, section: &str, key: &str) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for dir in DIRS {
        if let Some(text) = tree.read_text(&format!("{dir}/{main}"))? {
            texts.push(text);
            break;
        }
    }
    // In /etc a drop-in hides that of the same name in /usr.
    let mut drop_ins = BTreeMap::new();
    for dir in DIRS.iter().rev().map(|dir| format!("{dir}/{main}.d")) {
        for name in tree.names(&dir)?.into_iter().filter(|name| name.ends_with(".conf")) {
            let text = tree.read_text(&format!("{dir}/{name}"))?;
            drop_ins.insert(name, text.unwrap_or_default());
        }
    }
    texts.extend(drop_ins.into_values());
    Ok(parse_setting(&texts, section, key))
}

fn parse_setting(texts: &[String], section: &str, key: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for text in texts {
        let mut current = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                current = name;
                continue;
            }
            let Some((found, value)) = line.split_once('=') else { continue };
            if current != section || found.trim() != key {
                continue;
            }
            if value.trim().is_empty() {
                words.clear();
            }
            words.extend(value.split_whitespace().map(str::to_owned));
        }
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
        let read = || read_setting(&tree, "resolved.conf", "Resolve", "DNS").unwrap();
        tree.write("/etc/systemd/resolved.conf", "[Resolve]\n#DNS=192.0.2.9\nDNS=a\n", 0o644).unwrap();
        tree.write("/usr/lib/systemd/resolved.conf.d/20-b.conf", "[Resolve]\nDNS=b\n", 0o644).unwrap();
        tree.write("/usr/lib/systemd/resolved.conf.d/10-c.conf", "[Resolve]\nDNS=hidden\n", 0o644).unwrap();
        tree.write("/etc/systemd/resolved.conf.d/10-c.conf", "[Resolve]\nDNS = c\n", 0o644).unwrap();
        assert_eq!(read(), ["a", "c", "b"]);
        tree.write("/etc/systemd/resolved.conf.d/zz-metal.conf", "[Resolve]\nDNS=\nDNS=10.1.0.53\n", 0o644).unwrap();
        assert_eq!(read(), ["10.1.0.53"]);
    }

    #[test]
    fn a_key_counts_in_its_section_only() {
        let text = "[Network]\nDNS=10.1.0.53\n[DHCPServer]\nDNS=192.0.2.1\n".to_owned();
        assert_eq!(parse_setting(&[text], "Network", "DNS"), ["10.1.0.53"]);
        assert_eq!(parse_setting(&["DNS=192.0.2.1\n".to_owned()], "Network", "DNS"), Vec::<String>::new());
    }
}
