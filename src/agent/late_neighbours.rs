//! Neighbours that are heard after the registration.

use std::convert::Infallible;
use std::time::Duration;

use tracing::{info, warn};

use super::init::Identity;
use super::network::Connected;
use super::register::request;
use super::session::Session;
use super::told::Told;
use crate::inventory::Inventory;
use crate::net::lldp::{Lldp, Neighbours};

/// From the first neighbour that was not told to telling it: switches send every 10 s.
const SETTLE: Duration = Duration::from_secs(10);
/// A switch whose port changes its name all the time is not told all the time.
const BETWEEN_REGISTRATIONS: Duration = Duration::from_secs(60);

/// Registers again whenever neighbours come that the control plane was not told of. Never ends; for the time that the
/// machine waits.
///
/// By the contract a repeated registration overwrites what was registered and touches neither tags nor state nor
/// allocation, and it is no event. It goes over a connection of its own, as the session is waiting.
pub(crate) fn follow<'a>(
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::told::tests::neighbour;
    use super::*;
    use crate::net::lldp::Neighbour;

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
}
