//! dhcpcd, which ifupdown uses on newer systems.

use anyhow::Result;

use super::stranger::{NAME_SERVERS, Stranger, TIME_SERVERS, from_network};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

const CONF: &str = "/etc/dhcpcd.conf";
const NO_NAME_SERVERS: &str = "nohook resolv.conf\n";
/// Whichever of the time programs is there.
const NO_TIME_SERVERS: &str =
    "nohook ntp.conf, ntp-common.conf, ntpsec.conf, openntpd.conf, chrony.conf, timesyncd.conf\n";

/// At the top: what stands below a line `interface` is for that one only.
///
/// Source: dhcpcd.conf(5).
pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    let Some(text) = tree.read_text(CONF)? else { return Ok(()) };
    let dns = if servers.dns.is_empty() { "" } else { NO_NAME_SERVERS };
    let ntp = if servers.ntp.is_empty() { "" } else { NO_TIME_SERVERS };
    if dns.is_empty() && ntp.is_empty() {
        return Ok(());
    }
    tree.rewrite(CONF, format!("{HEADER}{dns}{ntp}\n{text}"))
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let Some(text) = tree.read_text(CONF)? else { return Ok(Vec::new()) };
    let wanted = [(&servers.dns, NO_NAME_SERVERS, NAME_SERVERS), (&servers.ntp, NO_TIME_SERVERS, TIME_SERVERS)];
    let open = wanted.iter().filter(|(list, closed, _)| !list.is_empty() && !text.contains(closed));
    Ok(open.map(|(_, _, what)| from_network(CONF, what)).collect())
}
