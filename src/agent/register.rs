//! Phase register: tell the control plane what this machine is.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::Agent;
use super::init::Identity;
use super::installed::InstalledSystem;
use super::network::Connected;
use super::order::{Decision, Order};
use super::session::Session;
use crate::VERSION;
use crate::api::event::ProvisioningEvent;
use crate::api::grpc::{BootServiceRegisterRequest, MachineNic};
use crate::inventory::Inventory;
use crate::net::lldp::Neighbour;

/// What the control plane wants of a machine that registered.
pub(crate) enum Known {
    /// Erase, then wait (an allocation may be there already).
    Fresh,
    /// Install anew without erasing: disks that the layout keeps stay as they are.
    Reinstall(Box<Order>),
    /// It is installed, and somebody's data is on it.
    Installed(InstalledSystem),
}

/// Announces the registration, once; the tries follow.
pub(crate) fn announce(agent: &Agent) {
    agent.events.send(ProvisioningEvent::Registering, "start registering");
}

/// One try.
pub(crate) async fn run(
    agent: &Agent,
    session: &mut Session,
    connected: &Connected,
    facts: &Inventory,
    identity: &Identity,
) -> Result<Known> {
    let (hardware, bios, ipmi) = facts.to_register(&neighbours(connected));
    let request = BootServiceRegisterRequest {
        uuid: identity.id(),
        hardware: Some(hardware),
        bios: Some(bios),
        ipmi: Some(ipmi),
        tags: Vec::new(),
        metal_hammer_version: VERSION.to_owned(),
        partition_id: session.config.partition.clone(),
    };
    let answer = match session.boot.register(request).await {
        Ok(answer) => answer,
        Err(failure) => {
            // New addresses and certificates come with the configuration.
            if let Err(error) = session.refresh(agent).await {
                warn!(error = format!("{error:#}"), "asking for the configuration failed");
            }
            return Err(failure).context("registering this machine");
        }
    };
    info!(size = answer.size, partition = answer.partition_id, "registered");
    let machine = session.rest.machine(&identity.id()).await?;
    let Some(allocation) = &machine.allocation else { return Ok(Known::Fresh) };
    if let Some(system) = InstalledSystem::of(allocation) {
        return Ok(Known::Installed(system));
    }
    if !allocation.reinstall {
        return Ok(Known::Fresh);
    }
    match Order::decide(machine) {
        Decision::Install(order) => Ok(Known::Reinstall(order)),
        Decision::Free => Ok(Known::Fresh),
        Decision::Refused(faults) => anyhow::bail!("the reinstallation is refused: {}", faults.join("; ")),
    }
}

fn neighbours(connected: &Connected) -> BTreeMap<String, Vec<MachineNic>> {
    let Some(lldp) = &connected.lldp else { return BTreeMap::new() };
    lldp.neighbours().into_iter().map(|(link, heard)| (link, heard.into_iter().map(wire_neighbour).collect())).collect()
}

/// Upstream sends the port's id twice, also where it is no MAC: switches are told apart by it.
fn wire_neighbour(neighbour: Neighbour) -> MachineNic {
    MachineNic {
        mac: neighbour.port_id.clone(),
        identifier: neighbour.port_id,
        name: neighbour.port_description.unwrap_or_default(),
        hostname: neighbour.system_name.unwrap_or_default(),
        neighbors: Vec::new(),
    }
}
