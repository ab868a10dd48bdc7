//! netplan: it writes networks for systemd-networkd at every boot, below /run. Their names follow from the ids in its
//! files, so that drop-ins can wait for them.

use anyhow::Result;

use super::Servers;
use super::networkd::{has_drop_in, write_drop_in};
use super::stranger::{NAME_SERVERS, Stranger, TIME_SERVERS, from_network};
use crate::os::tree::Tree;

/// Later ones hide files of the same name; for ids that does not matter.
const DIRS: [&str; 2] = ["/usr/lib/netplan", "/etc/netplan"];
/// Keys below `network:` whose children are links.
const KINDS: [&str; 8] =
    ["ethernets", "bonds", "bridges", "vlans", "vrfs", "tunnels", "dummy-devices", "virtual-ethernets"];

pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    for (_, id) in read_links(tree)? {
        write_drop_in(tree, &network(&id), servers)?;
    }
    Ok(())
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let mut strangers = Vec::new();
    for (file, id) in read_links(tree)? {
        if has_drop_in(tree, &network(&id)) {
            continue;
        }
        let wanted = [(&servers.dns, NAME_SERVERS), (&servers.ntp, TIME_SERVERS)];
        strangers.extend(wanted.iter().filter(|(list, _)| !list.is_empty()).map(|(_, what)| from_network(&file, what)));
    }
    Ok(strangers)
}

/// Source: netplan's generator for networkd.
fn network(id: &str) -> String {
    format!("10-netplan-{id}.network")
}

/// Files and the ids of links in them.
fn read_links(tree: &Tree) -> Result<Vec<(String, String)>> {
    let mut links = Vec::new();
    for dir in DIRS {
        for name in tree.names(dir)?.into_iter().filter(|name| name.ends_with(".yaml")) {
            let file = format!("{dir}/{name}");
            let text = tree.read_text(&file)?.unwrap_or_default();
            links.extend(parse_links(&text).into_iter().map(|id| (file.clone(), id)));
        }
    }
    Ok(links)
}

/// Ids of links in block style, as netplan's own files and cloud-init's are.
fn parse_links(text: &str) -> Vec<String> {
    let mut ids = Vec::new();
    // Indent of the kind we are in, and of its children once one was seen.
    let mut kind: Option<(usize, Option<usize>)> = None;
    for line in text.lines() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - content.len();
        let key = content.split_once(':').map(|(key, _)| key.trim().trim_matches(['"', '\'']));
        if kind.is_some_and(|(outer, _)| indent <= outer) {
            kind = None;
        }
        match (&mut kind, key) {
            (None, Some(key)) if KINDS.contains(&key) => kind = Some((indent, None)),
            (Some((_, child @ None)), Some(key)) => {
                *child = Some(indent);
                ids.push(key.to_owned());
            }
            (Some((_, Some(child))), Some(key)) if *child == indent => ids.push(key.to_owned()),
            (None | Some(_), _) => {}
        }
    }
    // They become names of files.
    ids.retain(|id| !id.is_empty() && !id.contains('/'));
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_every_kind_are_found_and_their_settings_are_not_links() {
        let text = "network:\n  version: 2\n  # the cards\n  ethernets:\n    all-en:\n      match:\n        name: \"en*\"\n      \
                    nameservers:\n        addresses: [192.0.2.1]\n    \"eth0\": {dhcp4: true}\n  vlans:\n      mgmt:\n        id: 5\n  \
                    renderer: networkd\n";
        assert_eq!(parse_links(text), ["all-en", "eth0", "mgmt"]);
        assert_eq!(parse_links("network: {version: 2}\n"), Vec::<String>::new());
        assert_eq!(parse_links("ethernets:\n../../x: y\n  ../up: z\n"), Vec::<String>::new());
    }
}
