//! NICs whose firmware speaks LLDP itself and keeps the switch's frames from the kernel: Intel's i40e and ice.
//!
//! i40e has the private flag `disable-fw-lldp`, and where a driver is older than that, the command `lldp stop` in
//! debugfs; ice has `fw-lldp-agent`. Whatever fails here is a warning: the machine then has no neighbours on that link.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use tracing::{info, warn};

use crate::net::links::EthernetLink;
use crate::sys::ethtool_flags::{apply_private_flag, read_private_flags};
use crate::sys::roots::Roots;

/// For all links together: firmware that does not answer must not hold up the network.
const LIMIT: Duration = Duration::from_secs(10);

/// A driver whose NICs do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    I40e,
    Ice,
}

impl Driver {
    fn named(name: &str) -> Option<Self> {
        match name {
            "i40e" => Some(Self::I40e),
            "ice" => Some(Self::Ice),
            _ => None,
        }
    }

    /// Its private flag, and the value with which the firmware is silent.
    fn flag(self) -> (&'static str, bool) {
        match self {
            Self::I40e => ("disable-fw-lldp", true),
            Self::Ice => ("fw-lldp-agent", false),
        }
    }

    fn has_debugfs_command(self) -> bool {
        match self {
            Self::I40e => true,
            Self::Ice => false,
        }
    }
}

/// What is to be done on one link.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// The firmware is silent already.
    Nothing,
    SetFlag {
        flag: &'static str,
        on: bool,
    },
    StopByDebugfs,
    /// The driver offers no way.
    Impossible,
}

/// `flags`: the link's private flags; `None` when they could not be read.
fn plan(driver: Driver, flags: Option<&[(String, bool)]>) -> Plan {
    let (flag, silent) = driver.flag();
    let found = flags.unwrap_or_default().iter().find(|(name, _)| name == flag);
    match found {
        Some((_, value)) if *value == silent => Plan::Nothing,
        Some(_) => Plan::SetFlag { flag, on: silent },
        None => without_flag(driver),
    }
}

/// When the flag is missing, or refuses to be set.
fn without_flag(driver: Driver) -> Plan {
    if driver.has_debugfs_command() { Plan::StopByDebugfs } else { Plan::Impossible }
}

/// Silences the firmware of all links that need it. Returns within a time limit, whatever the firmware does.
pub async fn silence_firmware(roots: &Roots, links: &[EthernetLink]) {
    let concerned: Vec<(String, Driver)> = links
        .iter()
        .filter_map(|link| Some((link.name.clone(), Driver::named(&read_driver(roots, &link.name)?)?)))
        .collect();
    if concerned.is_empty() {
        return;
    }
    let roots = roots.clone();
    let work = tokio::task::spawn_blocking(move || {
        for (link, driver) in concerned {
            match apply(&roots, &link, driver) {
                Ok(done) => info!(%link, "{done}"),
                Err(error) => warn!(%link, error = format!("{error:#}"), "the NIC's firmware may keep LLDP to itself"),
            }
        }
    });
    if tokio::time::timeout(LIMIT, work).await.is_err() {
        warn!("the NICs' firmware was not silenced within {} s; going on", LIMIT.as_secs());
    }
}

