//! The links that the operator wants made: bonds (`bond=`) and VLANs (`vlan=`), VLANs also on bonds.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::bond::{BondSetting, apply_bond, parse_bond};
use super::links::{Link, LinkKind, Netlink};
use super::vlan::{VlanSetting, apply_vlan, parse_vlan};
use super::{AbortOnDrop, Say};
use crate::config::cmdline::Cmdline;
use crate::init::modules::ModuleDb;
use crate::init::modules::load::load_named;
use crate::sys::roots::Roots;

/// How long all ports of a bond are waited for; after that it is made of those that are there.
const PORTS_WAIT: Duration = Duration::from_secs(5);
/// Between two looks: at first, while something is missing, and after that. A driver may be late, a card plugged in.
const HURRIED: Duration = Duration::from_millis(250);
const MISSING: Duration = Duration::from_secs(1);
const CALM: Duration = Duration::from_secs(5);

/// What `bond=` and `vlan=` ask for, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MadeLinks {
    bonds: Vec<BondSetting>,
    vlans: Vec<VlanSetting>,
}

impl MadeLinks {
    /// What is wrong on the command line is told and left out.
    pub fn of_cmdline(cmdline: &Cmdline, say: Say<'_>) -> Self {
        let mut made = Self::default();
        for value in cmdline.all("bond") {
            match parse_bond(value) {
                Ok(bond) => made.bonds.push(bond),
                Err(error) => say(format!("{error}; left out")),
            }
        }
        for value in cmdline.all("vlan") {
            match parse_vlan(value) {
                Ok(vlan) => made.vlans.push(vlan),
                Err(error) => say(format!("{error}; left out")),
            }
        }
        made
    }

    pub fn is_empty(&self) -> bool {
        self.bonds.is_empty() && self.vlans.is_empty()
    }

    /// The link that carries the address when `ip=` names none: what was made was made for that. A VLAN before the bond
    /// below it.
    pub fn device(&self) -> Option<&str> {
        let vlan = self.vlans.first().map(|vlan| vlan.name.as_str());
        vlan.or_else(|| self.bonds.first().map(|bond| bond.name.as_str()))
    }

    /// Makes them in the background, and takes in ports that come later; until the answer is dropped. `None` when there
    /// is nothing to make.
    pub(crate) fn follow(self, roots: &Roots) -> Option<AbortOnDrop> {
        let roots = roots.clone();
        (!self.is_empty()).then(|| AbortOnDrop(tokio::spawn(async move { self.run(&roots).await })))
    }

    async fn run(self, roots: &Roots) {
        let started = Instant::now();
        self.load_modules(roots).await;
        let mut last = None;
        loop {
            let is_early = started.elapsed() < PORTS_WAIT;
            let lack = match self.apply(is_early).await {
                Ok(missing) => (!missing.is_empty()).then(|| format!("links are missing: {}", missing.join(", "))),
                Err(error) => Some(format!("{error:#}")),
            };
            // What is missing in the first seconds is no news.
            if let Some(lack) = lack.as_ref().filter(|_| !is_early && lack != last) {
                warn!("{lack}; still trying");
            }
            let pause = match &lack {
                _ if is_early => HURRIED,
                Some(_) => MISSING,
                None => CALM,
            };
            if !is_early {
                last = lack;
            }
            sleep(pause).await;
        }
    }

    /// Makes what can be made now, and names what is missing for the rest.
    async fn apply(&self, wait_for_all: bool) -> Result<Vec<String>> {
        let netlink = Netlink::open().context("opening rtnetlink")?;
        let mut missing = Vec::new();
        for bond in &self.bonds {
            let ports = apply_bond(&netlink, bond, wait_for_all).await?;
            missing.extend(ports.into_iter().map(|port| format!("{port} for {}", bond.name)));
        }
        for vlan in &self.vlans {
            missing.extend(apply_vlan(&netlink, vlan).await?);
        }
        Ok(missing)
    }

    /// There is no modprobe that the kernel could call. Built into the kernel, or not there: then making them tells.
    async fn load_modules(&self, roots: &Roots) {
        let mut names = Vec::new();
        names.extend((!self.bonds.is_empty()).then_some("bonding"));
        names.extend((!self.vlans.is_empty()).then_some("8021q"));
        if !roots.is_live() {
            return;
        }
        let before = bonds().await;
        let roots = roots.clone();
        let load = move || {
            let db = ModuleDb::read(&ModuleDb::running_kernel_dir());
            load_named(&roots, &db, &names, &mut |line| debug!("{line}"));
        };
        if let Err(died) = tokio::task::spawn_blocking(load).await {
            warn!(error = %died, "loading the modules for bonds and VLANs");
        }
        if let Err(error) = self.remove_uninvited(&before).await {
            debug!(error = format!("{error:#}"), "bonds that nobody asked for");
        }
    }

    /// The module makes a bond0 when it is loaded, with a MAC drawn by lot that the inventory must not see.
    async fn remove_uninvited(&self, before: &[Link]) -> Result<()> {
        let netlink = Netlink::open().context("opening rtnetlink")?;
        let is_new = |link: &Link| before.iter().all(|old| old.index != link.index);
        for link in bonds().await.into_iter().filter(is_new) {
            if self.bonds.iter().all(|bond| bond.name != link.name) {
                netlink.remove_link(link.index).await?;
                info!(link = %link.name, "bond of the module removed");
            }
        }
        Ok(())
    }
}

/// The bonds that there are; none when they can't be read.
async fn bonds() -> Vec<Link> {
    let read = async { Netlink::open().context("opening rtnetlink")?.read_links().await };
    let mut links = read.await.unwrap_or_default();
    links.retain(|link| link.kind == LinkKind::Bond);
    links
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_address_goes_to_the_vlan_on_the_bond() {
        let of = |line: &str| MadeLinks::of_cmdline(&Cmdline::parse(line), &|_| {}).device().map(str::to_owned);
        assert_eq!(of("bond=bond0:eth0,eth1:mode=4 vlan=bond0.7:bond0").as_deref(), Some("bond0.7"));
        assert_eq!(of("bond=bond0:eth0,eth1:mode=4").as_deref(), Some("bond0"));
        assert_eq!(of("ip=dhcp"), None);
    }

    #[test]
    fn what_is_wrong_is_told_and_the_rest_made() {
        let said = Mutex::new(Vec::new());
        let line = Cmdline::parse("vlan=prov:eth0 vlan=vlan6:eth0 bond=bond0:eth0:mode=x");
        let made = MadeLinks::of_cmdline(&line, &|text| said.lock().unwrap().push(text));
        assert_eq!((made.bonds.len(), made.vlans.len()), (0, 1));
        assert_eq!(said.lock().unwrap().len(), 2);
    }
}
