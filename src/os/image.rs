//! What is in an image, and whether it can be installed.

use anyhow::{Result, bail};
use tracing::info;

use super::installer::Installer;
use super::kernels::Kernel;
use super::tree::{Tree, has_systemd};
use super::{Firmware, Input};

/// How the image gets installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the program it brings.
    Installer(Installer),
    /// By the agent.
    Native(ImageFacts),
}

/// What the native way wants to know of a Debian or Ubuntu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// `ID` of os-release: `debian`, `ubuntu`, or what is like them.
    pub os_id: String,
    pub kernel: Kernel,
    /// The group of those who may become root: `sudo` or `wheel`.
    pub admin_group: String,
    /// What sets the installed system's clock, if it has anything for that.
    pub time_sync: Option<TimeSync>,
    pub has_resolved: bool,
    pub has_ssh_keygen: bool,
}

/// A program that sets the clock. An image with several gets the first of these started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSync {
    Chrony,
    Ntpsec,
    Ntp,
    OpenNtpd,
    Timesyncd,
}

impl TimeSync {
    /// Debian's name of its service.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Chrony => "chrony.service",
            Self::Ntpsec => "ntpsec.service",
            Self::Ntp => "ntp.service",
            Self::OpenNtpd => "openntpd.service",
            Self::Timesyncd => "systemd-timesyncd.service",
        }
    }
}

/// Why an image cannot be installed: everything that is missing, each as a phrase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image cannot be installed: it has no {}", missing.join(", no "))]
pub struct Unfit {
    pub missing: Vec<String>,
}

/// Looks at the unpacked image and decides how to install it; the error is [`Unfit`], unless reading failed. Changes
/// nothing: [`super::configure`] asks before it writes anything.
pub(super) fn plan_way(tree: &Tree, input: &Input) -> Result<Way> {
    if let Some(installer) = Installer::find(tree) {
        info!(installer = installer.path(), "image brings its own installer");
        return Ok(Way::Installer(installer));
    }
    if input.firmware == Firmware::Uefi && !input.esp_mounted {
        bail!("the layout mounts no EFI system partition at /boot/efi, which a machine booted by UEFI needs");
    }
    let facts = read_facts(tree, input)?;
    info!(os = facts.os_id, kernel = facts.kernel.version, "image has no installer: configuring it natively");
    Ok(Way::Native(facts))
}

fn read_facts(tree: &Tree, input: &Input) -> Result<ImageFacts> {
    let mut missing = Vec::new();
    let os_release = tree.read_text("/etc/os-release")?.unwrap_or_default();
    let os_id = os_release_value(&os_release, "ID").to_lowercase();
    if !is_debian_like(&os_release) {
        let found = if os_id.is_empty() { "an /etc/os-release without ID".to_owned() } else { format!("ID={os_id}") };
        missing.push(format!(
            "installer (/install-go or /install.sh), and only Debian and Ubuntu are configured without one (found {found})"
        ));
    }
    if input.allocation.role == "firewall" {
        missing.push("installer (/install-go or /install.sh), which the role firewall needs".to_owned());
    }
    let kernel = Kernel::read(tree)?;
    missing_kernel(kernel.as_ref(), &mut missing);
    missing_programs(tree, &mut missing);
    missing_boot_loader(tree, input, &mut missing);
    let groups = tree.read_text("/etc/group")?.unwrap_or_default();
    let admin_group = ["sudo", "wheel"].into_iter().find(|name| has_entry(&groups, name));
    if admin_group.is_none() {
        missing.push("group sudo or wheel".to_owned());
    }
    match (kernel, admin_group) {
        (Some(kernel), Some(admin_group)) if missing.is_empty() => Ok(ImageFacts {
            os_id,
            kernel,
            admin_group: admin_group.to_owned(),
            time_sync: read_time_sync(tree),
            has_resolved: has_systemd(tree, "systemd-resolved"),
            has_ssh_keygen: tree.exists("/usr/bin/ssh-keygen"),
        }),
        _ => Err(Unfit { missing }.into()),
    }
}

