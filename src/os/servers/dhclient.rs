//! ISC's dhclient, which ifupdown uses. `supersede` in its configuration takes addresses only, and time servers may be
//! names; so its script is kept from telling anybody.

use anyhow::Result;

use super::stranger::{NAME_SERVERS, Stranger, TIME_SERVERS, from_network};
use super::{HEADER, Servers};
use crate::os::tree::Tree;

const PROGRAM: &str = "/sbin/dhclient";
const HOOK: &str = "/etc/dhcp/dhclient-enter-hooks.d/zz-metal";

/// Source: dhclient-script(8): enter hooks are sourced before anything is done, in the order of their names; the names
/// `run-parts` takes have no dot.
pub(super) fn apply(tree: &Tree, servers: &Servers) -> Result<()> {
    match render(servers) {
        Some(hook) if tree.exists(PROGRAM) => tree.write(HOOK, hook, 0o644),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn read_strangers(tree: &Tree, servers: &Servers) -> Result<Vec<Stranger>> {
    if !tree.exists(PROGRAM) {
        return Ok(Vec::new());
    }
    let hook = tree.read_text(HOOK)?.unwrap_or_default();
    let wanted = [(&servers.dns, NO_NAME_SERVERS, NAME_SERVERS), (&servers.ntp, NO_TIME_SERVERS, TIME_SERVERS)];
    let open = wanted.iter().filter(|(list, closed, _)| !list.is_empty() && !hook.contains(closed));
    Ok(open.map(|(_, _, what)| from_network("/etc/dhcp/dhclient.conf", what)).collect())
}

/// Other hooks (resolvconf's, systemd-resolved's) may have put a function of theirs in place of the script's.
const NO_NAME_SERVERS: &str = "make_resolv_conf() { :; }\nunset new_domain_name_servers new_dhcp6_name_servers\n";
/// Exit hooks of the time programs go by these.
const NO_TIME_SERVERS: &str = "unset new_ntp_servers new_dhcp6_sntp_servers\n";

/// `None` when nobody named any servers.
fn render(servers: &Servers) -> Option<String> {
    let dns = if servers.dns.is_empty() { "" } else { NO_NAME_SERVERS };
    let ntp = if servers.ntp.is_empty() { "" } else { NO_TIME_SERVERS };
    (!dns.is_empty() || !ntp.is_empty()).then(|| {
        format!("{HEADER}# The servers of this machine are configured: those of DHCP do not count.\n{dns}{ntp}")
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// As dhclient-script does it: its own function, then the hooks, then what the server said.
    #[test]
    fn a_shell_that_sources_the_hook_forgets_what_dhcp_said() {
        let dir = tempfile::tempdir().unwrap();
        let hook = dir.path().join("zz-metal");
        let servers = Servers { dns: vec!["10.1.0.53".into()], ntp: vec!["ntp.lab.example".into()] };
        std::fs::write(&hook, render(&servers).unwrap()).unwrap();
        let script = "make_resolv_conf() { echo written; }\nnew_ntp_servers=192.0.2.1\nnew_domain_name_servers=192.0.2.2\n\
                      . \"$0\"\nmake_resolv_conf\n\
                      echo \"ntp=${new_ntp_servers-} dns=${new_domain_name_servers-}\"";
        let done = Command::new("/bin/sh").args(["-euc", script]).arg(&hook).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stdout), "ntp= dns=\n", "{done:?}");
    }
}
