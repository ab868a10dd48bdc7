//! Phase network: links up, LLDP listening on all of them, an address.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Agent;
use super::init::Identity;
use super::told::Told;
use crate::VERSION;
use crate::net::links::{EthernetLink, Netlink};
use crate::net::lldp::{self, Lldp, LldpMode, Neighbours, REQUIREMENT_LIMIT, check_requirement};
use crate::net::{self, AbortOnDrop, Network, Online};
use crate::sys::roots::Roots;

/// How often links are looked for that were not there at first.
const LINK_PERIOD: Duration = Duration::from_secs(5);

/// The network in use, and what is heard on its links.
pub(crate) struct Connected {
    pub online: Online,
    /// Absent when it is switched off, or links could not be listed.
    pub lldp: Option<Arc<Lldp>>,
    _late_links: Option<AbortOnDrop>,
    _address: Option<AbortOnDrop>,
    /// What of it the control plane knows.
    pub told: Told,
    mode: LldpMode,
}

impl Connected {
    /// Who is heard on the links now.
    pub(crate) fn neighbours(&self) -> Neighbours {
        self.lldp.as_ref().map(|lldp| lldp.neighbours()).unwrap_or_default()
    }

    /// Whether the machine may register: with LLDP required it takes two links that lead to two switches.
    pub(crate) async fn wait_for_switches(&self) -> Result<()> {
        if self.mode == LldpMode::Required {
            info!("registering needs two switches, heard by LLDP on two links");
        }
        let heard = match &self.lldp {
            Some(lldp) => lldp.wait_for_requirement(self.mode, REQUIREMENT_LIMIT).await,
            None if self.mode == LldpMode::Required => check_requirement(&Neighbours::new()),
            None => Ok(()),
        };
        heard.context("waiting for the switches (drophammer.lldp=optional registers without)")
    }
}

/// Returns when there is an address, however long that takes.
pub(crate) async fn run(agent: &Agent, identity: &Identity) -> Connected {
    let mode = LldpMode::from_cmdline(&agent.cmdline).unwrap_or_else(|error| {
        warn!("{error}; taking it as required");
        LldpMode::Required
    });
    // Before the address: switches speak every 10 to 30 s, and every one of those seconds counts.
    let lldp = match mode {
        LldpMode::Off => None,
        LldpMode::Optional | LldpMode::Required => start_lldp(agent, identity).await,
    };
    let online = net::bring_up(&agent.roots, &agent.cmdline, Some(identity.uuid), &|line| info!("{line}")).await;
    let late_links =
        lldp.as_ref().map(|lldp| AbortOnDrop(tokio::spawn(follow_links(agent.roots.clone(), Arc::clone(lldp)))));
    let address = lldp.as_ref().map(|lldp| AbortOnDrop(tokio::spawn(follow_address(online.watch(), Arc::clone(lldp)))));
    Connected { online, lldp, _late_links: late_links, _address: address, told: Told::default(), mode }
}

/// Switches hear the address that the machine has now.
async fn follow_address(mut network: watch::Receiver<Network>, lldp: Arc<Lldp>) {
    loop {
        let address = network.borrow_and_update().addresses.first().map(IpNet::addr);
        if let Some(address) = address {
            lldp.set_ip(address);
        }
        if network.changed().await.is_err() {
            return;
        }
    }
}

/// Some drivers need longer to start than the network takes.
async fn follow_links(roots: Roots, lldp: Arc<Lldp>) {
    loop {
        tokio::time::sleep(LINK_PERIOD).await;
        match links_up().await {
            Ok(links) => {
                let new = lldp.add_links(&links);
                lldp::silence_firmware(&roots, &new).await;
            }
            Err(error) => debug!(error = format!("{error:#}"), "looking for new links failed"),
        }
    }
}

async fn links_up() -> Result<Vec<EthernetLink>> {
    Netlink::open().context("opening rtnetlink")?.apply_ethernet_up().await
}

async fn start_lldp(agent: &Agent, identity: &Identity) -> Option<Arc<Lldp>> {
    match links_up().await {
        Ok(links) => {
            let identity = lldp::Identity {
                uuid: Some(identity.uuid),
                ip: None,
                version: VERSION.to_owned(),
                started: OffsetDateTime::now_utc(),
            };
            let lldp = Lldp::start(&links, identity);
            lldp::silence_firmware(&agent.roots, &links).await;
            Some(Arc::new(lldp))
        }
        Err(error) => {
            warn!(error = format!("{error:#}"), "going on without LLDP");
            None
        }
    }
}
