//! Phase register: tell the control plane what this machine is.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

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

/// From the first neighbour that was not told to telling it: switches send every 10 s.
const SETTLE: Duration = Duration::from_secs(10);
/// A switch whose port changes its name all the time is not told all the time.
const BETWEEN_REGISTRATIONS: Duration = Duration::from_secs(60);

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
    connected.told.add(&heard);
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

/// Registers again whenever neighbours come that the control plane was not told of. Never ends; for the time that the
/// machine waits.
///
/// By the contract a repeated registration overwrites what was registered and touches neither tags nor state nor
/// allocation, and it is no event. It goes over a connection of its own, as the session is waiting.
pub(crate) fn follow_neighbours<'a>(
    session: &Session,
    connected: &'a Connected,
    facts: &'a Inventory,
    identity: &'a Identity,
) -> impl Future<Output = Infallible> + use<'a> {
    let mut boot = session.boot.clone();
    let partition = session.config.partition.clone();
    async move {
        loop {
            connected.untold_neighbours().await;
            // Cables that are plugged in together are told together.
            tokio::time::sleep(SETTLE).await;
            let heard = connected.neighbours();
            match boot.register(request(facts, identity, &partition, &heard)).await {
                Ok(answer) => {
                    connected.told.add(&heard);
                    info!(size = answer.size, "registered again, with the neighbours that were heard since");
                }
                Err(failure) => {
                    // What is refused once is refused again; what was not reached may be later.
                    if !failure.is_transient() {
                        connected.told.add(&heard);
                    }
                    warn!(error = failure.to_string(), "the neighbours that were heard since could not be registered");
                }
            }
            tokio::time::sleep(BETWEEN_REGISTRATIONS).await;
        }
    }
}

fn request(facts: &Inventory, identity: &Identity, partition: &str, heard: &Neighbours) -> BootServiceRegisterRequest {
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

/// The cables that the control plane has been told of.
#[derive(Default)]
pub(crate) struct Told(Mutex<BTreeSet<Cable>>);

/// Link, chassis, port.
type Cable = (String, String, String);

impl Told {
    fn add(&self, heard: &Neighbours) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(cables(heard));
    }

    /// Whether all of these have been told. Cables that are gone are nothing to tell.
    pub(crate) fn has_all(&self, heard: &Neighbours) -> bool {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cables(heard).all(|cable| told.contains(&cable))
    }
}

fn cables(heard: &Neighbours) -> impl Iterator<Item = Cable> + '_ {
    heard.iter().flat_map(|(link, neighbours)| {
        neighbours.iter().map(|neighbour| (link.clone(), neighbour.chassis_id.clone(), neighbour.port_id.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::lldp::PortKind;

    fn neighbour(port_id: &str) -> Neighbour {
        Neighbour {
            chassis_id: "02:00:00:00:00:09".into(),
            chassis_is_mac: true,
            port_id: port_id.into(),
            port_kind: PortKind::Local,
            port_description: Some("Ethernet8".into()),
            system_name: Some("leaf01".into()),
            system_description: Some("SONiC".into()),
            time_to_live: Duration::from_secs(120),
            others: Vec::new(),
        }
    }

    fn heard(ports: &[(&str, &str)]) -> Neighbours {
        let mut heard = Neighbours::new();
        for (link, port) in ports {
            heard.entry((*link).to_owned()).or_default().push(neighbour(port));
        }
        heard
    }

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

    #[test]
    fn only_new_cables_are_news() {
        let told = Told::default();
        assert!(told.has_all(&Neighbours::new()));
        let first = heard(&[("eth0", "p1"), ("eth1", "p1")]);
        assert!(!told.has_all(&first));
        told.add(&first);
        assert!(told.has_all(&first));
        assert!(told.has_all(&heard(&[("eth1", "p1")])), "a cable that is gone");
        assert!(!told.has_all(&heard(&[("eth0", "p1"), ("eth0", "p2")])), "another port on a known link");
        assert!(!told.has_all(&heard(&[("eth2", "p1")])), "a known port on another link");
    }
}
