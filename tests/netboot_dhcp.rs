//! DHCP conversations as firmware, iPXE and Linux hold them, packet by packet, without a network.
//!
//! The clients' packets are built, and our answers read, by another implementation (dhcproto).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::{self, Architecture, DhcpOption, MessageType, OptionCode, UnknownOption};
use dhcproto::{Decodable, Encodable};
use drophammer::anvil::netboot::dhcp_answer::{Me, Network, answer, answer_as_proxy, answer_binl};
use drophammer::anvil::netboot::dhcp_message::{Reply, Request};
use drophammer::anvil::netboot::leases::{AddressRange, LeasePool};
use drophammer::anvil::netboot::pxe::machine_uuid;

const ME: Me = Me { address: Ipv4Addr::new(10, 1, 0, 5), http_port: 4242 };
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// `00112233-4455-6677-8899-aabbccddeeff` as SMBIOS and option 97 have it.
const UUID: [u8; 17] =
    [0, 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

fn network() -> Network {
    Network {
        subnet: "10.1.0.0/24".parse().unwrap(),
        router: None,
        dns_servers: vec![[10, 1, 0, 5].into()],
        ntp_servers: vec![[10, 1, 0, 5].into(), [10, 1, 0, 6].into()],
        domain: Some("lab.test".into()),
        lease_seconds: 600,
    }
}

fn pool() -> LeasePool {
    LeasePool::new(AddressRange::new([10, 1, 0, 100].into(), [10, 1, 0, 101].into()).unwrap(), vec![], BTreeMap::new())
}

/// A client's packet, changed step by step.
struct Packet(v4::Message);

impl Packet {
    fn new(mac: [u8; 6], kind: MessageType) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = v4::Message::new_with_id(0x1234_5678, none, none, none, none, &mac);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        Self(message)
    }

    fn with(mut self, option: DhcpOption) -> Self {
        self.0.opts_mut().insert(option);
        self
    }

    fn raw(self, code: OptionCode, bytes: &[u8]) -> Self {
        let option = DhcpOption::Unknown(UnknownOption::new(code, bytes.to_vec()));
        self.with(option)
    }

    fn message(mut self, change: impl FnOnce(&mut v4::Message)) -> Self {
        change(&mut self.0);
        self
    }

    /// What PXE firmware of an architecture adds.
    fn pxe(self, arch: u16, class: &str) -> Self {
        self.with(DhcpOption::ClientSystemArchitecture(Architecture(arch)))
            .with(DhcpOption::ClassIdentifier(class.as_bytes().to_vec()))
            .with(DhcpOption::ClientMachineIdentifier(UUID.to_vec()))
    }

    fn request(&self) -> Request {
        Request::parse(&self.0.to_vec().unwrap()).unwrap()
    }
}

fn discover() -> Packet {
    Packet::new(MAC, MessageType::Discover)
}

fn take(address: [u8; 4]) -> Packet {
    Packet::new(MAC, MessageType::Request)
        .with(DhcpOption::ServerIdentifier(ME.address))
        .with(DhcpOption::RequestedIpAddress(address.into()))
}

fn decode(reply: &Reply) -> v4::Message {
    v4::Message::from_bytes(&reply.encode()).unwrap()
}

fn bytes(message: &v4::Message, code: OptionCode) -> Option<Vec<u8>> {
    // The option's own encoding, after code and length.
    message.opts().get(code).map(|option| option.to_vec().unwrap()[2..].to_vec())
}

fn file(message: &v4::Message) -> String {
    String::from_utf8(message.fname().unwrap_or_default().to_vec()).unwrap().trim_end_matches('\0').to_owned()
}

fn serve(packet: &Packet, pool: &mut LeasePool) -> Option<Reply> {
    answer(&packet.request(), ME, &network(), pool, 1_000)
}

