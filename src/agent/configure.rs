//! Phase configure: MetalConfig from the boot server.

use anyhow::Result;
use tracing::info;

use super::Agent;
use super::network::Connected;
use super::session::Session;
use crate::VERSION;
use crate::api::event::ProvisioningEvent;

pub(crate) async fn run(agent: &Agent, network: &Connected, machine_id: &str) -> Result<Session> {
    let session = Session::open(agent, &network.online.resolver, machine_id).await?;
    info!(config = ?session.config, "configured");
    // First of all events, before the notes of the phases so far: the server's state machine wants it so.
    agent.events.send_first(ProvisioningEvent::Preparing, format!("starting drophammer version:{VERSION:?}"));
    Ok(session)
}
