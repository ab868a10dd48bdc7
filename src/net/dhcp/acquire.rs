//! From no address to a lease: asks on every link with a carrier at once; the first useful answer wins.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::arp;
use super::asking::Heard;
use super::lease::Lease;
use super::message::Question;
use super::reply::{Reply, ReplyKind};
use super::rules::DhcpOptions;
use super::search::{Event, Search};
use crate::api::mac::Mac;
use crate::net::Say;
use crate::net::backoff::Backoff;
use crate::net::links::{EthernetLink, Netlink};

const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Short beside RFC 2131's 64 s: a machine in a rack should be there soon after its switch port forwards.
const LONGEST_DELAY: Duration = Duration::from_secs(16);
/// After an address that somebody else has. RFC 2131 section 3.1 wants 10 s against endless loops; the first time a
/// machine that boots need not wait so long.
const LONGEST_CONFLICT_DELAY: Duration = Duration::from_secs(10);
/// Waits for the ACK of one offer; then other offers are heard again.
pub(super) const ACK_WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// How long a better offer is waited for when one lacks something.
const LACKING_WAIT: Duration = Duration::from_secs(6);

/// A lease, the link it is for, and when it was asked for (its times count from there).
#[derive(Clone, Debug)]
pub struct Acquired {
    pub link: EthernetLink,
    pub lease: Lease,
    pub since: Instant,
}

/// An offer that was looked at but not taken.
#[derive(Clone, Debug)]
pub struct OfferSeen {
    pub link: EthernetLink,
    pub lease: Lease,
    pub faults: Vec<String>,
}

/// Asks until a server confirms a lease of an address that nobody else has, on all ports or on the link named. Links are
/// set up; nothing else of them is changed. Never gives up: `say` is told what is missing and since when, and which
/// servers were passed over and why.
pub async fn acquire(netlink: &Netlink, only: Option<&str>, options: &DhcpOptions, say: Say<'_>) -> Acquired {
    let mut search = Search::new(netlink, only, options, say);
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut conflicts = Backoff::new(FIRST_DELAY, LONGEST_CONFLICT_DELAY);
    let mut lacking_since = None;
    let mut round = 0u32;
    loop {
        if let Err(error) = search.refresh().await {
            say(format!("cannot look at the network links: {error:#}"));
        }
        search.ask(Question::Discover).await;
        let delay = backoff.next_delay();
        if round > 0 {
            say(search.complaint(delay));
        }
        round += 1;
        let round_ends = Instant::now() + delay;
        loop {
            match search.next_event(round_ends).await {
                Event::Heard(heard) => {
                    let Some((link, lease, since)) = search.take(heard, &mut lacking_since).await else { continue };
                    let Some(holder) = arp::find_holder(netlink, &link, lease.address.addr()).await else {
                        search.note_others(&lease);
                        return Acquired { link, lease, since };
                    };
                    search.decline(&link, &lease, holder).await;
                    sleep(conflicts.next_delay()).await;
                    break;
                }
                Event::LinksCame => {
                    backoff.reset();
                    round = 0;
                    break;
                }
                Event::RoundOver => break,
            }
        }
    }
}

/// Asks on one link, takes nothing, and returns the first useful offer; `None` after `limit`.
pub async fn find_offer(
    netlink: &Netlink,
    link: &str,
    options: &DhcpOptions,
    limit: Duration,
) -> Result<Option<OfferSeen>> {
    let say = |text: String| debug!("{text}");
    let mut search = Search::new(netlink, Some(link), options, &say);
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let end = Instant::now() + limit;
    while Instant::now() < end {
        search.refresh().await?;
        search.ask(Question::Discover).await;
        let round_ends = end.min(Instant::now() + backoff.next_delay());
        while let Event::Heard(heard) = search.next_event(round_ends).await {
            if heard.reply.kind != ReplyKind::Offer {
                continue;
            }
            match options.lease(&heard.reply) {
                Ok(lease) => return Ok(Some(OfferSeen { link: heard.link, lease, faults: heard.reply.faults })),
                Err(useless) => search.pass_over(&heard, &useless.to_string()),
            }
        }
    }
    Ok(None)
}

impl Search<'_> {
    /// Asks for what was offered. `None` when it was no useful offer, or the server did not stand by it.
    async fn take(
        &mut self,
        heard: Heard,
        lacking_since: &mut Option<Instant>,
    ) -> Option<(EthernetLink, Lease, Instant)> {
        let offer = self.judge(&heard, lacking_since)?;
        let link = heard.link;
        (self.say)(format!("DHCP server {} offers {} on {}", offer.server, offer.address, link.name));
        let question = Question::Select { address: offer.address.addr(), server: offer.server };
        let since = Instant::now();
        for wait in ACK_WAITS {
            if !self.ask_on(&link, question).await {
                return None;
            }
            let Some(answer) = self.decision(&link, offer.server, Instant::now() + wait).await else { continue };
            if answer.kind == ReplyKind::Nak {
                let reason = answer.message.map(|text| format!(": {text}")).unwrap_or_default();
                let Lease { server, address, .. } = offer;
                (self.say)(format!("DHCP server {server} refuses {address} on {}{reason}", link.name));
                return None;
            }
            match self.options.lease(&answer) {
                Ok(lease) => return Some((link, lease, since)),
                Err(useless) => {
                    let (server, name) = (offer.server, &link.name);
                    (self.say)(format!("DHCP server {server} on {name} confirms nothing useful: {useless}"));
                    return None;
                }
            }
        }
        (self.say)(format!("DHCP server {} does not confirm {} on {}", offer.server, offer.address, link.name));
        None
    }

    /// The offer, if it may win. One that lacks what the agent needs wins when no better one comes for a while: the rest
    /// may come another way (name servers by IPv6).
    fn judge(&mut self, heard: &Heard, lacking_since: &mut Option<Instant>) -> Option<Lease> {
        if heard.reply.kind != ReplyKind::Offer {
            return None;
        }
        let offer = match self.options.lease(&heard.reply) {
            Ok(offer) => offer,
            Err(useless) => {
                self.pass_over(heard, &useless.to_string());
                return None;
            }
        };
        if let Some(lack) = self.options.needs.lacking(&offer) {
            if lacking_since.get_or_insert_with(Instant::now).elapsed() < LACKING_WAIT {
                self.pass_over(heard, &format!("{lack}; a better one is waited for"));
                return None;
            }
            (self.say)(format!("nobody offers more than DHCP server {} on {}: {lack}", offer.server, heard.link.name));
        }
        Some(offer)
    }

    /// The ACK or NAK of `server` on `link`.
    async fn decision(&mut self, link: &EthernetLink, server: Ipv4Addr, until: Instant) -> Option<Box<Reply>> {
        let search = async {
            loop {
                let heard = self.hear().await;
                let ours = heard.link == *link && heard.reply.server.is_none_or(|other| other == server);
                if ours && heard.reply.kind != ReplyKind::Offer {
                    return heard.reply;
                }
                self.note_other(&heard, server);
            }
        };
        timeout_at(until, search).await.ok()
    }

    async fn decline(&self, link: &EthernetLink, lease: &Lease, holder: Mac) {
        let Lease { server, address, .. } = lease;
        (self.say)(format!(
            "address {address} on {} is in use by {holder} already; declined to DHCP server {server}, asking again",
            link.name
        ));
        self.ask_on(link, Question::Decline { address: address.addr(), server: *server }).await;
    }
}
