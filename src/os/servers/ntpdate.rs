//! ntpdate, which hooks of ifupdown start when a link comes up.

use anyhow::Result;

use super::stranger::{Stranger, named};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

/// Shell files: the last assignment counts.
const DEFAULTS: [&str; 2] = ["/etc/default/ntpsec-ntpdate", "/etc/default/ntpdate"];

pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    if servers.ntp.is_empty() {
        return Ok(());
    }
    for path in DEFAULTS {
        if let Some(text) = tree.read_text(path)? {
            let ours = format!("NTPDATE_USE_NTP_CONF=no\nIGNORE_DHCP=yes\nNTPSERVERS=\"{}\"\n", servers.ntp.join(" "));
            tree.rewrite(path, format!("{}\n\n{HEADER}{ours}", text.trim_end()))?;
        }
    }
    Ok(())
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let mut strangers = Vec::new();
    if servers.ntp.is_empty() {
        return Ok(strangers);
    }
    for path in DEFAULTS {
        let text = tree.read_text(path)?.unwrap_or_default();
        let last = text.lines().filter_map(|line| line.trim().strip_prefix("NTPSERVERS=")).next_back();
        let words = last.unwrap_or_default().trim_matches(['"', '\'']).split_whitespace();
        strangers.extend(named(path, words.map(str::to_owned).collect(), &servers.ntp));
    }
    Ok(strangers)
}
