//! Phase wait: until the machine is allocated.

use std::convert::Infallible;
use std::time::Duration;

use tracing::{info, warn};

use super::Agent;
use super::order::{Decision, Order};
use super::session::Session;
use crate::api::event::ProvisioningEvent;
use crate::client::boot::WaitEnd;
use crate::net::Backoff;

/// How the waiting ended.
pub(crate) enum Waited {
    Order(Box<Order>),
    /// A planned reboot, and why.
    Reboot(String),
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An allocation that cannot be installed is looked at again after this time: somebody may mend or free it.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Waits for ever, but for a planned reboot after one to two days, which brings newer agents and fresh inventories.
/// `erased` says what became of the disks: metal-stack's list of events has no other place for it. `beside` is what goes
/// on meanwhile.
pub(crate) async fn run(
    agent: &Agent,
    session: &mut Session,
    machine_id: &str,
    erased: &str,
    beside: impl Future<Output = Infallible>,
) -> Waited {
    let disks = if erased.is_empty() { String::new() } else { format!("; {erased}") };
    agent.events.send(ProvisioningEvent::Waiting, format!("waiting for allocation{disks}"));
    tokio::select! {
        waited = until_allocated(agent, session, machine_id) => waited,
        never = beside => match never {},
        () = tokio::time::sleep(DAY + random_part_of(DAY)) => Waited::Reboot("autoreboot after 24h".to_owned()),
    }
}

async fn until_allocated(agent: &Agent, session: &mut Session, machine_id: &str) -> Waited {
    let mut backoff = Backoff::for_server();
    loop {
        match session.boot.wait(machine_id).await {
            WaitEnd::Allocated => {}
            WaitEnd::Unimplemented => {
                return Waited::Reboot("the API does not know Wait; a newer agent may be needed".to_owned());
            }
            WaitEnd::CertificateRefused(reason) => {
                warn!(error = reason, "the certificates do not fit; asking for the configuration again");
                if let Err(error) = session.refresh(agent).await {
                    warn!(error = format!("{error:#}"), "asking for the configuration failed");
                }
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
        }
        let machine = match session.rest.machine(machine_id).await {
            Ok(machine) => machine,
            Err(error) => {
                let delay = backoff.next_delay();
                warn!(error = format!("{error:#}"), "reading the allocation failed; again in {} s", delay.as_secs());
                tokio::time::sleep(delay).await;
                continue;
            }
        };
        match Order::decide(machine) {
            Decision::Install(order) => return Waited::Order(order),
            Decision::Free => {
                info!("the machine is not allocated any more");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Decision::Refused(faults) => {
                let reason = format!("the allocation is refused: {}", faults.join("; "));
                warn!("{reason}; waiting again");
                agent.events.send(ProvisioningEvent::Alive, reason);
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

/// Spreads the reboots of a hall over a day.
fn random_part_of(whole: Duration) -> Duration {
    let mut bytes = [0_u8; 2];
    if getrandom::fill(&mut bytes).is_err() {
        return Duration::ZERO;
    }
    whole.mul_f64(f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX))
}
