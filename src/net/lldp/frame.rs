//! LLDP frames (IEEE 802.1AB), as bytes and as values.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::api::mac::Mac;

/// Nearest bridge: what switches listen to and never forward.
pub const MULTICAST: Mac = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
pub const ETHERTYPE: u16 = 0x88cc;
/// Where else a switch may send its frames: the nearest bridge that is no relay, and the nearest of a customer.
pub const OTHER_MULTICASTS: [Mac; 2] = [Mac([0x01, 0x80, 0xc2, 0, 0, 0x03]), Mac([0x01, 0x80, 0xc2, 0, 0, 0])];
const ETHERNET_HEADER_BYTES: usize = 14;
/// A TLV's length has nine bits.
const LONGEST_TLV_BYTES: usize = 511;

const CHASSIS_ID: u8 = 1;
const PORT_ID: u8 = 2;
const TIME_TO_LIVE: u8 = 3;
const PORT_DESCRIPTION: u8 = 4;
const SYSTEM_NAME: u8 = 5;
const SYSTEM_DESCRIPTION: u8 = 6;
const ORGANISATION: u8 = 127;

const CHASSIS_IS_MAC: u8 = 4;
const CHASSIS_IS_ADDRESS: u8 = 5;
const PORT_IS_MAC: u8 = 3;
const PORT_IS_ADDRESS: u8 = 4;
const PORT_IS_INTERFACE: u8 = 5;
const PORT_IS_LOCAL: u8 = 7;

/// What kind of text a port id is (802.1AB table 8-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    Mac,
    /// The name of an interface.
    Interface,
    /// Whatever the switch's operator chose.
    Local,
    Other,
}

/// The other end of a cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// A MAC as lower-case text when `chassis_is_mac`, else text.
    pub chassis_id: String,
    pub chassis_is_mac: bool,
    /// A MAC as lower-case text for [`PortKind::Mac`], else text.
    pub port_id: String,
    pub port_kind: PortKind,
    pub port_description: Option<String>,
    pub system_name: Option<String>,
    pub system_description: Option<String>,
    /// How long the neighbour counts as present; zero when it says farewell.
    pub time_to_live: Duration,
    /// What the frame says besides, in its order.
    pub others: Vec<OtherTlv>,
}

/// A TLV that is not interpreted here; kept for people who look for what their switch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherTlv {
    /// 7 are capabilities, 8 is a management address, 127 whatever an organisation defines.
    pub kind: u8,
    /// Who defined it, and which of its TLVs it is; only of kind 127.
    pub organisation: Option<([u8; 3], u8)>,
    /// What follows.
    pub value: Vec<u8>,
}

impl OtherTlv {
    fn parse(kind: u8, value: &[u8]) -> Self {
        match value {
            [a, b, c, subtype, rest @ ..] if kind == ORGANISATION => {
                Self { kind, organisation: Some(([*a, *b, *c], *subtype)), value: rest.to_vec() }
            }
            _ => Self { kind, organisation: None, value: value.to_vec() },
        }
    }
}

/// `TLV 127 0080c2/1 0001`.
impl fmt::Display for OtherTlv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLV {}", self.kind)?;
        if let Some((organisation, subtype)) = self.organisation {
            write!(f, " {}/{subtype}", hex::encode(organisation))?;
        }
        write!(f, " {}", hex::encode(&self.value))
    }
}

