//! Phase network: links up, LLDP listening on all of them, an address.

use anyhow::{Context, Result};
use time::OffsetDateTime;
use tracing::{info, warn};

use super::Agent;
use super::init::Identity;
use super::register::Told;
use crate::VERSION;
use crate::net::links::Netlink;
use crate::net::lldp::{self, Lldp, LldpMode, Neighbours, REQUIREMENT_LIMIT, check_requirement};
use crate::net::{self, Online};

/// The network in use, and what is heard on its links.
pub(crate) struct Connected {
    pub online: Online,
    /// Absent when it is switched off, or links could not be listed.
    pub lldp: Option<Lldp>,
    /// What of it the control plane knows.
    pub told: Told,
    mode: LldpMode,
}

impl Connected {
    /// Who is heard on the links now.
    pub(crate) fn neighbours(&self) -> Neighbours {
        self.lldp.as_ref().map(Lldp::neighbours).unwrap_or_default()
    }

    /// Returns when somebody is heard of whom the control plane was not told.
    pub(crate) async fn untold_neighbours(&self) {
        let Some(lldp) = &self.lldp else { return std::future::pending().await };
        while self.told.has_all(&lldp.neighbours()) {
            lldp.changed().await;
        }
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
    if let Some(lldp) = &lldp {
        lldp.set_ip(online.network().address.addr().into());
    }
    Connected { online, lldp, told: Told::default(), mode }
}

async fn start_lldp(agent: &Agent, identity: &Identity) -> Option<Lldp> {
    let links = async { Netlink::open()?.apply_ethernet_up().await };
    match links.await {
        Ok(links) => {
            let identity = lldp::Identity {
                uuid: Some(identity.uuid),
                ip: None,
                version: VERSION.to_owned(),
                started: OffsetDateTime::now_utc(),
            };
            let lldp = Lldp::start(&links, identity);
            lldp::silence_firmware(&agent.roots, &links).await;
            Some(lldp)
        }
        Err(error) => {
            warn!(error = format!("{error:#}"), "going on without LLDP");
            None
        }
    }
}
