//! Phase clock: the time from the configured servers, before any certificate is judged.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use tracing::{debug, info, warn};

use super::Agent;
use super::network::Connected;
use super::session::Session;
use crate::build_time::BUILD_TIME;
use crate::net::ntp::Protection;
use crate::net::{Backoff, NtpClient, Online, ntp};
use crate::sys::clock::set_system_clock;

/// Certificates are judged by the clock, and nobody has told the time yet: one that stands still since the battery died is
/// set to the earliest time that it can be.
pub(crate) fn advance_to_build_time() {
    let (now, built) = (SystemTime::now(), UNIX_EPOCH + BUILD_TIME);
    if now >= built {
        return;
    }
    let [was, is] = [now, built].map(|time| time::OffsetDateTime::from(time).date());
    match set_system_clock(built) {
        Ok(()) => warn!(
            "the clock said {was}, before this program was built; certificates are judged as of {is} until a time server answers"
        ),
        Err(error) => warn!(%error, "the clock says {was}, before this program was built ({is}), and can't be set"),
    }
}

/// Sources in this order: the command line, MetalConfig, DHCP. No others.
pub(crate) fn servers(agent: &Agent, session: &Session, network: &Connected) -> Vec<String> {
    let from_config = session.config.ntp_servers.as_deref().unwrap_or_default();
    ntp::choose_servers(&agent.cmdline, from_config, &network.online.network())
}

/// Servers given by name show a certificate of MetalConfig's authority, or of those packed with the agent.
pub(crate) fn client(session: &Session) -> NtpClient {
    let resolver = session.resolver.clone();
    NtpClient::with_trust(resolver.clone(), session.config.ca_cert.as_deref()).unwrap_or_else(|error| {
        warn!(error = format!("{error:#}"), "time servers are asked without NTS");
        NtpClient::new(resolver)
    })
}

pub(crate) async fn run(agent: &Agent, session: &Session, network: &Connected, client: &NtpClient) -> Result<()> {
    let servers = servers(agent, session, network);
    ensure!(
        !servers.is_empty(),
        "no NTP server is configured: neither drophammer.ntp=, nor ntp_servers in MetalConfig, nor DHCP (option 42, or 56 of DHCPv6)"
    );
    let set = ntp::set_clock(&agent.roots, &servers, client, ntp::CLOCK_LIMIT).await?;
    tell(&set);
    Ok(())
}

/// Before there is a configuration that names servers: it may be missing because its certificate is judged by a clock that
/// is wrong.
pub(crate) async fn set_early(agent: &Agent, network: &Connected) {
    let Online { resolver, .. } = &network.online;
    let servers = ntp::choose_servers(&agent.cmdline, &[], &network.online.network());
    // NTS has to wait: its certificates are judged by the clock, too, and the authority is not known yet.
    let client = NtpClient::new(resolver.clone());
    match ntp::set_clock(&agent.roots, &servers, &client, ntp::CLOCK_LIMIT).await {
        Ok(set) => tell(&set),
        Err(error) => debug!(error = error.to_string(), "the clock is not set before the configuration"),
    }
}

/// Goes on asking in the background after [`run`] has failed: with a clock that is years behind no certificate is
/// valid yet, and the machine could register as soon as one server answers.
pub(crate) fn keep_trying(agent: &Agent, session: &Session, network: &Connected, client: NtpClient) {
    let servers = servers(agent, session, network);
    if servers.is_empty() {
        return;
    }
    let roots = agent.roots.clone();
    tokio::spawn(async move {
        let mut backoff = Backoff::for_server();
        loop {
            tokio::time::sleep(backoff.next_delay()).await;
            match ntp::set_clock(&roots, &servers, &client, ntp::CLOCK_LIMIT).await {
                Ok(set) => return tell(&set),
                Err(error) => debug!(error = error.to_string(), "the clock is still not set"),
            }
        }
    });
}

fn tell(set: &ntp::ClockSet) {
    let moved_s = set.offset_ns as f64 / 1e9;
    match &set.protection {
        Protection::Nts => info!(server = set.server, "clock set by NTS, moved by {moved_s:.3} s"),
        Protection::Plain { why: None } => info!(server = set.server, "clock set, moved by {moved_s:.3} s"),
        Protection::Plain { why: Some(why) } => {
            info!(server = set.server, without_nts = why, "clock set, moved by {moved_s:.3} s");
        }
    }
}
