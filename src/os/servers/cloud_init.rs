//! cloud-init: left alone it writes a network for the first card at the first boot, by DHCP, which goes before ours.

use anyhow::Result;

use super::stranger::{NAME_SERVERS, Stranger, from_network};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

const PROGRAM: &str = "/usr/bin/cloud-init";
/// The last file counts.
const DROP_IN: &str = "/etc/cloud/cloud.cfg.d/zz-metal.cfg";

pub(super) fn apply(tree: &Tree, _: &Servers) -> Result<()> {
    if !tree.exists(PROGRAM) {
        return Ok(());
    }
    tree.write(DROP_IN, format!("{HEADER}network:\n  config: disabled\n"), 0o644)
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let writes_network = tree.exists(PROGRAM) && !tree.exists(DROP_IN) && !servers.dns.is_empty();
    Ok(writes_network.then(|| from_network("/etc/cloud/cloud.cfg", NAME_SERVERS)).into_iter().collect())
}
