//! User data, as far as it takes effect before the first boot.

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::Cx;
use crate::os::metal_files::USER_DATA;
use crate::os::user_data::{Kind, kind};

/// Its failure never keeps a machine from booting: whoever wrote the data can still log in and look.
pub(super) fn apply(cx: &Cx) -> Result<()> {
    let Some(content) = cx.tree.read(USER_DATA)? else { return Ok(()) };
    match kind(&content) {
        Kind::CloudConfig => best_effort(check_cloud_config(cx)),
        Kind::Ignition => best_effort(run_ignition(cx, &content)),
        Kind::Unknown => warn!("user data is neither cloud-config nor Ignition: it stays in {USER_DATA}"),
    }
    // The data may have brought services.
    best_effort(cx.chroot.run("systemctl", &["preset-all"]));
    Ok(())
}

/// The image's own service applies it at the first boot; mistakes are told already now.
fn check_cloud_config(cx: &Cx) -> Result<()> {
    if !cx.tree.exists("/usr/bin/cloud-init") {
        warn!("user data is cloud-config, but the image has no cloud-init");
        return Ok(());
    }
    cx.chroot.run("cloud-init", &["devel", "schema", "--config-file", USER_DATA]).context("checking the cloud-config")
}

fn run_ignition(cx: &Cx, content: &[u8]) -> Result<()> {
    cx.tree.write("/config.ign", content, 0o600)?;
    cx.tree.remove(USER_DATA)?;
    info!("running Ignition in the image");
    cx.chroot
        .run("ignition", &["-oem", "file", "-stage", "files", "-log-to-stdout"])
        .context("applying the Ignition config")
}

fn best_effort(result: Result<()>) {
    if let Err(error) = result {
        warn!(error = format!("{error:#}"), "user data was not applied cleanly; going on");
    }
}