#[test]
fn a_plain_linux_client_gets_address_and_network_and_nothing_to_boot() {
    let mut pool = pool();
    let offer = serve(&discover(), &mut pool).unwrap();
    assert_eq!(offer.to.to_string(), "255.255.255.255:68");
    let offer = decode(&offer);
    assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
    assert_eq!((offer.yiaddr(), offer.siaddr()), ([10, 1, 0, 100].into(), Ipv4Addr::UNSPECIFIED));
    assert_eq!(bytes(&offer, OptionCode::SubnetMask), Some(vec![255, 255, 255, 0]));
    assert_eq!(bytes(&offer, OptionCode::Router), None);
    assert_eq!(bytes(&offer, OptionCode::DomainNameServer), Some(vec![10, 1, 0, 5]));
    assert_eq!(bytes(&offer, OptionCode::NtpServers), Some(vec![10, 1, 0, 5, 10, 1, 0, 6]));
    assert_eq!(bytes(&offer, OptionCode::DomainName), Some(b"lab.test".to_vec()));
    assert_eq!(bytes(&offer, OptionCode::AddressLeaseTime), Some(600u32.to_be_bytes().to_vec()));
    assert_eq!(bytes(&offer, OptionCode::Renewal), Some(300u32.to_be_bytes().to_vec()));
    assert_eq!(bytes(&offer, OptionCode::Rebinding), Some(525u32.to_be_bytes().to_vec()));
    assert_eq!(bytes(&offer, OptionCode::ClassIdentifier), None);
    assert_eq!(file(&offer), "");
    assert!(pool.leases().is_empty(), "an offer is no lease");
    let ack = decode(&serve(&take([10, 1, 0, 100]), &mut pool).unwrap());
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(ack.yiaddr(), Ipv4Addr::new(10, 1, 0, 100));
    assert_eq!(pool.leases()[&ack.yiaddr()].ends, 1_600);
}

#[test]
fn bios_firmware_is_told_to_load_undionly_by_tftp_at_once() {
    let packet = discover().pxe(0, "PXEClient:Arch:00000:UNDI:002001");
    let offer = decode(&serve(&packet, &mut pool()).unwrap());
    assert_eq!(offer.siaddr(), ME.address);
    assert_eq!(file(&offer), "02:00:00:00:00:01/0");
    assert_eq!(bytes(&offer, OptionCode::ClassIdentifier), Some(b"PXEClient".to_vec()));
    assert_eq!(bytes(&offer, OptionCode::VendorExtensions), Some(vec![6, 1, 8, 255]));
    assert_eq!(bytes(&offer, OptionCode::ClientMachineIdentifier), Some(UUID.to_vec()), "echoed unchanged");
}

#[test]
fn uefi_firmware_loads_its_own_ipxe() {
    for (arch, path) in [(6, "/1"), (7, "/2"), (9, "/3")] {
        let packet = discover().pxe(arch, "PXEClient:Arch:00007:UNDI:003016");
        let offer = decode(&serve(&packet, &mut pool()).unwrap());
        assert_eq!(file(&offer), format!("02:00:00:00:00:01{path}"));
        assert_eq!(bytes(&offer, OptionCode::ClassIdentifier), None, "or it would ask on port 4011");
    }
}

#[test]
fn http_boot_gets_a_url_and_its_vendor_class_back() {
    let packet = discover().pxe(16, "HTTPClient:Arch:00016:UNDI:003001");
    for reply in [serve(&packet, &mut pool()), answer_as_proxy(&packet.request(), ME)] {
        let offer = decode(&reply.unwrap());
        assert_eq!(file(&offer), "http://10.1.0.5:4242/_/loader/ipxe.efi");
        assert_eq!(bytes(&offer, OptionCode::ClassIdentifier), Some(b"HTTPClient".to_vec()));
    }
}

#[test]
fn an_ipxe_gets_the_script_whichever_way_it_names_itself() {
    for class in [b"iPXE".as_slice(), b"\x04iPXE", b"pixiecore", b"\x09pixiecore"] {
        for (arch, number) in [(0, 0), (7, 1)] {
            let packet = discover().pxe(arch, "PXEClient:Arch:00000:UNDI:002001").raw(OptionCode::UserClass, class);
            let url = format!("http://10.1.0.5:4242/_/ipxe?arch={number}&mac=02:00:00:00:00:01");
            assert_eq!(serve(&packet, &mut pool()).unwrap().boot_file, url);
            let proxied = decode(&answer_as_proxy(&packet.request(), ME).unwrap());
            assert_eq!((file(&proxied), proxied.yiaddr()), (url, Ipv4Addr::UNSPECIFIED));
        }
    }
}

