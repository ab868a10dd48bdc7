//! Keeping a lease: renew with its server, then rebind with any, until it runs out.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use super::acquire::Acquired;
use super::apply::apply_lease;
use super::lease::{Lease, LeaseTimes};
use super::message::{DhcpOptions, Question, render};
use super::reply::{Reply, ReplyKind, parse_reply};
use super::{CLIENT_PORT, SERVER_PORT};
use crate::net::links::{EthernetLink, Netlink};
use crate::sys::udp::{UdpOptions, bind_udp};

/// Between two tries to extend a lease: half the time left, within these.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why a lease is over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Lost {
    #[error("lease of {address} ran out: no DHCP server extended it")]
    Expired { address: Ipv4Addr },
    #[error("DHCP server took {address} back{reason}")]
    Refused { address: Ipv4Addr, reason: String },
}

/// Extends the lease as long as a server lets it, applying and passing on every new state. The address stays on the
/// link when the lease is lost; the kernel takes it away when its time is over.
pub async fn keep(
    netlink: &Netlink,
    acquired: Acquired,
    options: &DhcpOptions,
    mut renewed: impl FnMut(&Acquired),
) -> Lost {
    let mut held = acquired;
    loop {
        let Some(times) = held.lease.times else {
            // For ever means for ever.
            return std::future::pending().await;
        };
        sleep_until(held.since + times.renew).await;
        let (lease, since) = match extend(&held, times, options).await {
            Ok(extended) => extended,
            Err(lost) => return lost,
        };
        info!(link = %held.link.name, address = %lease.address, server = %lease.server, "DHCP lease renewed");
        let next = Acquired { link: held.link.clone(), lease, since };
        if let Err(error) = apply_lease(netlink, &next, Some(&held.lease)).await {
            warn!(error = format!("{error:#}"), "renewed lease not applied in full");
        }
        renewed(&next);
        held = next;
    }
}

/// Asks until a server answers or the lease is over. Answers the new lease and when it was asked for.
async fn extend(held: &Acquired, times: LeaseTimes, options: &DhcpOptions) -> Result<(Lease, Instant), Lost> {
    let address = held.lease.address.addr();
    let expiry = held.since + times.expire;
    let rebind = held.since + times.rebind;
    loop {
        let asked = Instant::now();
        if asked >= expiry {
            return Err(Lost::Expired { address });
        }
        let (server, stage_ends) =
            if asked < rebind { (held.lease.server, rebind) } else { (Ipv4Addr::BROADCAST, expiry) };
        let wait = ((stage_ends - asked) / 2).clamp(SHORTEST_WAIT, LONGEST_WAIT);
        let try_ends = (asked + wait).min(expiry);
        match ask(held, server, options, try_ends).await {
            Ok(Some(reply)) if reply.kind == ReplyKind::Nak => {
                let reason = reply.message.map(|text| format!(": {text}")).unwrap_or_default();
                return Err(Lost::Refused { address, reason });
            }
            Ok(Some(reply)) => match Lease::from_reply(&reply) {
                Ok(lease) => return Ok((lease, asked)),
                Err(useless) => debug!(%useless, "DHCP renewal passed over"),
            },
            Ok(None) => warn!(%server, left_s = (expiry - asked).as_secs(), "DHCP server does not renew the lease"),
            Err(error) => warn!(error = format!("{error:#}"), "DHCP renewal failed"),
        }
        // Also after an error or a useless answer the next question waits its time.
        sleep_until(try_ends).await;
    }
}

/// One question from the address itself, and its answer.
async fn ask(held: &Acquired, server: Ipv4Addr, options: &DhcpOptions, until: Instant) -> Result<Option<Reply>> {
    let EthernetLink { name, mac, .. } = &held.link;
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
    let socket = bind_udp(&UdpOptions { address, device: Some(name), broadcast: true, share_port: true })
        .with_context(|| format!("binding UDP port {CLIENT_PORT} on {name}"))?;
    let socket = UdpSocket::from_std(socket).context("polling the DHCP socket")?;
    let transaction = getrandom::u32().context("drawing a DHCP transaction number")?;
    let question = Question::Extend { address: held.lease.address.addr() };
    let payload = render(question, *mac, transaction, 0, options)?;
    let target = SocketAddrV4::new(server, SERVER_PORT);
    socket.send_to(&payload, target).await.with_context(|| format!("sending a DHCP question to {server} on {name}"))?;
    let mut buffer = vec![0; 4096];
    let answer = async {
        loop {
            let (len, _) = socket.recv_from(&mut buffer).await.context("receiving a DHCP answer")?;
            match parse_reply(buffer.get(..len).unwrap_or_default()) {
                Ok(reply) if reply.transaction == transaction && reply.kind != ReplyKind::Offer => return Ok(reply),
                Ok(_) => {}
                Err(error) => debug!(%error, "no DHCP answer"),
            }
        }
    };
    timeout_at(until, answer).await.ok().transpose()
}