fn missing_kernel(kernel: Option<&Kernel>, missing: &mut Vec<String>) {
    match kernel {
        None => missing.push("kernel (/boot/vmlinuz-*)".to_owned()),
        Some(kernel) if !kernel.has_initrd => {
            missing.push(format!(
                "initrd for its kernel ({}), without which root=UUID= is not found",
                kernel.initrd_path()
            ));
        }
        Some(_) => {}
    }
}

fn missing_programs(tree: &Tree, missing: &mut Vec<String>) {
    if !tree.exists("/sbin/init") {
        missing.push("init (/sbin/init)".to_owned());
    }
    if !has_systemd(tree, "systemd-networkd") {
        missing.push("systemd-networkd, which its network is configured with".to_owned());
    }
    for (path, name) in [
        ("/usr/sbin/useradd", "useradd"),
        ("/usr/sbin/userdel", "userdel"),
        ("/bin/bash", "bash"),
        ("/etc/passwd", "/etc/passwd"),
        ("/etc/shadow", "/etc/shadow"),
    ] {
        if !tree.exists(path) {
            missing.push(name.to_owned());
        }
    }
}

fn missing_boot_loader(tree: &Tree, input: &Input, missing: &mut Vec<String>) {
    for program in ["grub-install", "update-grub"] {
        if !tree.exists(&format!("/usr/sbin/{program}")) {
            missing.push(format!("{program} (package grub2-common)"));
        }
    }
    let (ours, package, other) = match input.firmware {
        Firmware::Uefi => ("x86_64-efi", "grub-efi-amd64-bin", "i386-pc"),
        Firmware::Bios => ("i386-pc", "grub-pc-bin", "x86_64-efi"),
    };
    let has = |target: &str| tree.exists(&format!("/usr/lib/grub/{target}/modinfo.sh"));
    if !has(ours) {
        let instead = if has(other) { format!("; it has one for {other} only") } else { String::new() };
        missing.push(format!("boot loader for {:?} (GRUB for {ours}, package {package}){instead}", input.firmware));
    }
    if input.raid_enabled() && !tree.exists("/sbin/mdadm") {
        missing.push("mdadm, which the layout's RAID needs at boot".to_owned());
    }
    if input.lvm_needed() && !tree.exists("/sbin/lvm") {
        missing.push("lvm (package lvm2), which the layout's volumes need at boot".to_owned());
    }
}

fn read_time_sync(tree: &Tree) -> Option<TimeSync> {
    if tree.exists("/usr/sbin/chronyd") {
        return Some(TimeSync::Chrony);
    }
    // A removed package may leave its configuration behind, but not its service.
    let dirs = ["/usr/lib/systemd/system", "/lib/systemd/system"];
    let has_unit = |program: &TimeSync| dirs.iter().any(|dir| tree.exists(&format!("{dir}/{}", program.unit())));
    let others = [TimeSync::Ntpsec, TimeSync::Ntp, TimeSync::OpenNtpd];
    let timesyncd = has_systemd(tree, "systemd-timesyncd").then_some(TimeSync::Timesyncd);
    others.into_iter().find(has_unit).or(timesyncd)
}

fn is_debian_like(os_release: &str) -> bool {
    let id = os_release_value(os_release, "ID").to_lowercase();
    let like = os_release_value(os_release, "ID_LIKE").to_lowercase();
    std::iter::once(id.as_str()).chain(like.split_whitespace()).any(|word| word == "debian" || word == "ubuntu")
}

/// Source: os-release(5): `KEY=value`, perhaps in quotes.
fn os_release_value<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(found, _)| *found == key)
        .map(|(_, value)| value.trim().trim_matches(['"', '\'']))
        .unwrap_or_default()
}

/// Whether `name` has a line in a file like `/etc/passwd`.
fn has_entry(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.split(':').next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_like_debian_is_seen() {
        assert!(is_debian_like("PRETTY_NAME=\"x\"\nID=debian\n"));
        assert!(is_debian_like("ID=\"Ubuntu\"\nID_LIKE=debian\n"));
        assert!(is_debian_like("ID=mine\nID_LIKE='ubuntu debian'\n"));
        assert!(!is_debian_like("ID=almalinux\nID_LIKE=\"rhel centos fedora\"\n"));
        assert!(!is_debian_like(""));
    }
}
