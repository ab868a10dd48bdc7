//! Services that the configuration relies on, enabled.

use anyhow::Result;
use tracing::warn;

use super::Cx;
use crate::os::image::TimeSync;

/// `systemctl` works on the files of the image when it runs in a chroot.
pub(super) fn apply(cx: &Cx) -> Result<()> {
    let time_sync = cx.facts.time_sync.map(TimeSync::unit);
    if time_sync.is_none() {
        warn!(servers = ?cx.servers.ntp, "image has no program that sets the clock from the network");
    }
    let resolved = cx.facts.has_resolved.then_some("systemd-resolved.service");
    let units = [Some("systemd-networkd.service"), resolved, time_sync].into_iter().flatten();
    let args: Vec<&str> = std::iter::once("enable").chain(units).collect();
    cx.chroot.run("systemctl", &args)
}
