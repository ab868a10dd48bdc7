//! The keys that may log in as `metal`.

use anyhow::Result;
use tracing::warn;

use super::{Cx, metal_user};

/// Without a newline at the end, as upstream.
pub(super) fn apply(cx: &Cx) -> Result<()> {
    let keys = &cx.input.allocation.ssh_pub_keys;
    if keys.is_empty() {
        warn!("the allocation has no SSH key: only the console password lets anyone in");
        return Ok(());
    }
    let account = metal_user::read(cx)?;
    let owner = (account.uid, account.gid);
    let dir = format!("{}/.ssh", account.home);
    cx.tree.make_dir_owned(&dir, 0o700, owner)?;
    cx.tree.write_owned(&format!("{dir}/authorized_keys"), keys.join("\n"), 0o600, owner)
}
