//! NetworkManager.

use anyhow::Result;

use super::stranger::{NAME_SERVERS, Stranger, from_network};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

const PROGRAM: &str = "/usr/sbin/NetworkManager";
/// Read last of all: by name, behind NetworkManager.conf.
const DROP_IN: &str = "/etc/NetworkManager/conf.d/zz-metal.conf";

/// Name servers of DHCP and of connections go neither into resolv.conf nor to systemd-resolved. What it is told of time
/// servers it only hands to hooks, which write below /run: the time programs' own files are made deaf to that. Whether
/// the internet is there is not asked: that is a host of the distribution.
///
/// Source: NetworkManager.conf(5).
pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    if !tree.exists(PROGRAM) {
        return Ok(());
    }
    let dns =
        if servers.dns.is_empty() { "" } else { "[main]\ndns=none\nrc-manager=unmanaged\nsystemd-resolved=false\n\n" };
    tree.write(DROP_IN, format!("{HEADER}{dns}[connectivity]\nenabled=false\n"), 0o644)
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    if !tree.exists(PROGRAM) || servers.dns.is_empty() {
        return Ok(Vec::new());
    }
    let ours = tree.read_text(DROP_IN)?.unwrap_or_default();
    let keeps_out = ours.contains("\ndns=none\n") && ours.contains("\nsystemd-resolved=false\n");
    let file = "/etc/NetworkManager/NetworkManager.conf";
    Ok((!keeps_out).then(|| from_network(file, NAME_SERVERS)).into_iter().collect())
}
