//! DHCPv4 messages (RFC 2131, 2132): a lenient reader for what clients send, a writer for what we answer.
//!
//! Both are ours and not a crate's, because a boot server needs what decoders for clients do not give: options split
//! over several instances joined (RFC 3396), options in the `file` and `sname` fields (option 52), options 82 and 97
//! echoed byte for byte, and the message type first among the options, where old PXE ROMs look for it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::api::mac::Mac;

/// Numbers of the options used here (RFC 2132, 3046, 4578, 3004).
pub mod option {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS_SERVERS: u8 = 6;
    pub const DOMAIN_NAME: u8 = 15;
    pub const NTP_SERVERS: u8 = 42;
    pub const VENDOR: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const MESSAGE: u8 = 56;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const USER_CLASS: u8 = 77;
    pub const RELAY_AGENT: u8 = 82;
    pub const CLIENT_ARCHITECTURE: u8 = 93;
    pub const MACHINE_UUID: u8 = 97;
    /// iPXE's own options, encapsulated.
    pub const IPXE: u8 = 175;
}

/// Hardware type of Ethernet (RFC 1700).
const ETHERNET: u8 = 1;
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const OPTIONS_START: usize = 240;
/// Old BOOTP clients drop anything shorter (RFC 1542 section 2.1).
const MIN_REPLY_LEN: usize = 300;

/// What a client sends; the other types are a server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestType {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

/// A client's message. Absent options are `None`; unknown ones are kept and ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: RequestType,
    pub xid: u32,
    /// The client cannot yet receive unicast.
    pub broadcast: bool,
    /// The address the client has and answers on; 0.0.0.0 when none.
    pub ciaddr: Ipv4Addr,
    /// The relay the message came through; 0.0.0.0 when none.
    pub giaddr: Ipv4Addr,
    pub mac: Mac,
    options: BTreeMap<u8, Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("{len} bytes are too few for a DHCP message")]
    TooShort { len: usize },
    #[error("operation {op} is not a request")]
    NotARequest { op: u8 },
    #[error("hardware type {htype} with addresses of {hlen} bytes is not Ethernet")]
    NotEthernet { htype: u8, hlen: u8 },
    #[error("the DHCP magic cookie is missing")]
    NoCookie,
    #[error("option {code} is cut off")]
    OptionCutOff { code: u8 },
    #[error("no message type (option 53)")]
    NoMessageType,
    #[error("message type {0} is not one that clients send")]
    NotAClientsType(u8),
}

impl Request {
    pub fn parse(packet: &[u8]) -> Result<Self, ParseError> {
        let (Some(head), Some(cookie)) = (packet.get(..FILE.end), packet.get(FILE.end..OPTIONS_START)) else {
            return Err(ParseError::TooShort { len: packet.len() });
        };
        let [op, htype, hlen, ..] = *head else { return Err(ParseError::TooShort { len: packet.len() }) };
        if op != BOOT_REQUEST {
            return Err(ParseError::NotARequest { op });
        }
        if (htype, hlen) != (ETHERNET, 6) {
            return Err(ParseError::NotEthernet { htype, hlen });
        }
        if cookie != COOKIE {
            return Err(ParseError::NoCookie);
        }
        let options = parse_all_options(packet)?;
        Ok(Self {
            kind: request_type(&options)?,
            xid: u32::from_be_bytes(field(head, 4)),
            broadcast: field::<1>(head, 10)[0] & 0x80 != 0,
            ciaddr: field::<4>(head, 12).into(),
            giaddr: field::<4>(head, 24).into(),
            mac: Mac(field(head, 28)),
            options,
        })
    }

    /// The bytes of an option, all its instances joined.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(&code).map(Vec::as_slice)
    }

    /// An option that is one IPv4 address.
    pub fn address_option(&self, code: u8) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = self.option(code)?.try_into().ok()?;
        Some(bytes.into())
    }
}

/// `N` bytes of the fixed header, which is long enough for every field asked for here.
fn field<const N: usize>(head: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(found) = head.get(at..at + N) {
        bytes.copy_from_slice(found);
    }
    bytes
}

