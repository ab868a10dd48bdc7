//! `/etc/hostname`.

use anyhow::Result;

use super::Cx;

/// Without a newline, as upstream.
pub(super) fn apply(cx: &Cx) -> Result<()> {
    cx.tree.write("/etc/hostname", &cx.input.allocation.hostname, 0o644)
}
