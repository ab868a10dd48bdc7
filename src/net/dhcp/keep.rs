//! Keeping a lease: renewed and rebound in time, and held on to when its link fails.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use super::acquire::Acquired;
use super::apply::apply_lease;
use super::confirm::{Confirmed, confirm};
use super::lease::{Lease, LeaseTimes};
use super::message::{Question, render};
use super::reply::{Reply, ReplyKind, parse_reply};
use super::rules::DhcpOptions;
use super::{CLIENT_PORT, SERVER_PORT};
use crate::net::carrier::{Carrier, Change};
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
///
/// When the link loses its carrier the address stays, so that connections live on if it comes back; then the server is
/// asked whether it still holds.
pub async fn keep(
    netlink: &Netlink,
    acquired: Acquired,
    options: &DhcpOptions,
    mut renewed: impl FnMut(&Acquired),
) -> Lost {
    let mut held = acquired;
    let mut carrier = Carrier::of(held.link.index);
    loop {
        let outcome = tokio::select! {
            extended = extend_in_time(&held, options) => extended.map(Some),
            change = carrier.change(netlink) => match change {
                Change::Returned => reconfirm(&held, options).await,
                Change::Away => Ok(None),
            },
        };
        let next = match outcome {
            Ok(Some(next)) => next,
            Ok(None) => continue,
            Err(lost) => return lost,
        };
        if let Err(error) = apply_lease(netlink, &next, Some(&held.lease)).await {
            warn!(error = format!("{error:#}"), "renewed lease not applied in full");
        }
        renewed(&next);
        held = next;
    }
}

/// Waits until it is time, and extends the lease. For ever means for ever.
async fn extend_in_time(held: &Acquired, options: &DhcpOptions) -> Result<Acquired, Lost> {
    let Some(times) = held.lease.times else { return std::future::pending().await };
    sleep_until(held.since + times.renew).await;
    let (lease, since) = extend(held, times, options).await?;
    info!(link = %held.link.name, address = %lease.address, server = %lease.server, "DHCP lease renewed");
    if lease.address != held.lease.address {
        warn!(before = %held.lease.address, now = %lease.address, "the DHCP server has changed the address");
    }
    Ok(Acquired { lease, since, ..held.clone() })
}

/// Asks, after the link was away, whether the address still holds. Who does not answer leaves it as it is.
async fn reconfirm(held: &Acquired, options: &DhcpOptions) -> Result<Option<Acquired>, Lost> {
    let address = held.lease.address.addr();
    info!(link = %held.link.name, %address, "carrier is back, asking whether the address still holds");
    match confirm(&held.link, address, options).await {
        Ok(Confirmed::Lease(lease)) => Ok(Some(*lease)),
        Ok(Confirmed::Refused(reason)) => Err(refused(address, reason)),
        Ok(Confirmed::NoAnswer) => {
            warn!(%address, "no DHCP server answers; the address stays");
            Ok(None)
        }
        Err(error) => {
            warn!(error = format!("{error:#}"), "DHCP server not asked; the address stays");
            Ok(None)
        }
    }
}

fn refused(address: Ipv4Addr, reason: Option<String>) -> Lost {
    Lost::Refused { address, reason: reason.map(|text| format!(": {text}")).unwrap_or_default() }
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
            Ok(Some(reply)) if reply.kind == ReplyKind::Nak => return Err(refused(address, reply.message)),
            Ok(Some(reply)) => match options.lease(&reply) {
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
            let (len, from) = socket.recv_from(&mut buffer).await.context("receiving a DHCP answer")?;
            let std::net::SocketAddr::V4(from) = from else { continue };
            match parse_reply(buffer.get(..len).unwrap_or_default()) {
                Ok(reply) if reply.transaction == transaction && reply.kind != ReplyKind::Offer => {
                    match options.servers.reason_against(reply.server, *from.ip()) {
                        None => return Ok(reply),
                        Some(reason) => debug!(server = %from.ip(), reason, "DHCP answer passed over"),
                    }
                }
                Ok(_) => {}
                Err(error) => debug!(%error, "no DHCP answer"),
            }
        }
    };
    timeout_at(until, answer).await.ok().transpose()
}