/// Why a frame names no neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("is too short for an Ethernet frame")]
    TooShort,
    #[error("has EtherType {0:#06x}, LLDP is {ETHERTYPE:#06x}")]
    EtherType(u16),
    #[error("promises {promised} bytes in TLV {kind}, has {found}")]
    Truncated { kind: u8, promised: usize, found: usize },
    #[error("has no {0}")]
    Missing(&'static str),
    #[error("has an unreadable {0}")]
    Unreadable(&'static str),
}

/// What the machine says about itself on one link, ready to send.
pub fn render_frame(mac: Mac, interface: &str, time_to_live_s: u16, name: &str, description: &str) -> Vec<u8> {
    let mut frame = Vec::with_capacity(256);
    frame.extend(MULTICAST.0);
    frame.extend(mac.0);
    frame.extend(ETHERTYPE.to_be_bytes());
    push_tlv(&mut frame, CHASSIS_ID, &[&[CHASSIS_IS_MAC], &mac.0[..]].concat());
    push_tlv(&mut frame, PORT_ID, &[&[PORT_IS_INTERFACE], interface.as_bytes()].concat());
    push_tlv(&mut frame, TIME_TO_LIVE, &time_to_live_s.to_be_bytes());
    push_tlv(&mut frame, PORT_DESCRIPTION, interface.as_bytes());
    push_tlv(&mut frame, SYSTEM_NAME, name.as_bytes());
    push_tlv(&mut frame, SYSTEM_DESCRIPTION, description.as_bytes());
    push_tlv(&mut frame, 0, &[]);
    frame
}

fn push_tlv(frame: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let value = value.get(..LONGEST_TLV_BYTES).unwrap_or(value);
    frame.extend((u16::from(kind) << 9 | value.len() as u16).to_be_bytes());
    frame.extend(value);
}

/// The sender's address and what it says. Pure; takes any bytes. A TLV that comes twice counts once, the first time;
/// the other is among the others.
pub fn parse_frame(frame: &[u8]) -> Result<(Mac, Neighbour), FrameError> {
    let (header, tlvs) = frame.split_first_chunk::<ETHERNET_HEADER_BYTES>().ok_or(FrameError::TooShort)?;
    let ethertype = u16::from_be_bytes([header[12], header[13]]);
    if ethertype != ETHERTYPE {
        return Err(FrameError::EtherType(ethertype));
    }
    let source = Mac([header[6], header[7], header[8], header[9], header[10], header[11]]);
    Ok((source, parse_tlvs(tlvs)?))
}

fn parse_tlvs(mut rest: &[u8]) -> Result<Neighbour, FrameError> {
    let mut values: [Option<&[u8]>; 7] = [None; 7];
    let mut others = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<2>() {
        let kind = head[0] >> 1;
        let promised = usize::from(u16::from_be_bytes(*head) & 0x1ff);
        if kind == 0 {
            break;
        }
        let truncated = FrameError::Truncated { kind, promised, found: after.len() };
        let (value, next) = after.split_at_checked(promised).ok_or(truncated)?;
        match values.get_mut(usize::from(kind)) {
            Some(slot @ None) => *slot = Some(value),
            Some(Some(_)) | None => others.push(OtherTlv::parse(kind, value)),
        }
        rest = next;
    }
    let [_, chassis, port, time_to_live, port_description, system_name, system_description] = values;
    let (chassis_id, chassis_is_mac) = parse_chassis(chassis.ok_or(FrameError::Missing("chassis id"))?)?;
    let (port_id, port_kind) = parse_port(port.ok_or(FrameError::Missing("port id"))?)?;
    let time_to_live = time_to_live.ok_or(FrameError::Missing("time to live"))?;
    let seconds = time_to_live.first_chunk::<2>().ok_or(FrameError::Unreadable("time to live"))?;
    Ok(Neighbour {
        chassis_id,
        chassis_is_mac,
        port_id,
        port_kind,
        port_description: port_description.and_then(text),
        system_name: system_name.and_then(text),
        system_description: system_description.and_then(text),
        time_to_live: Duration::from_secs(u64::from(u16::from_be_bytes(*seconds))),
        others,
    })
}

fn parse_chassis(value: &[u8]) -> Result<(String, bool), FrameError> {
    let unreadable = FrameError::Unreadable("chassis id");
    let (&subtype, id) = value.split_first().ok_or(unreadable)?;
    let shown = match subtype {
        CHASSIS_IS_MAC => Mac::from_slice(id).map(|mac| (mac.to_string(), true)),
        CHASSIS_IS_ADDRESS => Some((address_or_hex(id), false)),
        _ => text(id).map(|id| (id, false)),
    };
    shown.ok_or(unreadable)
}

fn parse_port(value: &[u8]) -> Result<(String, PortKind), FrameError> {
    let unreadable = FrameError::Unreadable("port id");
    let (&subtype, id) = value.split_first().ok_or(unreadable)?;
    let shown = match subtype {
        PORT_IS_MAC => Mac::from_slice(id).map(|mac| (mac.to_string(), PortKind::Mac)),
        PORT_IS_INTERFACE => text(id).map(|id| (id, PortKind::Interface)),
        PORT_IS_LOCAL => text(id).map(|id| (id, PortKind::Local)),
        PORT_IS_ADDRESS => Some((address_or_hex(id), PortKind::Other)),
        _ => text(id).map(|id| (id, PortKind::Other)),
    };
    shown.ok_or(unreadable)
}

/// A network address: family (1 is IPv4, 2 is IPv6) and its bytes.
fn address_or_hex(value: &[u8]) -> String {
    match value {
        [1, octets @ ..] => <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).to_string()).ok(),
        [2, octets @ ..] => <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).to_string()).ok(),
        _ => None,
    }
    .unwrap_or_else(|| hex::encode(value))
}

