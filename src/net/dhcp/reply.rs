//! What a DHCP server sent, as values.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use thiserror::Error;

use super::domains::{parse_domain, parse_search_list};
use super::options::RawOptions;
use crate::api::mac::Mac;
use crate::net::links::Route;

/// Bytes before the magic cookie (RFC 2131, figure 1).
const FIXED_BYTES: usize = 236;
const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
const BOOTREPLY: u8 = 2;
const HARDWARE_ETHERNET: u8 = 1;

/// Option 53 of a server's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    Offer,
    Ack,
    Nak,
}

/// A server's message. An option that is absent or unreadable is `None` or empty; `faults` says what was unreadable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub kind: ReplyKind,
    pub transaction: u32,
    pub client: Mac,
    /// The address offered; `None` in a NAK and in what a boot server (ProxyDHCP) sends.
    pub your_address: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 1.
    pub netmask: Option<Ipv4Addr>,
    /// Option 3, best first.
    pub routers: Vec<Ipv4Addr>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: Option<String>,
    /// Option 26.
    pub mtu_bytes: Option<u16>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// Option 51, seconds; all ones means for ever.
    pub lease_s: Option<u32>,
    /// Option 58, seconds.
    pub renew_s: Option<u32>,
    /// Option 59, seconds.
    pub rebind_s: Option<u32>,
    /// Option 119.
    pub search: Vec<String>,
    /// Option 121; replaces `routers` when present (RFC 3442).
    pub classless_routes: Option<Vec<Route>>,
    /// Option 56, the server's own words.
    pub message: Option<String>,
    pub faults: Vec<String>,
}

/// Why bytes are no answer to a DHCP client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplyError {
    #[error("has {found} bytes, a DHCP message at least 240")]
    TooShort { found: usize },
    #[error("has operation {found}, a server's message 2")]
    NotAReply { found: u8 },
    #[error("is for hardware type {kind} with addresses of {len} bytes, not for Ethernet")]
    NotEthernet { kind: u8, len: u8 },
    #[error("has no DHCP cookie")]
    NoCookie,
    #[error("has no message type (option 53)")]
    NoType,
    #[error("has message type {found}, which no server sends")]
    WrongType { found: u8 },
}

/// Reads the UDP payload of a server's message. Pure; takes any bytes.
pub fn parse_reply(bytes: &[u8]) -> Result<Reply, ReplyError> {
    let too_short = ReplyError::TooShort { found: bytes.len() };
    let (fixed, rest) = bytes.split_first_chunk::<FIXED_BYTES>().ok_or(too_short)?;
    let (cookie, options) = rest.split_first_chunk::<4>().ok_or(too_short)?;
    if fixed[0] != BOOTREPLY {
        return Err(ReplyError::NotAReply { found: fixed[0] });
    }
    if (fixed[1], fixed[2]) != (HARDWARE_ETHERNET, 6) {
        return Err(ReplyError::NotEthernet { kind: fixed[1], len: fixed[2] });
    }
    if *cookie != MAGIC_COOKIE {
        return Err(ReplyError::NoCookie);
    }
    let mut raw = RawOptions::scan(options, &fixed[108..236], &fixed[44..108]);
    let kind = match raw.byte(53).ok_or(ReplyError::NoType)? {
        2 => ReplyKind::Offer,
        5 => ReplyKind::Ack,
        6 => ReplyKind::Nak,
        found => return Err(ReplyError::WrongType { found }),
    };
    let your_address = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    let mut reply = Reply {
        kind,
        transaction: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        client: Mac([fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33]]),
        your_address: (!your_address.is_unspecified()).then_some(your_address),
        server: raw.address(54),
        netmask: raw.address(1),
        routers: raw.hosts(3),
        dns: raw.hosts(6),
        domain: parse_domain_option(&mut raw),
        mtu_bytes: raw.u16(26),
        ntp: raw.hosts(42),
        lease_s: raw.u32(51),
        renew_s: raw.u32(58),
        rebind_s: raw.u32(59),
        search: parse_search_option(&mut raw),
        classless_routes: parse_routes_option(&mut raw),
        message: raw.bytes(56).map(text_for_people).filter(|text| !text.is_empty()),
        faults: Vec::new(),
    };
    reply.faults = raw.into_faults();
    Ok(reply)
}

fn parse_domain_option(raw: &mut RawOptions) -> Option<String> {
    // Some servers count a zero byte at the end.
    let text = String::from_utf8_lossy(raw.bytes(15)?).trim_end_matches('\0').to_owned();
    let domain = parse_domain(&text);
    if domain.is_none() {
        raw.fault(format!("option 15 is {text:?}, which is no domain name"));
    }
    domain
}

fn parse_search_option(raw: &mut RawOptions) -> Vec<String> {
    let Some(bytes) = raw.bytes(119) else { return Vec::new() };
    let (names, fault) = parse_search_list(bytes);
    if let Some(fault) = fault {
        raw.fault(fault);
    }
    names
}

fn parse_routes_option(raw: &mut RawOptions) -> Option<Vec<Route>> {
    let bytes = raw.bytes(121)?;
    let routes = parse_classless_routes(bytes);
    if routes.is_none() {
        // Half a routing table is worse than the plain router of option 3.
        raw.fault("option 121 is no list of routes".to_owned());
    }
    routes
}

