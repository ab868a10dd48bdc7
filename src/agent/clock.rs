//! Phase clock: the time from the configured servers, before any certificate is judged.

use anyhow::{Result, ensure};
use tracing::info;

use super::Agent;
use super::network::Connected;
use super::session::Session;
use crate::net::ntp;

/// Sources in this order: the command line, MetalConfig, DHCP. No others.
pub(crate) fn servers(agent: &Agent, session: &Session, network: &Connected) -> Vec<String> {
    let from_config = session.config.ntp_servers.as_deref().unwrap_or_default();
    ntp::choose_servers(&agent.cmdline, from_config, &network.online.network())
}

pub(crate) async fn run(agent: &Agent, session: &Session, network: &Connected) -> Result<()> {
    let servers = servers(agent, session, network);
    ensure!(
        !servers.is_empty(),
        "no NTP server is configured: neither drophammer.ntp=, nor ntp_servers in MetalConfig, nor DHCP option 42"
    );
    let set = ntp::set_clock(&agent.roots, &servers, &session.resolver, ntp::CLOCK_LIMIT).await?;
    info!(server = set.server, "clock set, moved by {:.3} s", set.offset_ns as f64 / 1e9);
    Ok(())
}