/// Source: the link `/sys/class/net/<link>/device/driver`; absent on virtual devices.
fn read_driver(roots: &Roots, link: &str) -> Option<String> {
    let target = fs::read_link(roots.sys.join("class/net").join(link).join("device/driver")).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// Says what was done.
fn apply(roots: &Roots, link: &str, driver: Driver) -> Result<String> {
    let flags = read_private_flags(link);
    if let Err(error) = &flags {
        warn!(link, %error, "the driver's private flags cannot be read");
    }
    let mut plan = plan(driver, flags.ok().as_deref());
    if let Plan::SetFlag { flag, on } = plan {
        match apply_private_flag(link, flag, on) {
            Ok(()) => return Ok(format!("firmware LLDP stopped by {flag}={}", if on { "on" } else { "off" })),
            Err(error) => {
                warn!(link, %error, "setting {flag} failed");
                plan = without_flag(driver);
            }
        }
    }
    match plan {
        Plan::Nothing => Ok("firmware LLDP is stopped already".to_owned()),
        Plan::StopByDebugfs => {
            apply_debugfs_stop(&roots.sys.join("kernel/debug"))?;
            Ok("firmware LLDP stopped by debugfs".to_owned())
        }
        Plan::SetFlag { flag, .. } => bail!("setting the flag {flag} failed"),
        Plan::Impossible => bail!("its driver has no flag to stop firmware LLDP"),
    }
}

/// `lldp stop` to every i40e device, as upstream does. `debugfs` is mounted when it is not.
fn apply_debugfs_stop(debugfs: &Path) -> Result<()> {
    let mut commands = read_commands(debugfs);
    if commands.is_empty() {
        mount_debugfs(debugfs)?;
        commands = read_commands(debugfs);
    }
    if commands.is_empty() {
        bail!("there is no {}", debugfs.join("i40e/*/command").display());
    }
    for command in commands {
        fs::write(&command, "lldp stop").with_context(|| format!("writing {}", command.display()))?;
    }
    Ok(())
}

fn read_commands(debugfs: &Path) -> Vec<PathBuf> {
    let Ok(devices) = fs::read_dir(debugfs.join("i40e")) else { return Vec::new() };
    let commands = devices.flatten().map(|device| device.path().join("command"));
    commands.filter(|command| command.exists()).collect()
}

fn mount_debugfs(target: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("debugfs"), target, Some("debugfs"), flags, None::<&str>) {
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("mounting debugfs on {}", target.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(flags: &[(&str, bool)]) -> Vec<(String, bool)> {
        flags.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect()
    }

    #[test]
    fn each_driver_is_silenced_in_its_own_way() {
        let (i40e, ice) = (Driver::I40e, Driver::Ice);
        let set = |flag, on| Plan::SetFlag { flag, on };
        type Case = (Driver, &'static [(&'static str, bool)], Plan);
        let cases: [Case; 6] = [
            (i40e, &[("MFP", false), ("disable-fw-lldp", false)], set("disable-fw-lldp", true)),
            (i40e, &[("disable-fw-lldp", true), ("MFP", false)], Plan::Nothing),
            (i40e, &[("MFP", false)], Plan::StopByDebugfs),
            (ice, &[("link-down-on-close", false), ("fw-lldp-agent", true)], set("fw-lldp-agent", false)),
            (ice, &[("fw-lldp-agent", false)], Plan::Nothing),
            (ice, &[("disable-fw-lldp", false)], Plan::Impossible),
        ];
        for (driver, found, expected) in cases {
            assert_eq!(plan(driver, Some(&flags(found))), expected, "{driver:?} {found:?}");
        }
        assert_eq!(plan(i40e, None), Plan::StopByDebugfs);
        assert_eq!(plan(ice, None), Plan::Impossible);
    }

    #[test]
    fn only_the_two_drivers_are_touched() {
        assert_eq!(Driver::named("i40e"), Some(Driver::I40e));
        assert_eq!(Driver::named("ice"), Some(Driver::Ice));
        for other in ["iavf", "ixgbe", "virtio_net", "i40evf", ""] {
            assert_eq!(Driver::named(other), None, "{other}");
        }
    }

    #[test]
    fn the_driver_is_read_from_sysfs() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::under(dir.path());
        let device = dir.path().join("sys/class/net/eth0/device");
        fs::create_dir_all(&device).unwrap();
        std::os::unix::fs::symlink("../../../../bus/pci/drivers/i40e", device.join("driver")).unwrap();
        assert_eq!(read_driver(&roots, "eth0").as_deref(), Some("i40e"));
        assert_eq!(read_driver(&roots, "lo"), None);
    }

    #[test]
    fn debugfs_gets_the_command_once_for_each_device() {
        let dir = tempfile::tempdir().unwrap();
        let file = |address: &str| dir.path().join("i40e").join(address).join("command");
        for address in ["0000:3b:00.0", "0000:3b:00.1"] {
            fs::create_dir_all(file(address).parent().unwrap()).unwrap();
            fs::write(file(address), "").unwrap();
        }
        apply_debugfs_stop(dir.path()).unwrap();
        for address in ["0000:3b:00.0", "0000:3b:00.1"] {
            assert_eq!(fs::read_to_string(file(address)).unwrap(), "lldp stop");
        }
    }

    #[tokio::test]
    async fn links_of_other_drivers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let link = EthernetLink { index: 1, name: "lo".into(), mac: crate::api::mac::Mac([2, 0, 0, 0, 0, 1]) };
        silence_firmware(&Roots::under(dir.path()), &[link]).await;
        assert!(!dir.path().join("sys").exists());
    }
}