#[test]
fn beside_another_server_only_booting_clients_are_answered_and_get_no_address() {
    assert_eq!(answer_as_proxy(&discover().request(), ME), None);
    assert_eq!(answer_as_proxy(&take([10, 1, 0, 100]).pxe(0, "PXEClient").request(), ME), None);
    assert_eq!(
        answer_as_proxy(&discover().pxe(11, "PXEClient").request(), ME),
        None,
        "no loader for that architecture"
    );
    let relayed = discover().pxe(7, "PXEClient").message(|message| {
        message.set_giaddr([10, 9, 0, 1]);
    });
    let reply = answer_as_proxy(&relayed.request(), ME).unwrap();
    assert_eq!(reply.to.to_string(), "10.9.0.1:67");
    let offer = decode(&reply);
    assert!(offer.flags().broadcast());
    assert_eq!((offer.yiaddr(), offer.giaddr()), (Ipv4Addr::UNSPECIFIED, [10, 9, 0, 1].into()));
    assert_eq!(bytes(&offer, OptionCode::ClassIdentifier), Some(b"PXEClient".to_vec()));
    assert_eq!(bytes(&offer, OptionCode::VendorExtensions), None);
    assert_eq!(bytes(&offer, OptionCode::AddressLeaseTime), None);
}

#[test]
fn port_4011_acknowledges_to_the_sender() {
    let from = "10.1.0.100:4011".parse().unwrap();
    for (arch, path) in [(0, "/4"), (7, "/2")] {
        let packet = Packet::new(MAC, MessageType::Request).pxe(arch, "PXEClient").message(|message| {
            message.set_ciaddr([10, 1, 0, 100]);
        });
        let reply = answer_binl(&packet.request(), ME, from).unwrap();
        assert_eq!(reply.to, from);
        let ack = decode(&reply);
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        assert_eq!((file(&ack), ack.ciaddr()), (format!("02:00:00:00:00:01{path}"), [10, 1, 0, 100].into()));
        assert_eq!(bytes(&ack, OptionCode::ClientMachineIdentifier), Some(UUID.to_vec()));
    }
    let http = Packet::new(MAC, MessageType::Request).pxe(16, "HTTPClient");
    assert_eq!(answer_binl(&http.request(), ME, from), None);
}

#[test]
fn the_machine_id_is_what_linux_reads_from_dmi() {
    let uuid = |packet: Packet| machine_uuid(&packet.request());
    assert_eq!(uuid(discover().pxe(0, "PXEClient")).as_deref(), Some("00112233-4455-6677-8899-aabbccddeeff"));
    assert_eq!(uuid(discover()), None);
    assert_eq!(uuid(discover().with(DhcpOption::ClientMachineIdentifier(vec![0; 17]))), None);
    // What boards of many makers send: 03000200-0400-0500-0006-000700080009.
    let shared = [0, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9];
    assert_eq!(uuid(discover().with(DhcpOption::ClientMachineIdentifier(shared.to_vec()))), None);
    assert_eq!(uuid(discover().with(DhcpOption::ClientMachineIdentifier(UUID[..16].to_vec()))), None);
}

#[test]
fn firmware_ipxe_and_agent_of_one_machine_get_one_address() {
    let mut pool = pool();
    let ids: [&[u8]; 3] = [&[0, 1, 2, 3], &[1, 2, 0, 0, 0, 0, 1], &[255, 9, 9, 9, 9]];
    for id in ids {
        let with_id = |packet: Packet| packet.with(DhcpOption::ClientIdentifier(id.to_vec()));
        let offer = serve(&with_id(discover()), &mut pool).unwrap();
        assert_eq!(offer.yiaddr, Ipv4Addr::new(10, 1, 0, 100));
        let ack = decode(&serve(&with_id(take([10, 1, 0, 100])), &mut pool).unwrap());
        assert_eq!(bytes(&ack, OptionCode::ClientIdentifier), Some(id.to_vec()));
    }
    assert_eq!(pool.leases().len(), 1);
}

