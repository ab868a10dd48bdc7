//! SSH host keys of this machine's own.

use anyhow::Result;
use tracing::warn;

use super::Cx;

/// Debian makes them when the package is installed, so that all machines of one image would share them.
pub(super) fn apply(cx: &Cx) -> Result<()> {
    for name in cx.tree.names("/etc/ssh")?.iter().filter(|name| name.starts_with("ssh_host_")) {
        cx.tree.remove(&format!("/etc/ssh/{name}"))?;
    }
    if !cx.facts.has_ssh_keygen {
        warn!("image has no OpenSSH: the machine is reached by its console only");
        return Ok(());
    }
    cx.chroot.run("ssh-keygen", &["-A"])
}
