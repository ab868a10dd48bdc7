//! What the client sends.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, OptionCode};
use dhcproto::{Encodable, Encoder};
use uuid::Uuid;

use super::rules::DhcpOptions;
use crate::api::mac::Mac;

/// Shortest message that old relays pass on (the size of BOOTP, RFC 1542 section 2.1).
const SHORTEST_MESSAGE_BYTES: usize = 300;
/// Option 57: what fits into one frame of 1500 bytes without the IP and UDP headers.
const LONGEST_MESSAGE_BYTES: u16 = 1472;

/// What the client asks for; 121 before 3, as RFC 3442 wants it.
const WANTED: [OptionCode; 13] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::DomainName,
    OptionCode::InterfaceMtu,
    OptionCode::NtpServers,
    OptionCode::AddressLeaseTime,
    OptionCode::ServerIdentifier,
    OptionCode::Message,
    OptionCode::Renewal,
    OptionCode::Rebinding,
    OptionCode::DomainSearch,
];

/// The question, by the client's state (RFC 2131, table 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Discover,
    /// Takes an offer.
    Select {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// Confirms an address that somebody else has got (INIT-REBOOT).
    Confirm {
        address: Ipv4Addr,
    },
    /// Renews or rebinds; sent from the address itself.
    Extend {
        address: Ipv4Addr,
    },
    /// Gives an address back that somebody else has.
    Decline {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
}

impl Question {
    fn kind(self) -> MessageType {
        match self {
            Self::Discover => MessageType::Discover,
            Self::Select { .. } | Self::Confirm { .. } | Self::Extend { .. } => MessageType::Request,
            Self::Decline { .. } => MessageType::Decline,
        }
    }
}

/// One message as UDP payload. `seconds` is how long the client has been trying.
pub(super) fn render(
    question: Question,
    mac: Mac,
    transaction: u32,
    seconds: u16,
    options: &DhcpOptions,
) -> Result<Vec<u8>> {
    let none = Ipv4Addr::UNSPECIFIED;
    let client_address = match question {
        Question::Extend { address } => address,
        Question::Discover | Question::Select { .. } | Question::Confirm { .. } | Question::Decline { .. } => none,
    };
    let mut message = Message::new_with_id(transaction, client_address, none, none, none, &mac.0);
    message.set_secs(seconds);
    if client_address.is_unspecified() {
        // Servers without raw sockets can't send to an address that does not answer ARP yet.
        message.set_flags(Flags::default().set_broadcast());
    }
    let set = message.opts_mut();
    set.insert(DhcpOption::MessageType(question.kind()));
    match question {
        Question::Select { address, server } | Question::Decline { address, server } => {
            set.insert(DhcpOption::RequestedIpAddress(address));
            set.insert(DhcpOption::ServerIdentifier(server));
        }
        Question::Confirm { address } => {
            set.insert(DhcpOption::RequestedIpAddress(address));
        }
        Question::Discover | Question::Extend { .. } => {}
    }
    // Nothing comes back to a DECLINE.
    if question.kind() != MessageType::Decline {
        set.insert(DhcpOption::ParameterRequestList(WANTED.to_vec()));
        set.insert(DhcpOption::MaxMessageSize(LONGEST_MESSAGE_BYTES));
    }
    if let Some(uuid) = options.uuid {
        set.insert(DhcpOption::ClientMachineIdentifier(machine_id(uuid)));
        set.insert(DhcpOption::ClientIdentifier(machine_id(uuid)));
    }
    let mut bytes = Vec::with_capacity(SHORTEST_MESSAGE_BYTES);
    message.encode(&mut Encoder::new(&mut bytes)).context("encoding a DHCP message")?;
    if bytes.len() < SHORTEST_MESSAGE_BYTES {
        bytes.resize(SHORTEST_MESSAGE_BYTES, 0);
    }
    Ok(bytes)
}

/// Type 0 and the UUID with its first three groups little-endian (RFC 4578).
fn machine_id(uuid: Uuid) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(uuid.to_bytes_le());
    bytes
}

#[cfg(test)]
mod tests {
    use dhcproto::{Decodable, Decoder};

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);

    fn sent(question: Question) -> Message {
        let uuid = Some("00112233-4455-6677-8899-aabbccddeeff".parse().unwrap());
        let options = DhcpOptions { uuid, ..DhcpOptions::default() };
        let bytes = render(question, MAC, 7, 3, &options).unwrap();
        assert!(bytes.len() >= 300);
        Message::decode(&mut Decoder::new(&bytes)).unwrap()
    }

    #[test]
    fn the_machine_is_named_by_its_uuid_as_firmware_does_it() {
        let message = sent(Question::Discover);
        let expected = [0, 0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        assert_eq!(
            message.opts().get(OptionCode::ClientMachineIdentifier),
            Some(&DhcpOption::ClientMachineIdentifier(expected.to_vec()))
        );
        assert_eq!(
            message.opts().get(OptionCode::ClientIdentifier),
            Some(&DhcpOption::ClientIdentifier(expected.to_vec()))
        );
    }

    #[test]
    fn boot_servers_see_no_pxe_client() {
        for question in [Question::Discover, Question::Select { address: ADDRESS, server: ADDRESS }] {
            let message = sent(question);
            assert!(!message.opts().contains(OptionCode::ClassIdentifier));
            assert!(!message.opts().contains(OptionCode::ClientSystemArchitecture));
        }
    }

    #[test]
    fn each_state_sends_the_fields_of_rfc_2131() {
        let shape = |question| {
            let message = sent(question);
            let opts = message.opts();
            (
                opts.msg_type(),
                message.ciaddr(),
                message.flags().broadcast(),
                opts.contains(OptionCode::RequestedIpAddress),
                opts.contains(OptionCode::ServerIdentifier),
            )
        };
        let none = Ipv4Addr::UNSPECIFIED;
        let request = Some(MessageType::Request);
        assert_eq!(shape(Question::Discover), (Some(MessageType::Discover), none, true, false, false));
        assert_eq!(shape(Question::Select { address: ADDRESS, server: ADDRESS }), (request, none, true, true, true));
        assert_eq!(shape(Question::Confirm { address: ADDRESS }), (request, none, true, true, false));
        assert_eq!(shape(Question::Extend { address: ADDRESS }), (request, ADDRESS, false, false, false));
        let decline = Some(MessageType::Decline);
        assert_eq!(shape(Question::Decline { address: ADDRESS, server: ADDRESS }), (decline, none, true, true, true));
    }

    #[test]
    fn without_a_uuid_the_mac_alone_names_the_machine() {
        let bytes = render(Question::Discover, MAC, 7, 0, &DhcpOptions::default()).unwrap();
        let message = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(message.chaddr(), MAC.0);
        assert!(!message.opts().contains(OptionCode::ClientIdentifier));
    }
}
