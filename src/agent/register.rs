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
use crate::net::lldp::{Lldp, Neighbour, Neighbours};

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
    connected.told.set(&heard);
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
        let Some(lldp) = &connected.lldp else { return std::future::pending().await };
        let register = async |heard: &Neighbours| match boot.register(request(facts, identity, &partition, heard)).await
        {
            Ok(answer) => {
                info!(size = answer.size, "registered again, with the neighbours that were heard since");
                Telling::Heard
            }
            Err(failure) => {
                warn!(error = failure.to_string(), "the neighbours that were heard since could not be registered");
                if failure.is_transient() { Telling::NotReached } else { Telling::Heard }
            }
        };
        tell_late_neighbours(lldp, &connected.told, register).await
    }
}

/// How telling the control plane ended.
enum Telling {
    /// It knows now. What it refuses once it refuses again, so a refusal counts, too.
    Heard,
    NotReached,
}

async fn tell_late_neighbours(
    lldp: &Lldp,
    told: &Told,
    mut tell: impl AsyncFnMut(&Neighbours) -> Telling,
) -> Infallible {
    loop {
        while !told.is_less_than(&lldp.neighbours()) {
            lldp.changed().await;
        }
        // Cables that are plugged in together are told together.
        tokio::time::sleep(SETTLE).await;
        let heard = lldp.neighbours();
        if !told.is_less_than(&heard) {
            continue;
        }
        match tell(&heard).await {
            Telling::Heard => told.set(&heard),
            Telling::NotReached => {}
        }
        tokio::time::sleep(BETWEEN_REGISTRATIONS).await;
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
    fn set(&self, heard: &Neighbours) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cables(heard).collect();
    }

    /// Whether there is more to tell, and nothing less: a switch that went silent for a while must not be taken away
    /// from the control plane, which would think that the machine was moved.
    fn is_less_than(&self, heard: &Neighbours) -> bool {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard: BTreeSet<Cable> = cables(heard).collect();
        heard.len() > told.len() && heard.is_superset(&told)
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
            time_to_live: Duration::from_secs(600),
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

    /// Seconds from the start, and how many links were told then.
    type Tellings = Mutex<Vec<(u64, usize)>>;

    #[tokio::test(start_paused = true)]
    async fn late_neighbours_are_told_together_and_not_too_often() {
        let identity = crate::net::lldp::Identity {
            uuid: None,
            ip: None,
            version: String::new(),
            started: time::OffsetDateTime::UNIX_EPOCH,
        };
        let lldp = Lldp::start(&[], identity);
        let told = Told::default();
        lldp.hear("eth0", neighbour("p0"));
        told.set(&lldp.neighbours());
        let started = tokio::time::Instant::now();
        let tellings = Tellings::default();
        let tell = async |heard: &Neighbours| {
            let mut tellings = tellings.lock().unwrap();
            tellings.push((started.elapsed().as_secs(), heard.len()));
            // The second time the control plane is away.
            if tellings.len() == 2 { Telling::NotReached } else { Telling::Heard }
        };
        let cabling = async {
            let after = |seconds| tokio::time::sleep_until(started + Duration::from_secs(seconds));
            after(5).await;
            lldp.hear("eth1", neighbour("p1"));
            after(9).await;
            lldp.hear("eth2", neighbour("p2"));
            after(30).await;
            lldp.hear("eth3", neighbour("p3"));
            after(200).await;
            lldp.hear("eth1", Neighbour { time_to_live: Duration::ZERO, ..neighbour("p1") });
            lldp.hear("eth4", neighbour("p4"));
            after(300).await;
            lldp.hear("eth1", neighbour("p1"));
            after(400).await;
        };
        tokio::select! {
            never = tell_late_neighbours(&lldp, &told, tell) => match never {},
            () = cabling => {}
        }
        // 5 + 10 for the first two; 60 + 10 later the third, in vain, and again 60 + 10 later. While one is silent
        // nothing is told.
        assert_eq!(*tellings.lock().unwrap(), [(15, 3), (85, 4), (155, 4), (310, 5)]);
    }

    #[test]
    fn only_more_cables_are_news() {
        let told = Told::default();
        assert!(!told.is_less_than(&Neighbours::new()));
        let first = heard(&[("eth0", "p1"), ("eth1", "p1")]);
        assert!(told.is_less_than(&first));
        told.set(&first);
        assert!(!told.is_less_than(&first));
        assert!(!told.is_less_than(&heard(&[("eth1", "p1")])), "a cable that is gone");
        assert!(!told.is_less_than(&heard(&[("eth1", "p1"), ("eth2", "p1")])), "a cable that was moved");
        assert!(told.is_less_than(&heard(&[("eth0", "p1"), ("eth0", "p2"), ("eth1", "p1")])), "another port on a link");
        assert!(told.is_less_than(&heard(&[("eth0", "p1"), ("eth1", "p1"), ("eth2", "p1")])), "another link");
    }
}
