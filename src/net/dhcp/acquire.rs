//! From no address to a lease: asks on every link with a carrier at once; the first useful answer wins.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, warn};

use super::frame::{parse_frame, render_frame};
use super::lease::Lease;
use super::message::{DhcpOptions, Question, render};
use super::reply::{Reply, ReplyKind, parse_reply};
use crate::net::backoff::Backoff;
use crate::net::links::{EthernetLink, Netlink};
use crate::net::{AbortOnDrop, Say};
use crate::sys::packet::PacketSocket;

const ETHERTYPE_IPV4: u16 = 0x0800;
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Short beside RFC 2131's 64 s: a machine in a rack should be there soon after its switch port forwards.
const LONGEST_DELAY: Duration = Duration::from_secs(16);
/// How often new links and carriers are looked for.
const LINK_POLL: Duration = Duration::from_millis(250);
/// Waits for the ACK of one offer; then other offers are heard again.
const ACK_WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// After an error of a packet socket (its link went down).
const SOCKET_PAUSE: Duration = Duration::from_millis(500);

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

/// Asks until a server confirms a lease, on all Ethernet links or on the one named. Links are set up; nothing else
/// of them is changed. Never gives up: `say` is told what is missing and since when.
pub async fn acquire(netlink: &Netlink, only: Option<&str>, options: &DhcpOptions, say: Say<'_>) -> Acquired {
    let mut search = Search::new(netlink, only, options);
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
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
                    if let Some(acquired) = search.take(heard, say).await {
                        return acquired;
                    }
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
    let mut search = Search::new(netlink, Some(link), options);
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
            match Lease::from_reply(&heard.reply) {
                Ok(lease) => return Ok(Some(OfferSeen { link: heard.link, lease, faults: heard.reply.faults })),
                Err(useless) => debug!(link = %heard.link.name, %useless, "DHCP offer passed over"),
            }
        }
    }
    Ok(None)
}

/// What a server says about an address that is already in use.
#[derive(Clone, Debug)]
pub enum Confirmed {
    Lease(Box<Acquired>),
    /// The server's reason, if it gave one.
    Refused(Option<String>),
    NoAnswer,
}

/// Asks whether `address` may be kept (RFC 2131 section 3.2), once with a few repetitions.
pub async fn confirm(link: &EthernetLink, address: Ipv4Addr, options: &DhcpOptions) -> Result<Confirmed> {
    let (sender, mut replies) = mpsc::channel(16);
    let asking = Asking::open(link.clone(), sender)?;
    for wait in ACK_WAITS {
        let since = Instant::now();
        asking.send(Question::Confirm { address }, 0, options).await?;
        let heard = timeout_at(since + wait, async {
            loop {
                let heard: Heard = replies.recv().await?;
                if heard.reply.kind != ReplyKind::Offer {
                    return Some(heard);
                }
            }
        });
        let Ok(Some(heard)) = heard.await else { continue };
        if heard.reply.kind == ReplyKind::Nak {
            return Ok(Confirmed::Refused(heard.reply.message));
        }
        if let Ok(lease) = Lease::from_reply(&heard.reply) {
            return Ok(Confirmed::Lease(Box::new(Acquired { link: link.clone(), lease, since })));
        }
    }
    Ok(Confirmed::NoAnswer)
}

/// One link being asked on. Its answers arrive in the search's channel.
struct Asking {
    link: EthernetLink,
    socket: Arc<PacketSocket>,
    transaction: u32,
    _reader: AbortOnDrop,
}

struct Heard {
    link: EthernetLink,
    reply: Box<Reply>,
}

enum Event {
    Heard(Heard),
    LinksCame,
    RoundOver,
}

impl Asking {
    fn open(link: EthernetLink, replies: mpsc::Sender<Heard>) -> Result<Self> {
        let socket = PacketSocket::open(link.index, ETHERTYPE_IPV4);
        let socket = Arc::new(socket.with_context(|| format!("opening a packet socket on {}", link.name))?);
        let transaction = getrandom::u32().context("drawing a DHCP transaction number")?;
        let reader = tokio::spawn(read_replies(link.clone(), Arc::clone(&socket), transaction, replies));
        Ok(Self { link, socket, transaction, _reader: AbortOnDrop(reader) })
    }

