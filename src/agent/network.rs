//! Phase network: links up, LLDP listening on all of them, an address.

use std::time::SystemTime;

use anyhow::Result;
use tracing::{info, warn};

use super::Agent;
use super::init::Identity;
use crate::VERSION;
use crate::net::lldp::{self, Lldp};
use crate::net::{self, Online};

/// The network in use, and what is heard on its links.
pub(crate) struct Connected {
    pub online: Online,
    /// Absent when it is switched off or could not be started.
    pub lldp: Option<Lldp>,
}

/// Returns when there is an address, however long that takes.
pub(crate) async fn run(agent: &Agent, identity: &Identity) -> Connected {
    let online = net::bring_up(&agent.roots, &agent.cmdline, Some(identity.uuid), &|line| info!("{line}")).await;
    let lldp = match start_lldp(identity, &online).await {
        Ok(lldp) => Some(lldp),
        Err(error) => {
            warn!(error = format!("{error:#}"), "going on without LLDP");
            None
        }
    };
    Connected { online, lldp }
}

async fn start_lldp(identity: &Identity, online: &Online) -> Result<Lldp> {
    let network = online.network();
    let identity = lldp::Identity {
        uuid: identity.uuid,
        ip: Some(network.address.addr().into()),
        version: VERSION.to_owned(),
        started: SystemTime::now(),
    };
    Lldp::start(&net::links::Netlink::open()?.read_ethernet_links().await?, identity)
}
