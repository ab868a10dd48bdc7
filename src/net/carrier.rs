//! The carrier of the link that the network is on.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::links::{EthernetLink, Netlink};

const POLL: Duration = Duration::from_millis(500);
/// A link without carrier for so long is away. Some cards lose it for seconds when their MTU is set, and a switch that
/// restarts one port is back sooner.
const AWAY: Duration = Duration::from_secs(8);

/// Whenever the link has been away for a while, begins a search for the network on other links; until one finds something.
/// A search is given up when the carrier is back: the address is still there, and connections live on.
pub(super) async fn search_when_away<T, F: Future<Output = T>>(
    netlink: &Netlink,
    link: &EthernetLink,
    mut search: impl FnMut() -> F,
) -> T {
    let mut carrier = Carrier::of(link.index);
    loop {
        match carrier.change(netlink).await {
            Change::Returned => {}
            Change::Away => {
                warn!(link = %link.name, "no carrier; its address stays, and the network is looked for on other links");
                tokio::select! {
                    found = search() => return found,
                    _ = carrier.change(netlink) => info!(link = %link.name, "carrier is back"),
                }
            }
        }
    }
}

/// What has become of a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Change {
    /// It was gone, perhaps only for a moment, and is back: the cable may be in another switch now.
    Returned,
    /// It has been gone for [`AWAY`]. Told once; the next change is its return.
    Away,
}

/// What is known of one link's carrier.
pub(in crate::net) struct Carrier {
    link_index: u32,
    /// The kernel's count of its changes at the last look, which shows those between two looks.
    changes: Option<u32>,
    gone_since: Option<Instant>,
    told_away: bool,
}

impl Carrier {
    pub(in crate::net) fn of(link_index: u32) -> Self {
        Self { link_index, changes: None, gone_since: None, told_away: false }
    }

    /// Waits for the next change. Nothing is lost when it is given up.
    pub(in crate::net) async fn change(&mut self, netlink: &Netlink) -> Change {
        loop {
            match netlink.read_link(self.link_index).await {
                Ok(link) => {
                    let seen = link.map(|link| (link.carrier, link.carrier_changes));
                    if let Some(change) = self.note(seen, Instant::now()) {
                        return change;
                    }
                }
                Err(error) => debug!(error = format!("{error:#}"), "carrier not looked at"),
            }
            sleep(POLL).await;
        }
    }

    /// `seen` is carrier and count of one look; `None`: the link itself is gone, as a card that was pulled.
    fn note(&mut self, seen: Option<(bool, Option<u32>)>, now: Instant) -> Option<Change> {
        let Some((true, changes)) = seen else {
            let since = *self.gone_since.get_or_insert(now);
            let is_away = !self.told_away && now - since >= AWAY;
            self.told_away |= is_away;
            return is_away.then_some(Change::Away);
        };
        let was_gone = self.gone_since.take().is_some();
        let flapped = self.changes.is_some() && changes.is_some() && self.changes != changes;
        self.changes = changes.or(self.changes);
        self.told_away = false;
        (was_gone || flapped).then_some(Change::Returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_carrier_that_is_gone_is_away_after_a_while_and_returns() {
        let started = Instant::now();
        let at = |seconds| started + Duration::from_secs(seconds);
        let mut carrier = Carrier::of(2);
        assert_eq!(carrier.note(Some((true, Some(2))), at(0)), None);
        assert_eq!(carrier.note(Some((false, Some(3))), at(1)), None);
        assert_eq!(carrier.note(Some((false, Some(3))), at(8)), None);
        assert_eq!(carrier.note(None, at(9)), Some(Change::Away));
        assert_eq!(carrier.note(Some((false, Some(3))), at(60)), None, "told once");
        assert_eq!(carrier.note(Some((true, Some(4))), at(61)), Some(Change::Returned));
        assert_eq!(carrier.note(Some((true, Some(4))), at(62)), None);
        assert_eq!(carrier.note(Some((false, Some(5))), at(63)), None);
        assert_eq!(carrier.note(Some((false, Some(5))), at(71)), Some(Change::Away));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flap_between_two_looks_shows_in_the_count() {
        let now = Instant::now();
        let mut carrier = Carrier::of(2);
        assert_eq!(carrier.note(Some((true, Some(2))), now), None);
        assert_eq!(carrier.note(Some((true, Some(4))), now), Some(Change::Returned));
        assert_eq!(carrier.note(Some((true, Some(4))), now), None);
        assert_eq!(carrier.note(Some((true, None)), now), None, "kernels that do not count");
        assert_eq!(carrier.note(Some((true, Some(4))), now), None);
    }
}