    async fn send(&self, question: Question, seconds: u16, options: &DhcpOptions) -> Result<()> {
        let payload = render(question, self.link.mac, self.transaction, seconds, options)?;
        let sent = self.socket.send(&render_frame(self.link.mac, &payload)).await;
        sent.with_context(|| format!("sending a DHCP question on {}", self.link.name))
    }
}

/// Passes on the answers to one transaction, until nobody listens any more.
async fn read_replies(link: EthernetLink, socket: Arc<PacketSocket>, transaction: u32, replies: mpsc::Sender<Heard>) {
    let mut buffer = vec![0; 4096];
    loop {
        let received = match socket.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(link = %link.name, %error, "packet socket");
                sleep(SOCKET_PAUSE).await;
                continue;
            }
        };
        let frame = buffer.get(..received.len).unwrap_or_default();
        let Some(datagram) = parse_frame(frame, received.checksum_filled) else { continue };
        match parse_reply(datagram.payload) {
            Ok(reply) if reply.transaction == transaction && reply.client == link.mac => {
                for fault in &reply.faults {
                    debug!(link = %link.name, server = %datagram.source, fault, "part of a DHCP answer ignored");
                }
                if replies.send(Heard { link: link.clone(), reply: Box::new(reply) }).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => debug!(link = %link.name, server = %datagram.source, %error, "no DHCP answer"),
        }
    }
}

/// All links being asked on, and what the search knows about the rest.
struct Search<'a> {
    netlink: &'a Netlink,
    only: Option<&'a str>,
    options: &'a DhcpOptions,
    started: Instant,
    asking: Vec<Asking>,
    /// Ethernet links seen at the last look, with or without a carrier.
    seen: Vec<String>,
    /// Links that were set up, or refused to be: tried once each.
    raised: BTreeSet<u32>,
    sender: mpsc::Sender<Heard>,
    replies: mpsc::Receiver<Heard>,
}

impl<'a> Search<'a> {
    fn new(netlink: &'a Netlink, only: Option<&'a str>, options: &'a DhcpOptions) -> Self {
        let (sender, replies) = mpsc::channel(16);
        Self {
            netlink,
            only,
            options,
            started: Instant::now(),
            asking: Vec::new(),
            seen: Vec::new(),
            raised: BTreeSet::new(),
            sender,
            replies,
        }
    }

    /// Sets links up, and follows their carriers. True when there is a link to ask on that was not there before.
    async fn refresh(&mut self) -> Result<bool> {
        let mut links = self.netlink.read_links().await?;
        links.retain(|link| link.ethernet && self.only.is_none_or(|only| only == link.name));
        for link in links.iter().filter(|link| !link.up) {
            if self.raised.insert(link.index)
                && let Err(error) = self.netlink.apply_up(link.index).await
            {
                warn!(link = %link.name, error = format!("{error:#}"), "link stays down");
            }
        }
        self.seen = links.iter().map(|link| link.name.clone()).collect();
        self.asking.retain(|asking| links.iter().any(|link| link.carrier && link.index == asking.link.index));
        let mut came = false;
        for link in links.iter().filter(|link| link.carrier) {
            let known = self.asking.iter().any(|asking| asking.link.index == link.index);
            let Some(ethernet) = link.as_ethernet().filter(|_| !known) else { continue };
            match Asking::open(ethernet, self.sender.clone()) {
                Ok(asking) => {
                    self.asking.push(asking);
                    came = true;
                }
                Err(error) => debug!(error = format!("{error:#}"), "link can't be asked on"),
            }
        }
        Ok(came)
    }

    async fn ask(&self, question: Question) {
        for asking in &self.asking {
            if let Err(error) = asking.send(question, self.seconds(), self.options).await {
                warn!(error = format!("{error:#}"), "DHCP question not sent");
            }
        }
    }

