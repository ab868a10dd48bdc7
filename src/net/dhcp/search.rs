//! All links that are asked on, and what is known about the rest.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::asking::{Asking, Heard};
use super::lease::Lease;
use super::message::Question;
use super::reply::ReplyKind;
use super::rules::DhcpOptions;
use crate::api::mac::Mac;
use crate::net::Say;
use crate::net::links::{EthernetLink, Link, Netlink};

/// How often new links and carriers are looked for.
const LINK_POLL: Duration = Duration::from_millis(250);
/// How long the port that firmware booted from is asked on alone: it led to a useful server a minute ago.
const BOOT_PORT_ALONE: Duration = Duration::from_secs(10);
/// The same when there is no such port: its driver may be late.
const BOOT_PORT_ABSENT: Duration = Duration::from_secs(3);

pub(super) struct Search<'a> {
    netlink: &'a Netlink,
    only: Option<&'a str>,
    pub(super) options: &'a DhcpOptions,
    pub(super) say: Say<'a>,
    started: Instant,
    asking: Vec<Asking>,
    /// Links that may be asked on, seen at the last look, with or without a carrier.
    seen: Vec<String>,
    /// Links that were set up, or refused to be: tried once each.
    raised: BTreeSet<u32>,
    /// Servers, by what they call themselves and their link, of which was told why they do not win.
    told: BTreeSet<(Ipv4Addr, u32)>,
    sender: mpsc::Sender<Heard>,
    replies: mpsc::Receiver<Heard>,
}

pub(super) enum Event {
    Heard(Heard),
    LinksCame,
    RoundOver,
}

impl<'a> Search<'a> {
    pub(super) fn new(netlink: &'a Netlink, only: Option<&'a str>, options: &'a DhcpOptions, say: Say<'a>) -> Self {
        let (sender, replies) = mpsc::channel(16);
        Self {
            netlink,
            only,
            options,
            say,
            started: Instant::now(),
            asking: Vec::new(),
            seen: Vec::new(),
            raised: BTreeSet::new(),
            told: BTreeSet::new(),
            sender,
            replies,
        }
    }

    /// Sets links up, and follows their carriers. True when there is a link to ask on that was not there before.
    pub(super) async fn refresh(&mut self) -> Result<bool> {
        let mut links = self.netlink.read_links().await?;
        links.retain(|link| link.is_wanted(self.only));
        for link in links.iter().filter(|link| link.to_bmc && !self.raised.contains(&link.index)) {
            info!(link = %link.name, "leads to this machine's own BMC, not used");
        }
        self.raised.extend(links.iter().filter(|link| link.to_bmc).map(|link| link.index));
        links.retain(|link| link.as_addressable().is_some());
        for link in links.iter().filter(|link| !link.up) {
            if self.raised.insert(link.index)
                && let Err(error) = self.netlink.apply_up(link.index).await
            {
                warn!(link = %link.name, error = format!("{error:#}"), "link stays down");
            }
        }
        self.seen = links.iter().map(|link| link.name.clone()).collect();
        let alone = self.boot_port_alone(&links);
        links.retain(|link| link.carrier && alone.is_none_or(|boot_port| link.mac == Some(boot_port)));
        let asked: Vec<EthernetLink> = links.iter().filter_map(Link::as_addressable).collect();
        // Also when its MAC has changed, as a bond's does: answers go to the old one.
        self.asking.retain(|asking| asked.contains(&asking.link));
        let mut came = false;
        for link in asked {
            if self.asking.iter().any(|asking| asking.link == link) {
                continue;
            }
            match Asking::open(link, self.sender.clone()) {
                Ok(asking) => {
                    self.asking.push(asking);
                    came = true;
                }
                Err(error) => debug!(error = format!("{error:#}"), "link can't be asked on"),
            }
        }
        Ok(came)
    }

    /// The port that is still asked on alone.
    fn boot_port_alone(&self, links: &[Link]) -> Option<Mac> {
        let boot_port = self.options.boot_port.filter(|_| self.only.is_none())?;
        let is_there = links.iter().any(|link| link.mac == Some(boot_port));
        let patience = if is_there { BOOT_PORT_ALONE } else { BOOT_PORT_ABSENT };
        (self.started.elapsed() < patience).then_some(boot_port)
    }

    pub(super) async fn ask(&self, question: Question) {
        for asking in &self.asking {
            if let Err(error) = asking.send(question, self.seconds(), self.options).await {
                warn!(error = format!("{error:#}"), "DHCP question not sent");
            }
        }
    }

    /// Asks on one link. False when it is asked on no more.
    pub(super) async fn ask_on(&self, link: &EthernetLink, question: Question) -> bool {
        let Some(asking) = self.asking.iter().find(|asking| asking.link == *link) else { return false };
        if let Err(error) = asking.send(question, self.seconds(), self.options).await {
            warn!(error = format!("{error:#}"), "DHCP question not sent");
        }
        true
    }

    fn seconds(&self) -> u16 {
        u16::try_from(self.started.elapsed().as_secs()).unwrap_or(u16::MAX)
    }

    /// The next answer that counts, or a link that came up, or the end of the round.
    pub(super) async fn next_event(&mut self, round_ends: Instant) -> Event {
        loop {
            tokio::select! {
                heard = self.hear() => return Event::Heard(heard),
                () = sleep_until(round_ends) => return Event::RoundOver,
                () = sleep(LINK_POLL) => {}
            }
            if matches!(self.refresh().await, Ok(true)) {
                return Event::LinksCame;
            }
        }
    }

    /// The next answer of a server that counts. Nothing is lost when it is given up.
    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            // The search holds a sender itself, so the channel never ends.
            let Some(heard) = self.replies.recv().await else { continue };
            match self.options.servers.reason_against(heard.reply.server, heard.source) {
                None => return heard,
                Some(reason) => self.pass_over(&heard, reason),
            }
        }
    }

    /// Says once why a server's offers do not win.
    pub(super) fn pass_over(&mut self, heard: &Heard, reason: &str) {
        let server = heard.reply.server.unwrap_or(heard.source);
        if heard.reply.kind == ReplyKind::Offer && self.told.insert((server, heard.link.index)) {
            let what = match heard.reply.your_address {
                Some(address) => format!("the offer of {address}"),
                None => "an offer without an address".to_owned(),
            };
            (self.say)(format!("DHCP server {server} on {}: {what} is passed over: {reason}", heard.link.name));
        }
    }

    /// Says which other servers offer something, beside the one that won.
    pub(super) fn note_other(&mut self, heard: &Heard, winner: Ipv4Addr) {
        if heard.reply.server != Some(winner) {
            self.pass_over(heard, &format!("{winner} was first"));
        }
    }

    /// Looks at what has been heard meanwhile, and waits for nothing.
    pub(super) fn note_others(&mut self, winner: &Lease) {
        while let Ok(heard) = self.replies.try_recv() {
            match self.options.servers.reason_against(heard.reply.server, heard.source) {
                None => self.note_other(&heard, winner.server),
                Some(reason) => self.pass_over(&heard, reason),
            }
        }
    }

    /// What is missing, for the console.
    pub(super) fn complaint(&self, delay: Duration) -> String {
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