fn request_type(options: &BTreeMap<u8, Vec<u8>>) -> Result<RequestType, ParseError> {
    match options.get(&option::MESSAGE_TYPE).map(Vec::as_slice) {
        Some([1]) => Ok(RequestType::Discover),
        Some([3]) => Ok(RequestType::Request),
        Some([4]) => Ok(RequestType::Decline),
        Some([7]) => Ok(RequestType::Release),
        Some([8]) => Ok(RequestType::Inform),
        Some([other, ..]) => Err(ParseError::NotAClientsType(*other)),
        Some([]) | None => Err(ParseError::NoMessageType),
    }
}

/// The options field, then `file` and `sname` when option 52 says that they hold options, in that order (RFC 2131
/// section 4.1).
fn parse_all_options(packet: &[u8]) -> Result<BTreeMap<u8, Vec<u8>>, ParseError> {
    let mut options = BTreeMap::new();
    parse_options(packet.get(OPTIONS_START..).unwrap_or_default(), &mut options)?;
    let overload = options.get(&option::OVERLOAD).and_then(|value: &Vec<u8>| value.first().copied()).unwrap_or(0);
    if overload & 1 != 0 {
        parse_options(packet.get(FILE).unwrap_or_default(), &mut options)?;
    }
    if overload & 2 != 0 {
        parse_options(packet.get(SNAME).unwrap_or_default(), &mut options)?;
    }
    Ok(options)
}

fn parse_options(mut rest: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) -> Result<(), ParseError> {
    const PAD: u8 = 0;
    const END: u8 = 255;
    while let Some((&code, after)) = rest.split_first() {
        rest = after;
        match code {
            PAD => continue,
            END => break,
            _ => {}
        }
        let cut_off = || ParseError::OptionCutOff { code };
        let (&len, after) = rest.split_first().ok_or_else(cut_off)?;
        let (value, after) = after.split_at_checked(usize::from(len)).ok_or_else(cut_off)?;
        options.entry(code).or_default().extend_from_slice(value);
        rest = after;
    }
    Ok(())
}

/// What a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyType {
    Offer,
    Ack,
    Nak,
}

/// An answer and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub kind: ReplyType,
    pub to: SocketAddrV4,
    pub xid: u32,
    pub broadcast: bool,
    pub ciaddr: Ipv4Addr,
    /// The client's new address; 0.0.0.0 when this answer gives none.
    pub yiaddr: Ipv4Addr,
    /// The next server, from which the boot file comes.
    pub siaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    pub mac: Mac,
    /// At most 63 bytes.
    pub server_name: String,
    /// At most 127 bytes.
    pub boot_file: String,
    /// In the order of the wire; the message type comes before them by itself.
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Reply {
    /// The message as bytes. Texts and options too long for their field are cut, which none of ours are.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&[BOOT_REPLY, ETHERNET, 6, 0]);
        out.extend_from_slice(&self.xid.to_be_bytes());
        out.extend_from_slice(&[0, 0, if self.broadcast { 0x80 } else { 0 }, 0]);
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            out.extend_from_slice(&address.octets());
        }
        out.extend_from_slice(&self.mac.0);
        out.resize(SNAME.start, 0);
        put_text(&mut out, &self.server_name, SNAME);
        put_text(&mut out, &self.boot_file, FILE);
        out.extend_from_slice(&COOKIE);
        let kind = match self.kind {
            ReplyType::Offer => 2,
            ReplyType::Ack => 5,
            ReplyType::Nak => 6,
        };
        put_option(&mut out, option::MESSAGE_TYPE, &[kind]);
        for (code, value) in &self.options {
            put_option(&mut out, *code, value);
        }
        out.push(255);
        if out.len() < MIN_REPLY_LEN {
            out.resize(MIN_REPLY_LEN, 0);
        }
        out
    }
}

/// Leaves at least one zero byte at the field's end.
fn put_text(out: &mut Vec<u8>, text: &str, field: std::ops::Range<usize>) {
    out.extend(text.bytes().take(field.len() - 1));
    out.resize(field.end, 0);
}

