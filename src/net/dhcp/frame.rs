//! DHCP messages in Ethernet frames: what the kernel's UDP would do if there were an address.

use std::net::Ipv4Addr;

use super::{CLIENT_PORT, SERVER_PORT};
use crate::api::mac::Mac;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERNET_HEADER_BYTES: usize = 14;
const IP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const PROTOCOL_UDP: u8 = 17;

/// What a frame for the DHCP client carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub source: Ipv4Addr,
    pub payload: &'a [u8],
}

/// A broadcast from 0.0.0.0:68 to 255.255.255.255:67.
pub fn render_frame(source: Mac, payload: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(UDP_HEADER_BYTES + payload.len()).unwrap_or(u16::MAX);
    let mut udp = Vec::with_capacity(usize::from(udp_len));
    udp.extend(CLIENT_PORT.to_be_bytes());
    udp.extend(SERVER_PORT.to_be_bytes());
    udp.extend(udp_len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let pseudo = pseudo_header(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, udp_len);
    // A sum of 0 is sent as 0xffff: 0 means "no checksum" (RFC 768).
    let udp_sum = match checksum(&[&pseudo, &udp]) {
        0 => 0xffff,
        sum => sum,
    };
    udp.splice(6..8, udp_sum.to_be_bytes());

    let ip = ip_header(udp_len);
    let mut frame = Vec::with_capacity(ETHERNET_HEADER_BYTES + ip.len() + udp.len());
    frame.extend(Mac::BROADCAST.0);
    frame.extend(source.0);
    frame.extend(ETHERTYPE_IPV4);
    frame.extend(ip);
    frame.extend(udp);
    frame
}

fn ip_header(udp_len: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0x10];
    header.extend((udp_len.saturating_add(IP_HEADER_BYTES as u16)).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, PROTOCOL_UDP, 0, 0]);
    header.extend(Ipv4Addr::UNSPECIFIED.octets());
    header.extend(Ipv4Addr::BROADCAST.octets());
    let sum = checksum(&[&header]);
    header.splice(10..12, sum.to_be_bytes());
    header
}

/// The UDP payload for port 68 in an Ethernet frame; `None` for every other frame and for damaged ones. The UDP
/// checksum is only looked at when `checksum_filled`.
pub fn parse_frame(frame: &[u8], checksum_filled: bool) -> Option<Datagram<'_>> {
    let packet = frame.get(ETHERNET_HEADER_BYTES..)?;
    if frame.get(12..14)? != ETHERTYPE_IPV4 {
        return None;
    }
    let first = *packet.first()?;
    let header_len = usize::from(first & 0x0f) * 4;
    let header = packet.get(..header_len)?;
    if first >> 4 != 4 || header_len < IP_HEADER_BYTES || checksum(&[header]) != 0 {
        return None;
    }
    let is_fragment = word(header, 6)? & 0x3fff != 0;
    if is_fragment || *header.get(9)? != PROTOCOL_UDP {
        return None;
    }
    // What lies behind the total length is padding of short Ethernet frames.
    let udp = packet.get(header_len..usize::from(word(header, 2)?))?;
    let udp_len = word(udp, 4)?;
    let udp = udp.get(..usize::from(udp_len))?;
    if word(udp, 2)? != CLIENT_PORT {
        return None;
    }
    let source = address(header, 12)?;
    let pseudo = pseudo_header(source, address(header, 16)?, udp_len);
    if checksum_filled && word(udp, 6)? != 0 && checksum(&[&pseudo, udp]) != 0 {
        return None;
    }
    Some(Datagram { source, payload: udp.get(UDP_HEADER_BYTES..)? })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, udp_len: u16) -> Vec<u8> {
    let mut header = Vec::with_capacity(12);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend([0, PROTOCOL_UDP]);
    header.extend(udp_len.to_be_bytes());
    header
}

/// The Internet checksum (RFC 1071) over the parts one after the other; all but the last must have an even length.
/// 0 when the checksum is included and right.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's answer with the given payload, as it comes off the wire.
    fn answer(payload: &[u8]) -> Vec<u8> {
        let mut frame = render_frame(Mac([2, 0, 0, 0, 0, 1]), payload);
        frame.splice(34..38, [0, 67, 0, 68]);
        frame
    }

    #[test]
    fn checksum_agrees_with_the_example_of_rfc_1071() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    #[test]
    fn a_rendered_frame_is_read_back_when_the_ports_are_swapped() {
        // Swapping both ports leaves the sum as it is.
        let frame = answer(b"odd");
        assert_eq!(parse_frame(&frame, true), Some(Datagram { source: Ipv4Addr::UNSPECIFIED, payload: b"odd" }));
    }

    #[test]
    fn our_own_question_is_not_taken_for_an_answer() {
        assert_eq!(parse_frame(&render_frame(Mac([2; 6]), b"question"), true), None);
    }

    #[test]
    fn padding_of_a_short_frame_is_cut_off() {
        let mut frame = answer(b"x");
        frame.resize(60, 0);
        assert_eq!(parse_frame(&frame, true).map(|datagram| datagram.payload), Some(&b"x"[..]));
    }

    #[test]
    fn a_damaged_payload_is_dropped_unless_the_checksum_was_left_to_hardware() {
        let mut frame = answer(b"payload");
        *frame.last_mut().unwrap() ^= 1;
        assert_eq!(parse_frame(&frame, true), None);
        assert!(parse_frame(&frame, false).is_some());
    }

    #[test]
    fn a_damaged_ip_header_and_a_fragment_are_dropped() {
        let mut damaged = answer(b"payload");
        damaged[22] ^= 1;
        assert_eq!(parse_frame(&damaged, true), None);
        let mut fragment = answer(b"payload");
        fragment[20] = 0x20;
        fragment[24..26].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&fragment[14..34]]);
        fragment[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(parse_frame(&fragment, true), None);
    }
}