#[test]
fn an_exhausted_pool_and_another_servers_client_get_no_answer() {
    let mut pool = pool();
    for n in 1..=2 {
        assert!(serve(&Packet::new([2, 0, 0, 0, 0, n], MessageType::Discover), &mut pool).is_some());
    }
    assert_eq!(serve(&Packet::new([2, 0, 0, 0, 0, 3], MessageType::Discover), &mut pool), None);
    let others = Packet::new([2, 0, 0, 0, 0, 2], MessageType::Request)
        .with(DhcpOption::ServerIdentifier([10, 1, 0, 99].into()))
        .with(DhcpOption::RequestedIpAddress([10, 1, 0, 101].into()));
    assert_eq!(serve(&others, &mut pool), None);
    assert!(
        serve(&Packet::new([2, 0, 0, 0, 0, 3], MessageType::Discover), &mut pool).is_some(),
        "its offer is free again"
    );
}

#[test]
fn a_wrong_address_is_refused_and_a_renewal_is_answered_by_unicast() {
    let mut pool = pool();
    let rebooted =
        |address: [u8; 4]| Packet::new(MAC, MessageType::Request).with(DhcpOption::RequestedIpAddress(address.into()));
    for elsewhere in [[192, 168, 1, 7], [10, 1, 0, 5], [10, 1, 0, 200]] {
        let refusal = serve(&rebooted(elsewhere), &mut pool).unwrap();
        assert_eq!(refusal.to.to_string(), "255.255.255.255:68");
        let refusal = decode(&refusal);
        assert_eq!(refusal.opts().msg_type(), Some(MessageType::Nak));
        assert_eq!(refusal.yiaddr(), Ipv4Addr::UNSPECIFIED);
    }
    // The lease file was lost: a free address is granted to the machine that comes back with it.
    assert_eq!(serve(&rebooted([10, 1, 0, 101]), &mut pool).unwrap().yiaddr, Ipv4Addr::new(10, 1, 0, 101));
    let renewal = Packet::new(MAC, MessageType::Request).message(|message| {
        message.set_ciaddr([10, 1, 0, 101]);
    });
    let ack = serve(&renewal, &mut pool).unwrap();
    assert_eq!(ack.to.to_string(), "10.1.0.101:68");
    let thief = Packet::new([2, 0, 0, 0, 0, 9], MessageType::Request)
        .with(DhcpOption::RequestedIpAddress([10, 1, 0, 101].into()));
    assert_eq!(decode(&serve(&thief, &mut pool).unwrap()).opts().msg_type(), Some(MessageType::Nak));
}

#[test]
fn inform_release_and_decline_do_what_they_say() {
    let mut pool = pool();
    let own = |kind| {
        Packet::new(MAC, kind).message(|message| {
            message.set_ciaddr([10, 1, 0, 100]);
        })
    };
    let inform = decode(&serve(&own(MessageType::Inform), &mut pool).unwrap());
    assert_eq!((inform.yiaddr(), bytes(&inform, OptionCode::AddressLeaseTime)), (Ipv4Addr::UNSPECIFIED, None));
    assert!(bytes(&inform, OptionCode::NtpServers).is_some() && pool.leases().is_empty());

    serve(&take([10, 1, 0, 100]), &mut pool).unwrap();
    assert_eq!(serve(&own(MessageType::Release), &mut pool), None);
    assert_eq!(pool.leases()[&Ipv4Addr::new(10, 1, 0, 100)].ends, 1_000);

    let decline = Packet::new(MAC, MessageType::Decline).with(DhcpOption::RequestedIpAddress([10, 1, 0, 100].into()));
    assert_eq!(serve(&decline, &mut pool), None);
    assert_eq!(serve(&discover(), &mut pool).unwrap().yiaddr, Ipv4Addr::new(10, 1, 0, 101));
}

#[test]
fn relays_are_answered_only_for_our_own_network() {
    let relayed = |relay: [u8; 4]| {
        let mut agent = v4::relay::RelayAgentInformation::default();
        agent.insert(v4::relay::RelayInfo::AgentCircuitId(vec![7, 7]));
        discover().with(DhcpOption::RelayAgentInformation(agent)).message(|message| {
            message.set_giaddr(relay);
        })
    };
    let offer = serve(&relayed([10, 1, 0, 1]), &mut pool()).unwrap();
    assert_eq!(offer.to.to_string(), "10.1.0.1:67");
    assert_eq!(offer.options.last(), Some(&(82, vec![1, 2, 7, 7])), "the relay's option comes back, last");
    assert_eq!(serve(&relayed([10, 2, 0, 1]), &mut pool()), None);
}
