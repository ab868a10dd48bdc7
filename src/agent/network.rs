//! Phase network: links up, LLDP listening on all of them, an address.

use time::OffsetDateTime;
use tracing::{info, warn};

use super::Agent;
use super::init::Identity;
use crate::VERSION;
use crate::net::links::Netlink;
use crate::net::lldp::{self, Lldp, LldpMode, REQUIREMENT_LIMIT};
use crate::net::{self, Online};

/// The network in use, and what is heard on its links.
pub(crate) struct Connected {
    pub online: Online,
    /// Absent when it is switched off, or links could not be listed.
    pub lldp: Option<Lldp>,
}

/// Returns when there is an address, however long that takes.
pub(crate) async fn run(agent: &Agent, identity: &Identity) -> Connected {
    let mode = LldpMode::from_cmdline(&agent.cmdline).unwrap_or_else(|error| {
        warn!("{error}; taking it as optional");
        LldpMode::Optional
    });
    // Before the address: switches speak every 10 to 30 s, and every one of those seconds counts.
    let lldp = match mode {
        LldpMode::Off => None,
        LldpMode::Optional | LldpMode::Required => start_lldp(identity).await,
    };
    let online = net::bring_up(&agent.roots, &agent.cmdline, Some(identity.uuid), &|line| info!("{line}")).await;
    if let Some(lldp) = &lldp {
        lldp.set_ip(online.network().address.addr().into());
        if let Err(not_met) = lldp.wait_for_requirement(mode, REQUIREMENT_LIMIT).await {
            warn!(error = not_met.to_string(), "registering with the LLDP neighbours heard so far");
        }
    }
    Connected { online, lldp }
}

async fn start_lldp(identity: &Identity) -> Option<Lldp> {
    let links = async { Netlink::open()?.apply_ethernet_up().await };
    match links.await {
        Ok(links) => {
            let identity = lldp::Identity {
                uuid: Some(identity.uuid),
                ip: None,
                version: VERSION.to_owned(),
                started: OffsetDateTime::now_utc(),
            };
            Some(Lldp::start(&links, identity))
        }
        Err(error) => {
            warn!(error = format!("{error:#}"), "going on without LLDP");
            None
        }
    }
}
