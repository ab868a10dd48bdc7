//! Phase clock: the time from the configured servers, before any certificate is judged.

use anyhow::{Result, ensure};
use tracing::{debug, info};

use super::Agent;
use super::network::Connected;
use super::session::Session;
use crate::net::{Backoff, ntp};

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
    tell(&set);
    Ok(())
}

/// Goes on asking in the background after [`run`] has failed: with a clock that is years behind no certificate is
/// valid yet, and the machine could register as soon as one server answers.
pub(crate) fn keep_trying(agent: &Agent, session: &Session, network: &Connected) {
    let servers = servers(agent, session, network);
    if servers.is_empty() {
        return;
    }
    let (roots, resolver) = (agent.roots.clone(), session.resolver.clone());
    tokio::spawn(async move {
        let mut backoff = Backoff::for_server();
        loop {
            tokio::time::sleep(backoff.next_delay()).await;
            match ntp::set_clock(&roots, &servers, &resolver, ntp::CLOCK_LIMIT).await {
                Ok(set) => return tell(&set),
                Err(error) => debug!(error = error.to_string(), "the clock is still not set"),
            }
        }
    });
}

fn tell(set: &ntp::ClockSet) {
    info!(server = set.server, "clock set, moved by {:.3} s", set.offset_ns as f64 / 1e9);
}
