//! systemd-timesyncd.

use anyhow::Result;

use super::stranger::{Stranger, named};
use super::{HEADER, Servers};
use crate::os::systemd_conf::read_setting;
use crate::os::tree::{Tree, has_systemd};

const MAIN: &str = "/etc/systemd/timesyncd.conf";
/// Sorts behind the image's, and behind what hooks of DHCP clients write below /run.
const DROP_IN: &str = "/etc/systemd/timesyncd.conf.d/zz-metal.conf";

pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    if servers.ntp.is_empty() || !has_systemd(tree, "systemd-timesyncd") {
        return Ok(());
    }
    tree.write(DROP_IN, render(&servers.ntp), 0o644)?;
    // Upstream's installer writes it, and people look there.
    tree.write(MAIN, render(&servers.ntp), 0o644)
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    let mut strangers = Vec::new();
    if !servers.ntp.is_empty() {
        for key in ["NTP", "FallbackNTP"] {
            let found = read_setting(tree, "timesyncd.conf", "Time", key)?;
            strangers.extend(named("systemd-timesyncd's configuration", found, &servers.ntp));
        }
    }
    Ok(strangers)
}

/// Without the empty assignments, what the image brings, or the pool compiled into timesyncd, would be asked as well.
fn render(servers: &[String]) -> String {
    format!("{HEADER}[Time]\nNTP=\nNTP={}\nFallbackNTP=\n", servers.join(" "))
}