/// Text without control characters; `None` when nothing is left.
fn text(value: &[u8]) -> Option<String> {
    let text: String = String::from_utf8_lossy(value).chars().filter(|c| !c.is_control()).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn frame_with(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        let mut frame = render_frame(MAC, "", 0, "", "");
        frame.truncate(ETHERNET_HEADER_BYTES);
        for (kind, value) in tlvs {
            push_tlv(&mut frame, *kind, value);
        }
        frame
    }

    #[test]
    fn the_frame_is_that_of_the_contract_byte_for_byte() {
        let frame = render_frame(MAC, "eth0", 10, "uuid", "text");
        let mut expected: Vec<u8> = Vec::new();
        expected.extend(b"\x01\x80\xc2\x00\x00\x0e\x02\x00\x00\x00\x00\x01\x88\xcc");
        expected.extend(b"\x02\x07\x04\x02\x00\x00\x00\x00\x01");
        expected.extend(b"\x04\x05\x05eth0");
        expected.extend(b"\x06\x02\x00\x0a");
        expected.extend(b"\x08\x04eth0");
        expected.extend(b"\x0a\x04uuid");
        expected.extend(b"\x0c\x04text");
        expected.extend(b"\x00\x00");
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_switch_with_local_port_names_is_read() {
        let frame = frame_with(&[
            (1, &[4, 2, 0, 0, 0xAB, 0, 9]),
            (2, b"\x07Eth1/3"),
            (3, &[0, 120]),
            (4, b"Ethernet8"),
            (5, b"leaf01"),
            (127, b"\x00\x80\xc2\x01\x00\x01"),
            (6, b"SONiC\r\nsecond line"),
            (0, b""),
        ]);
        let expected = Neighbour {
            chassis_id: "02:00:00:ab:00:09".into(),
            chassis_is_mac: true,
            port_id: "Eth1/3".into(),
            port_kind: PortKind::Local,
            port_description: Some("Ethernet8".into()),
            system_name: Some("leaf01".into()),
            system_description: Some("SONiCsecond line".into()),
            time_to_live: Duration::from_secs(120),
            others: vec![OtherTlv { kind: 127, organisation: Some(([0, 0x80, 0xc2], 1)), value: vec![0, 1] }],
        };
        assert_eq!(parse_frame(&frame), Ok((MAC, expected)));
    }

    #[test]
    fn ids_of_other_kinds_are_shown_as_text() {
        let ids = |chassis: &[u8], port: &[u8]| {
            let (_, neighbour) = parse_frame(&frame_with(&[(1, chassis), (2, port), (3, &[0, 1])])).unwrap();
            (neighbour.chassis_id, neighbour.port_id, neighbour.port_kind)
        };
        assert_eq!(
            ids(&[5, 1, 10, 1, 0, 9], &[3, 2, 0, 0, 0, 0, 7]),
            ("10.1.0.9".into(), "02:00:00:00:00:07".into(), PortKind::Mac)
        );
        assert_eq!(ids(b"\x07rack7", &[4, 9, 1]), ("rack7".into(), "0901".into(), PortKind::Other));
    }

    #[test]
    fn frames_without_a_neighbour_are_told_apart() {
        let cases: [(Vec<u8>, FrameError); 6] = [
            (vec![0; 13], FrameError::TooShort),
            (vec![0; 60], FrameError::EtherType(0)),
            (frame_with(&[(2, b"\x07a"), (3, &[0, 1])]), FrameError::Missing("chassis id")),
            (frame_with(&[(1, b"\x07a"), (2, b"\x07a")]), FrameError::Missing("time to live")),
            (frame_with(&[(1, &[4, 2, 0]), (2, b"\x07a"), (3, &[0, 1])]), FrameError::Unreadable("chassis id")),
            (
                [frame_with(&[(1, b"\x07a")]), vec![4, 9, 7]].concat(),
                FrameError::Truncated { kind: 2, promised: 9, found: 1 },
            ),
        ];
        for (frame, expected) in cases {
            assert_eq!(parse_frame(&frame), Err(expected));
        }
    }

    #[test]
    fn what_is_not_interpreted_is_kept_in_its_order() {
        let frame = frame_with(&[
            (1, b"\x07a"),
            (2, b"\x07b"),
            (3, &[0, 1]),
            (7, &[0, 4, 0, 4]),
            (2, b"\x07again"),
            (126, b""),
            (127, b"\x00\x12\x0f\x01\x03"),
            (127, b"\x00\x12"),
            (0, b""),
            (9, b"after the end"),
        ]);
        let (_, neighbour) = parse_frame(&frame).unwrap();
        assert_eq!(neighbour.port_id, "b");
        let shown: Vec<String> = neighbour.others.iter().map(ToString::to_string).collect();
        let expected = ["TLV 7 00040004", "TLV 2 07616761696e", "TLV 126 ", "TLV 127 00120f/1 03", "TLV 127 0012"];
        assert_eq!(shown, expected);
    }

    /// A frame as a switch sends it: what comes often is what a parser must survive when a bit of it is wrong.
    fn usual_frame() -> Vec<u8> {
        frame_with(&[
            (1, &[4, 2, 0, 0, 0xAB, 0, 9]),
            (2, b"\x07Eth1/3"),
            (3, &[0, 120]),
            (4, b"Ethernet8"),
            (5, b"leaf01"),
            (6, b"SONiC Software Version: 202305"),
            (7, &[0, 0x14, 0, 0x14]),
            (8, &[5, 1, 10, 1, 0, 9, 2, 0, 0, 0, 1, 0]),
            (127, b"\x00\x80\xc2\x01\x00\x01"),
            (127, b"\x00\x12\x0f\x04\x24\x14"),
            (0, b""),
        ])
    }

    /// One thing that goes wrong with a frame; positions are taken modulo its length.
    #[derive(Clone, Debug)]
    enum Mutation {
        Replace(usize, u8),
        FlipBit(usize, u8),
        Remove(usize),
        Insert(usize, u8),
        Truncate(usize),
        Repeat(usize, usize),
    }

    fn mutate(frame: &mut Vec<u8>, mutation: &Mutation) {
        if frame.is_empty() {
            return;
        }
        let len = frame.len();
        match *mutation {
            Mutation::Replace(at, byte) => frame[at % len] = byte,
            Mutation::FlipBit(at, bit) => frame[at % len] ^= 1 << (bit % 8),
            Mutation::Remove(at) => drop(frame.remove(at % len)),
            Mutation::Insert(at, byte) => frame.insert(at % len, byte),
            Mutation::Truncate(at) => frame.truncate(at % len),
            Mutation::Repeat(from, count) => {
                let piece = frame[from % len..].iter().copied().take(count).collect::<Vec<_>>();
                frame.extend(piece);
            }
        }
    }

    fn mutation() -> impl Strategy<Value = Mutation> {
        let at = || 0_usize..200;
        prop_oneof![
            (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
            (at(), any::<u8>()).prop_map(|(at, bit)| Mutation::FlipBit(at, bit)),
            at().prop_map(Mutation::Remove),
            (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
            at().prop_map(Mutation::Truncate),
            (at(), 1_usize..60).prop_map(|(from, count)| Mutation::Repeat(from, count)),
        ]
    }

    /// Nothing that a neighbour says reaches a terminal as a control character, and nothing is made up.
    fn check_neighbour(frame: &[u8]) {
        let Ok((_, neighbour)) = parse_frame(frame) else { return };
        let texts = [&neighbour.port_description, &neighbour.system_name, &neighbour.system_description];
        let ids = [&neighbour.chassis_id, &neighbour.port_id];
        for text in texts.into_iter().flatten().chain(ids) {
            assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
        }
        let others: usize = neighbour.others.iter().map(|tlv| tlv.value.len()).sum();
        assert!(others < frame.len(), "{others} bytes of a frame of {}", frame.len());
    }

    proptest! {
        #![proptest_config(Config {
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(802),
            failure_persistence: None,
            ..Config::with_cases(2000)
        })]

        #[test]
        fn random_tlvs_never_panic_and_leave_no_control_characters(
            tlvs in proptest::collection::vec((0u8..128, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
            tail in proptest::collection::vec(any::<u8>(), 0..5),
        ) {
            let tlvs: Vec<(u8, &[u8])> = tlvs.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
            let mut frame = frame_with(&tlvs);
            frame.extend(tail);
            check_neighbour(&frame);
        }

        #[test]
        fn frames_that_are_nearly_right_never_panic(mutations in proptest::collection::vec(mutation(), 1..8)) {
            let mut frame = usual_frame();
            for mutation in &mutations {
                mutate(&mut frame, mutation);
            }
            check_neighbour(&frame);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_tlvs(&bytes);
            let _ = parse_frame(&bytes);
        }
    }
}