/// RFC 3442: prefix length, as many octets of the network as that needs, router. Router 0.0.0.0 means on the link.
fn parse_classless_routes(mut bytes: &[u8]) -> Option<Vec<Route>> {
    let mut routes = Vec::new();
    while let Some((&prefix, rest)) = bytes.split_first() {
        let (network, rest) = rest.split_at_checked(usize::from(prefix).div_ceil(8))?;
        let (router, rest) = rest.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets.get_mut(..network.len())?.copy_from_slice(network);
        let router = Ipv4Addr::from(*router);
        routes.push(Route {
            destination: Ipv4Net::new(octets.into(), prefix).ok()?.trunc().into(),
            gateway: (!router.is_unspecified()).then_some(router.into()),
        });
        bytes = rest;
    }
    Some(routes)
}

/// Text of a server, safe to show on a console.
fn text_for_people(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

    use super::*;

    /// The fixed part of an ACK for 10.1.0.77, then the options given.
    fn ack(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES];
        bytes[..8].copy_from_slice(&[2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        bytes[16..20].copy_from_slice(&[10, 1, 0, 77]);
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        bytes.extend(MAGIC_COOKIE);
        bytes.extend([53, 1, 5]);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn classless_routes_of_all_lengths_are_read() {
        let bytes =
            [0, 10, 1, 0, 1, 32, 10, 2, 3, 4, 10, 1, 0, 2, 12, 172, 16, 0, 0, 0, 0, 17, 10, 9, 128, 10, 1, 0, 3];
        let shown: Vec<String> = parse_classless_routes(&bytes).unwrap().iter().map(Route::to_string).collect();
        assert_eq!(
            shown,
            [
                "0.0.0.0/0 via 10.1.0.1",
                "10.2.3.4/32 via 10.1.0.2",
                "172.16.0.0/12 on the link",
                "10.9.128.0/17 via 10.1.0.3"
            ]
        );
    }

    #[test]
    fn a_broken_list_of_routes_is_not_half_used() {
        for bytes in [&[33, 1, 2, 3, 4, 5, 10, 0, 0, 1][..], &[24, 10, 1], &[24, 10, 1, 0, 10, 0, 0], &[255]] {
            let mut options = vec![121, bytes.len() as u8];
            options.extend(bytes);
            let reply = parse_reply(&ack(&options)).unwrap();
            assert_eq!(
                (reply.classless_routes, reply.faults),
                (None, vec!["option 121 is no list of routes".to_owned()])
            );
        }
    }

    #[test]
    fn a_domain_with_a_zero_byte_is_read_and_one_with_a_line_break_is_not() {
        assert_eq!(parse_reply(&ack(b"\x0f\x04lab\0")).unwrap().domain.as_deref(), Some("lab"));
        let reply = parse_reply(&ack(b"\x0f\x07lab\nx y")).unwrap();
        assert_eq!(reply.domain, None);
        assert_eq!(reply.faults, ["option 15 is \"lab\\nx y\", which is no domain name"]);
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        assert_eq!(parse_reply(&[2; 239]), Err(ReplyError::TooShort { found: 239 }));
        let mut question = ack(&[]);
        question[0] = 1;
        assert_eq!(parse_reply(&question), Err(ReplyError::NotAReply { found: 1 }));
        let mut infiniband = ack(&[]);
        infiniband[1] = 32;
        infiniband[2] = 0;
        assert_eq!(parse_reply(&infiniband), Err(ReplyError::NotEthernet { kind: 32, len: 0 }));
        let mut bootp = ack(&[]);
        bootp[236] = 0;
        assert_eq!(parse_reply(&bootp), Err(ReplyError::NoCookie));
        let mut untyped = ack(&[]);
        untyped.truncate(240);
        assert_eq!(parse_reply(&untyped), Err(ReplyError::NoType));
        let mut discover = ack(&[]);
        discover[242] = 1;
        assert_eq!(parse_reply(&discover), Err(ReplyError::WrongType { found: 1 }));
    }

    fn runner_config() -> Config {
        Config {
            rng_algorithm: RngAlgorithm::ChaCha,
            rng_seed: RngSeed::Fixed(3396),
            failure_persistence: None,
            ..Config::with_cases(2000)
        }
    }

    proptest! {
        #![proptest_config(runner_config())]

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse_reply(&bytes);
        }

        #[test]
        fn random_options_behind_a_right_header_always_give_a_reply(
            options in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let reply = parse_reply(&ack(&options));
            // A second option 53 joins the first, whose value stays in front.
            prop_assert_eq!(reply.map(|reply| reply.kind), Ok(ReplyKind::Ack));
        }

        #[test]
        fn random_values_of_known_options_never_panic(
            code in prop::sample::select(vec![1u8, 3, 6, 15, 26, 42, 51, 54, 56, 58, 59, 119, 121]),
            value in proptest::collection::vec(any::<u8>(), 0..255),
        ) {
            let mut options = vec![code, value.len() as u8];
            options.extend(value);
            prop_assert!(parse_reply(&ack(&options)).is_ok());
        }
    }
}
