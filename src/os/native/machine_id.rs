//! The machine id, which systemd makes at the first boot.

use anyhow::Result;

use super::Cx;

/// Empty, so that each machine gets its own. It is made where it was missing, too: without the file systemd would take
/// the first boot for a factory reset, apply presets and perhaps ask questions on the console (machine-id(5)).
pub(super) fn apply(cx: &Cx) -> Result<()> {
    cx.tree.write("/etc/machine-id", "", 0o444)?;
    // Usually a link to the other one.
    if cx.tree.exists("/var/lib/dbus/machine-id") {
        cx.tree.rewrite("/var/lib/dbus/machine-id", "")?;
    }
    Ok(())
}
