//! The files under `/etc/metal` that every installed system gets, however it is installed.

use anyhow::Result;

use super::tree::Tree;
use super::{Input, disk_json, install_yaml, user_data};

pub const USER_DATA: &str = "/etc/metal/userdata";

pub fn write(tree: &Tree, input: &Input) -> Result<()> {
    tree.make_dir("/etc/metal")?;
    tree.write("/etc/metal/disk.json", disk_json::render(&input.filesystems), 0o600)?;
    tree.write("/etc/metal/install.yaml", install_yaml::render(input), 0o600)?;
    if let Some(content) = user_data::decode(&input.allocation.user_data) {
        tree.write(USER_DATA, content, 0o600)?;
    }
    // Takes away LVM's dependence on udev, where the agent made volumes without udev.
    if let Some(content) = &input.lvmlocal_conf
        && tree.exists("/etc/lvm")
    {
        tree.write("/etc/lvm/lvmlocal.conf", content, 0o600)?;
    }
    Ok(())
}
