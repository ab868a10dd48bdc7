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
use crate::net::lldp::{Neighbour, Neighbours};

/// What the control plane wants of a machine that registered.
pub(crate) enum Known {
    /// Erase, then wait (an allocation may be there already).
    Fresh,
    /// Install anew without erasing: disks that the layout keeps stay as they are.
    Reinstall(Box<Order>),
    /// It is installed, and somebody's data is on it.
    Installed(Box<InstalledSystem>),
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
    let heard = connected.neighbours();
    let answer = match session.boot.register(request(facts, identity, &session.config.partition, &heard)).await {
        Ok(answer) => answer,
        Err(failure) => {
            // New addresses and certificates come with the configuration.
            if let Err(error) = session.refresh(agent).await {
                warn!(error = format!("{error:#}"), "asking for the configuration failed");
            }
            return Err(failure).context("registering this machine");
        }
    };
    connected.told.set(&heard);
    info!(size = answer.size, partition = answer.partition_id, "registered");
    let machine = session.rest.machine(&identity.id()).await?;
    let Some(allocation) = &machine.allocation else { return Ok(Known::Fresh) };
    if let Some(system) = InstalledSystem::of(allocation) {
        return Ok(Known::Installed(Box::new(system)));
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

pub(super) fn request(
    facts: &Inventory,
    identity: &Identity,
    partition: &str,
    heard: &Neighbours,
) -> BootServiceRegisterRequest {
    let (hardware, bios, ipmi) = facts.to_register(&wire_neighbours(heard));
    BootServiceRegisterRequest {
        uuid: identity.id(),
        hardware: Some(hardware),
        bios: Some(bios),
        ipmi: Some(ipmi),
        tags: Vec::new(),
        metal_hammer_version: VERSION.to_owned(),
        partition_id: partition.to_owned(),
    }
}

fn wire_neighbours(heard: &Neighbours) -> BTreeMap<String, Vec<MachineNic>> {
    heard.iter().map(|(link, heard)| (link.clone(), heard.iter().map(wire_neighbour).collect())).collect()
}

/// Upstream sends the port's id twice, also where it is no MAC: switches are told apart by it.
fn wire_neighbour(neighbour: &Neighbour) -> MachineNic {
    MachineNic {
        mac: neighbour.port_id.clone(),
        identifier: neighbour.port_id.clone(),
        name: neighbour.port_description.clone().unwrap_or_default(),
        hostname: neighbour.system_name.clone().unwrap_or_default(),
        neighbors: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::told::tests::heard;
    use super::*;

    #[test]
    fn a_neighbour_is_told_as_upstream_does() {
        let expected = MachineNic {
            mac: "Eth1/3".into(),
            identifier: "Eth1/3".into(),
            name: "Ethernet8".into(),
            hostname: "leaf01".into(),
            neighbors: Vec::new(),
        };
        assert_eq!(wire_neighbours(&heard(&[("eth0", "Eth1/3")]))["eth0"], [expected]);
    }
}
