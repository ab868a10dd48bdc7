//! Whether somebody else has an address already, and telling the wire who has it now (RFC 5227).

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::api::mac::Mac;
use crate::net::links::{EthernetLink, Netlink};
use crate::sys::packet::PacketSocket;

const ETHERTYPE: u16 = 0x0806;
/// Ethernet, IPv4, and the length of their addresses (RFC 826).
const HARDWARE_AND_PROTOCOL: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
/// RFC 5227 section 1.1 wants three probes one to two seconds apart. In a rack an answer takes microseconds, and a
/// machine that boots should not wait for seconds; the three remain, against a lost one.
const PROBES: u32 = 3;
const PROBE_GAP: Duration = Duration::from_millis(250);

/// Another machine that has `address`, or is about to take it. Takes 750 ms when nobody has it. What can't be found out
/// holds nothing up: then it is nobody.
pub async fn find_holder(netlink: &Netlink, link: &EthernetLink, address: Ipv4Addr) -> Option<Mac> {
    // Another link of this machine on the same wire answers for an address that is still on it.
    let links = netlink.read_links().await.unwrap_or_default();
    let own: Vec<Mac> = links.iter().filter_map(|link| link.mac).collect();
    probe(link, address, &own).await.unwrap_or_else(|error| {
        debug!(error = format!("{error:#}"), "address not probed");
        None
    })
}

async fn probe(link: &EthernetLink, address: Ipv4Addr, own: &[Mac]) -> Result<Option<Mac>> {
    let context = || format!("probing {address} on {}", link.name);
    let socket = PacketSocket::open(link.index, ETHERTYPE).with_context(context)?;
    let probe = render_request(link.mac, Ipv4Addr::UNSPECIFIED, address);
    let mut buffer = [0; 128];
    for _ in 0..PROBES {
        socket.send(&probe).await.with_context(context)?;
        let ends = Instant::now() + PROBE_GAP;
        while let Ok(received) = timeout_at(ends, socket.receive(&mut buffer)).await {
            let len = received.with_context(context)?.len;
            let holder = parse_claim(buffer.get(..len).unwrap_or_default(), address);
            if let Some(holder) = holder.filter(|holder| *holder != link.mac && !own.contains(holder)) {
                return Ok(Some(holder));
            }
        }
    }
    Ok(None)
}

/// Tells the others on the wire that the address is here now, so that they forget where it was.
pub async fn announce(link: &EthernetLink, address: Ipv4Addr) -> Result<()> {
    let socket = PacketSocket::open(link.index, ETHERTYPE).with_context(|| format!("announcing on {}", link.name))?;
    let sent = socket.send(&render_request(link.mac, address, address)).await;
    sent.with_context(|| format!("announcing {address} on {}", link.name))
}

/// A broadcast question for `target`. From 0.0.0.0 it is a probe, which changes nobody's table.
fn render_request(sender: Mac, sender_address: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(Mac::BROADCAST.0);
    frame.extend(sender.0);
    frame.extend(ETHERTYPE.to_be_bytes());
    frame.extend(HARDWARE_AND_PROTOCOL);
    frame.extend(REQUEST);
    frame.extend(sender.0);
    frame.extend(sender_address.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// Who says in this frame that `address` is its own, or probes for it at the same time.
fn parse_claim(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let (header, packet) = frame.split_at_checked(14)?;
    let packet = packet.first_chunk::<28>()?;
    if header.get(12..14)? != ETHERTYPE.to_be_bytes() || !packet.starts_with(&HARDWARE_AND_PROTOCOL) {
        return None;
    }
    let sender = Mac::from_slice(packet.get(8..14)?)?;
    let four = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let (source, target) = (four(14)?, four(24)?);
    let claims = source == address;
    let probes = source.is_unspecified() && target == address && packet.get(6..8)? == REQUEST;
    (claims || probes).then_some(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);
    const ELSE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

    #[test]
    fn who_uses_the_address_claims_it_and_who_asks_for_it_does_not() {
        let claim = |source, target| parse_claim(&render_request(OTHER, source, target), ADDRESS);
        assert_eq!(claim(ADDRESS, ELSE), Some(OTHER), "speaks from it");
        assert_eq!(claim(ADDRESS, ADDRESS), Some(OTHER), "announces it");
        assert_eq!(claim(Ipv4Addr::UNSPECIFIED, ADDRESS), Some(OTHER), "probes for it, too");
        assert_eq!(claim(ELSE, ADDRESS), None, "looks for its holder");
        assert_eq!(claim(Ipv4Addr::UNSPECIFIED, ELSE), None);
    }

    #[test]
    fn an_answer_is_a_claim_and_a_cut_or_foreign_frame_is_none() {
        let mut answer = render_request(OTHER, ADDRESS, Ipv4Addr::UNSPECIFIED);
        answer[21] = 2;
        assert_eq!(parse_claim(&answer, ADDRESS), Some(OTHER));
        for len in 0..answer.len() {
            assert_eq!(parse_claim(&answer[..len], ADDRESS), None, "{len} bytes");
        }
        for at in [12, 15, 17, 18, 19] {
            let mut foreign = answer.clone();
            foreign[at] ^= 0x40;
            assert_eq!(parse_claim(&foreign, ADDRESS), None, "byte {at}");
        }
    }
}