fn put_option(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    let value = value.get(..255).unwrap_or(value);
    out.push(code);
    out.push(value.len() as u8);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::{Decodable, Encodable, v4};
    use proptest::prelude::*;

    fn discover() -> v4::Message {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut message = v4::Message::new_with_id(7, [0; 4].into(), [0; 4].into(), [0; 4].into(), [0; 4].into(), &mac);
        message.opts_mut().insert(v4::DhcpOption::MessageType(v4::MessageType::Discover));
        message
    }

    #[test]
    fn reads_what_another_implementation_writes() {
        let mut message = discover();
        message.set_flags(v4::Flags::default().set_broadcast());
        message.set_giaddr([10, 0, 0, 9]);
        message.opts_mut().insert(v4::DhcpOption::RequestedIpAddress([10, 0, 0, 5].into()));
        let request = Request::parse(&message.to_vec().unwrap()).unwrap();
        assert_eq!(request.kind, RequestType::Discover);
        assert_eq!((request.xid, request.broadcast, request.giaddr), (7, true, [10, 0, 0, 9].into()));
        assert_eq!(request.mac.to_string(), "02:00:00:00:00:01");
        assert_eq!(request.address_option(option::REQUESTED_ADDRESS), Some([10, 0, 0, 5].into()));
        assert_eq!(request.option(option::USER_CLASS), None);
    }

    #[test]
    fn joins_split_options_and_reads_overloaded_fields() {
        let mut packet = discover().to_vec().unwrap();
        packet.truncate(OPTIONS_START);
        packet.extend_from_slice(&[53, 1, 1, 0, 0, 60, 3, b'P', b'X', b'E', 52, 1, 1, 60, 2, b'C', b'l', 255]);
        packet[FILE][..6].copy_from_slice(&[77, 4, b'i', b'P', b'X', b'E']);
        packet[FILE][6] = 255;
        let request = Request::parse(&packet).unwrap();
        assert_eq!(request.option(option::VENDOR_CLASS), Some(b"PXECl".as_slice()));
        assert_eq!(request.option(option::USER_CLASS), Some(b"iPXE".as_slice()));
    }

    #[test]
    fn says_what_is_wrong_with_a_packet() {
        let good = discover().to_vec().unwrap();
        let changed = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            Request::parse(&packet).unwrap_err()
        };
        assert_eq!(Request::parse(&good[..100]), Err(ParseError::TooShort { len: 100 }));
        assert_eq!(changed(0, 2), ParseError::NotARequest { op: 2 });
        assert_eq!(changed(1, 32), ParseError::NotEthernet { htype: 32, hlen: 6 });
        assert_eq!(changed(236, 0), ParseError::NoCookie);
        assert_eq!(changed(OPTIONS_START + 1, 200), ParseError::OptionCutOff { code: 53 });
        assert_eq!(changed(OPTIONS_START + 2, 2), ParseError::NotAClientsType(2));
        assert_eq!(changed(OPTIONS_START, 255), ParseError::NoMessageType);
    }

    #[test]
    fn another_implementation_reads_what_we_write() {
        let reply = Reply {
            kind: ReplyType::Offer,
            to: SocketAddrV4::new(Ipv4Addr::BROADCAST, 68),
            xid: 9,
            broadcast: true,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: [10, 0, 0, 5].into(),
            siaddr: [10, 0, 0, 1].into(),
            giaddr: Ipv4Addr::UNSPECIFIED,
            mac: "02:00:00:00:00:01".parse().unwrap(),
            server_name: "10.0.0.1".into(),
            boot_file: "x".repeat(200),
            options: vec![(option::SERVER_ID, vec![10, 0, 0, 1])],
        };
        let bytes = reply.encode();
        assert!(bytes.len() >= 300);
        let message = v4::Message::from_bytes(&bytes).unwrap();
        assert_eq!(message.opcode(), v4::Opcode::BootReply);
        assert_eq!((message.xid(), message.flags().broadcast()), (9, true));
        assert_eq!((message.yiaddr(), message.siaddr()), ([10, 0, 0, 5].into(), [10, 0, 0, 1].into()));
        assert_eq!(message.sname_str().unwrap().unwrap().trim_end_matches('\0'), "10.0.0.1");
        assert_eq!(message.fname_str().unwrap().unwrap().trim_end_matches('\0').len(), 127);
        assert_eq!(message.opts().msg_type(), Some(v4::MessageType::Offer));
        assert_eq!(
            message.opts().get(v4::OptionCode::ServerIdentifier),
            Some(&v4::DhcpOption::ServerIdentifier([10, 0, 0, 1].into()))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn any_options_are_read_or_refused(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut packet = discover().to_vec().unwrap();
            packet.truncate(OPTIONS_START);
            packet.extend_from_slice(&[53, 1, 1, 52, 1, 3]);
            packet.extend_from_slice(&tail);
            if let Ok(request) = Request::parse(&packet) {
                prop_assert_eq!(request.mac, Mac([2, 0, 0, 0, 0, 1]));
            }
        }
    }
}
