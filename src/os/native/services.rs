//! Services that the configuration relies on, enabled.

use anyhow::Result;

use super::Cx;
use crate::os::image::TimeSync;

/// `systemctl` works on the files of the image when it runs in a chroot.
pub(super) fn apply(cx: &Cx) -> Result<()> {
    let time_sync = match cx.facts.time_sync {
        TimeSync::Chrony => Some("chrony.service"),
        TimeSync::Timesyncd => Some("systemd-timesyncd.service"),
        TimeSync::Nothing => None,
    };
    let resolved = cx.facts.has_resolved.then_some("systemd-resolved.service");
    let units = [Some("systemd-networkd.service"), resolved, time_sync].into_iter().flatten();
    let args: Vec<&str> = std::iter::once("enable").chain(units).collect();
    cx.chroot.run("systemctl", &args)
}