    fn seconds(&self) -> u16 {
        u16::try_from(self.started.elapsed().as_secs()).unwrap_or(u16::MAX)
    }

    /// The next answer, or a link that came up, or the end of the round.
    async fn next_event(&mut self, round_ends: Instant) -> Event {
        loop {
            tokio::select! {
                heard = self.replies.recv() => {
                    // The search holds a sender itself, so the channel never ends.
                    if let Some(heard) = heard {
                        return Event::Heard(heard);
                    }
                }
                () = sleep_until(round_ends) => return Event::RoundOver,
                () = sleep(LINK_POLL) => {
                    if matches!(self.refresh().await, Ok(true)) {
                        return Event::LinksCame;
                    }
                }
            }
        }
    }

    /// Asks for what was offered. `None` when it was no useful offer, or the server did not stand by it.
    async fn take(&mut self, heard: Heard, say: Say<'_>) -> Option<Acquired> {
        let Heard { link, reply } = heard;
        if reply.kind != ReplyKind::Offer {
            return None;
        }
        let offer = match Lease::from_reply(&reply) {
            Ok(offer) => offer,
            Err(useless) => {
                debug!(link = %link.name, %useless, "DHCP offer passed over");
                return None;
            }
        };
        say(format!("DHCP server {} offers {} on {}", offer.server, offer.address, link.name));
        let question = Question::Select { address: offer.address.addr(), server: offer.server };
        let since = Instant::now();
        for wait in ACK_WAITS {
            let asking = self.asking.iter().find(|asking| asking.link.index == link.index)?;
            if let Err(error) = asking.send(question, self.seconds(), self.options).await {
                warn!(error = format!("{error:#}"), "DHCP question not sent");
            }
            let Some(answer) = self.decision(&link, offer.server, Instant::now() + wait).await else { continue };
            if answer.kind == ReplyKind::Nak {
                let reason = answer.message.map(|text| format!(": {text}")).unwrap_or_default();
                say(format!("DHCP server {} refuses {} on {}{reason}", offer.server, offer.address, link.name));
                return None;
            }
            match Lease::from_reply(&answer) {
                Ok(lease) => return Some(Acquired { link, lease, since }),
                Err(useless) => {
                    say(format!("DHCP server {} on {} confirms nothing useful: {useless}", offer.server, link.name));
                    return None;
                }
            }
        }
        say(format!("DHCP server {} does not confirm {} on {}", offer.server, offer.address, link.name));
        None
    }

    /// The ACK or NAK of `server` on `link`.
    async fn decision(&mut self, link: &EthernetLink, server: Ipv4Addr, until: Instant) -> Option<Box<Reply>> {
        let search = async {
            loop {
                let Some(heard) = self.replies.recv().await else { continue };
                let ours = heard.link.index == link.index && heard.reply.server.is_none_or(|other| other == server);
                if ours && heard.reply.kind != ReplyKind::Offer {
                    return heard.reply;
                }
            }
        };
        timeout_at(until, search).await.ok()
    }

    /// What is missing, for the console.
    fn complaint(&self, delay: Duration) -> String {
        let waited = self.started.elapsed().as_secs();
        let mut text = if self.seen.is_empty() {
            match self.only {
                Some(only) => format!("there is no Ethernet link {only} (waiting for {waited} s)"),
                None => format!("there is no Ethernet link (waiting for {waited} s)"),
            }
        } else if self.asking.is_empty() {
            format!("no carrier on {} for {waited} s", self.seen.join(", "))
        } else {
            let names: Vec<&str> = self.asking.iter().map(|asking| asking.link.name.as_str()).collect();
            format!("no DHCP answer on {} for {waited} s", names.join(", "))
        };
        let seconds = delay.as_secs().max(1);
        // Writing to a String does not fail.
        let _ = match self.asking.is_empty() {
            true => write!(text, "; still looking"),
            false => write!(text, "; asking again in {seconds} s"),
        };
        text
    }
}
