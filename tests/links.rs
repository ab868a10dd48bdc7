//! Which link and which server the network phase takes, and how it holds on to them: in network namespaces, with real
//! bonds and VLANs where the kernel has them (`scripts/uml` has one that does). Needs root.

mod booted_machine;
mod dhcp_rack;
mod namespace;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use booted_machine::{Machine, PATIENCE, wait_until};
use dhcp_rack::{ADDRESS, Policy, SERVER, Server, answer, is, lease, rack, steady};
use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use drophammer::net::Origin;
use drophammer::net::dhcp::{DhcpOptions, find_offer};
use drophammer::net::links::Netlink;
use namespace::Namespace;

const LONG: [u32; 3] = [1800, 3150, 3600];
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 78);
const ROGUE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 66);

/// Whether the kernel can make such links; if not, the test says that it tests nothing.
fn kernel_has(kind: &str) -> bool {
    let probe = Namespace::new("probe");
    let added = match kind {
        "vlan" => {
            probe.try_ip("link add cable0 type veth peer name cable1")
                && probe.try_ip("link add link cable0 name probe type vlan id 7")
        }
        kind => probe.try_ip(&format!("link add probe type {kind}")),
    };
    if !added {
        eprintln!("not tested: this kernel makes no links of kind {kind}");
    }
    added
}

/// REQUEST of an address that the machine believes to have, after its link was away.
fn asks_whether_it_holds(question: &Message) -> bool {
    is(question, MessageType::Request)
        && question.ciaddr().is_unspecified()
        && !question.opts().contains(OptionCode::ServerIdentifier)
}

fn from_server(mut message: Message, server: Ipv4Addr) -> Message {
    message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
    message
}

/// The first server's answers, and beside each offer one of the rogue, which comes first.
fn beside_a_rogue() -> Policy {
    Box::new(|question| match question.opts().msg_type() {
        Some(MessageType::Discover) => vec![
            from_server(lease(question, MessageType::Offer, SECOND, LONG), ROGUE),
            lease(question, MessageType::Offer, ADDRESS, LONG),
        ],
        Some(MessageType::Request) => {
            let rogue = question.opts().get(OptionCode::ServerIdentifier) == Some(&DhcpOption::ServerIdentifier(ROGUE));
            let (address, server) = if rogue { (SECOND, ROGUE) } else { (ADDRESS, SERVER) };
            vec![from_server(lease(question, MessageType::Ack, address, LONG), server)]
        }
        _ => vec![],
    })
}

#[test]
fn the_port_that_firmware_booted_from_wins_over_one_that_answers_as_well() {
    for cmdline in ["BOOTIF=01-02-00-00-00-00-0b", "ip=:::::02-00-00-00-00-0b:dhcp"] {
        let (rack, machine) = rack();
        machine.plug("eth0", &rack, "port0");
        machine.plug("eth1", &rack, "port1");
        machine.ip("link set eth1 address 02:00:00:00:00:0b");
        let other = Server::start(&rack, "port0", steady(SECOND, LONG));
        let _server = Server::start(&rack, "port1", steady(ADDRESS, LONG));
        let network = Machine::boot(&machine, cmdline, None).wait_for_network();
        assert_eq!((network.interface.as_str(), network.addresses[0].addr()), ("eth1", ADDRESS.into()), "{cmdline}");
        assert_eq!(other.heard().len(), 0, "{cmdline}: the other port is not even asked on");
    }
}

#[test]
fn a_port_that_firmware_booted_from_and_that_is_silent_now_does_not_hold_up_the_others_for_ever() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.plug("eth1", &rack, "port1");
    machine.ip("link set eth1 address 02:00:00:00:00:0b");
    let _server = Server::start(&rack, "port0", steady(ADDRESS, LONG));
    let network = Machine::boot(&machine, "BOOTIF=01-02-00-00-00-00-0b", None).wait_for_network();
    assert_eq!(network.interface, "eth0");
}

#[test]
fn an_excluded_server_does_not_win_although_it_is_first() {
    for cmdline in ["drophammer.dhcp_exclude=10.1.0.66", "drophammer.dhcp_server=10.1.0.1"] {
        let (rack, machine) = rack();
        machine.plug("eth0", &rack, "port0");
        let _server = Server::start(&rack, "port0", beside_a_rogue());
        let booted = Machine::boot(&machine, cmdline, None);
        let network = booted.wait_for_network();
        assert_eq!((network.addresses[0].addr(), network.dhcp_server), (ADDRESS.into(), Some(SERVER.into())));
        assert!(
            booted.said("DHCP server 10.1.0.66 on eth0: the offer of 10.1.0.78 is passed over: drophammer.dhcp_"),
            "{cmdline}"
        );
    }
}

#[test]
fn servers_that_came_second_are_named() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let _server = Server::start(&rack, "port0", beside_a_rogue());
    let booted = Machine::boot(&machine, "", None);
    assert_eq!(booted.wait_for_network().dhcp_server, Some(ROGUE.into()), "nobody said that it is one");
    assert!(booted.said("DHCP server 10.1.0.1 on eth0: the offer of 10.1.0.77 is passed over: 10.1.0.66 was first"));
}

/// An offer without a way out of its own network.
fn without_router(mut message: Message) -> Message {
    message.opts_mut().remove(OptionCode::Router);
    message
}

#[test]
fn an_offer_that_does_not_lead_to_the_configuration_waits_for_a_better_one() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.plug("eth1", &rack, "port1");
    let dead_end: Policy = Box::new(|question| match question.opts().msg_type() {
        Some(MessageType::Discover) => vec![without_router(lease(question, MessageType::Offer, SECOND, LONG))],
        _ => vec![],
    });
    let _dead_end = Server::start(&rack, "port0", dead_end);
    let mut asked = 0;
    let late: Policy = Box::new(move |question| {
        asked += u32::from(is(question, MessageType::Discover));
        match question.opts().msg_type() {
            Some(MessageType::Discover) if asked > 1 => vec![lease(question, MessageType::Offer, ADDRESS, LONG)],
            Some(MessageType::Request) => vec![lease(question, MessageType::Ack, ADDRESS, LONG)],
            _ => vec![],
        }
    });
    let _server = Server::start(&rack, "port1", late);
    let booted = Machine::boot(&machine, "drophammer.config=http://10.2.0.5/certs", None);
    assert_eq!(booted.wait_for_network().interface, "eth1");
    assert!(booted.said("the offer of 10.1.0.78 is passed over: no way to 10.2.0.5, where the configuration is"));
}

#[test]
fn an_offer_that_lacks_something_is_taken_when_nobody_offers_more() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let policy: Policy = Box::new(|question| match question.opts().msg_type() {
        Some(MessageType::Discover) => vec![without_router(lease(question, MessageType::Offer, ADDRESS, LONG))],
        Some(MessageType::Request) => vec![without_router(lease(question, MessageType::Ack, ADDRESS, LONG))],
        _ => vec![],
    });
    let _server = Server::start(&rack, "port0", policy);
    let booted = Machine::boot(&machine, "drophammer.config=http://10.2.0.5/certs", None);
    assert_eq!(booted.wait_for_network().addresses[0].addr(), ADDRESS);
    assert!(booted.said("nobody offers more than DHCP server 10.1.0.1 on eth0: no way to 10.2.0.5"));
}

#[test]
fn an_address_that_somebody_has_is_declined_and_another_one_taken() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    rack.ip(&format!("address add {ADDRESS}/32 dev port0"));
    let mut declined = false;
    let policy: Policy = Box::new(move |question| {
        declined |= is(question, MessageType::Decline);
        let address = if declined { SECOND } else { ADDRESS };
        match question.opts().msg_type() {
            Some(MessageType::Discover) => vec![lease(question, MessageType::Offer, address, LONG)],
            Some(MessageType::Request) => vec![lease(question, MessageType::Ack, address, LONG)],
            _ => vec![],
        }
    });
    let server = Server::start(&rack, "port0", policy);
    let booted = Machine::boot(&machine, "", None);
    assert_eq!(booted.wait_for_network().addresses[0].addr(), SECOND);
    assert!(booted.said("address 10.1.0.77/24 on eth0 is in use by "));
    let heard = server.heard();
    let decline = heard.iter().find(|question| is(question, MessageType::Decline)).expect("a DECLINE");
    let options = decline.opts();
    assert_eq!(options.get(OptionCode::RequestedIpAddress), Some(&DhcpOption::RequestedIpAddress(ADDRESS)));
    assert_eq!(options.get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(SERVER)));
    assert!(!machine.ip("-4 address show dev eth0").contains("10.1.0.77"));
}

#[test]
fn an_address_of_the_operators_that_somebody_has_is_waited_for() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    rack.ip(&format!("address add {ADDRESS}/24 dev port0"));
    let booted = Machine::boot(&machine, "ip=10.1.0.77::10.1.0.1:255.255.255.0::eth0:none", None);
    wait_until("the complaint", || booted.said("address 10.1.0.77/24 on eth0 is in use by "));
    assert!(!machine.ip("-4 address show dev eth0").contains("10.1.0.77"));
    rack.ip(&format!("address del {ADDRESS}/24 dev port0"));
    assert_eq!(booted.wait_for_network().origin, Origin::Static);
    assert!(machine.ip("-4 address show dev eth0").contains("10.1.0.77/24"));
}

#[test]
fn an_address_that_changes_at_renewal_is_followed() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let policy: Policy = Box::new(|question| {
        let address = if question.ciaddr().is_unspecified() { ADDRESS } else { SECOND };
        match question.opts().msg_type() {
            Some(MessageType::Discover) => vec![lease(question, MessageType::Offer, address, [1, 20, 30])],
            Some(MessageType::Request) => {
                let mut ack = lease(question, MessageType::Ack, address, [1, 20, 30]);
                ack.opts_mut().insert(DhcpOption::DomainNameServer(vec![address]));
                vec![ack]
            }
            _ => vec![],
        }
    });
    let _server = Server::start(&rack, "port0", policy);
    let booted = Machine::boot(&machine, "", None);
    assert_eq!(booted.wait_for_network().addresses[0].addr(), ADDRESS);
    wait_until("the other address", || booted.network().is_some_and(|network| network.addresses[0].addr() == SECOND));
    wait_until("the other name server", || booted.name_servers() == [SECOND]);
    let addresses = machine.ip("-4 address show dev eth0");
    assert!(addresses.contains("10.1.0.78/24") && !addresses.contains("10.1.0.77"), "{addresses}");
    assert!(machine.ip("-4 route show").contains("default via 10.1.0.1 dev eth0"));
}

#[test]
fn a_server_that_is_gone_is_replaced_by_any_other_in_time() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let successor = Ipv4Addr::new(10, 1, 0, 2);
    let policy: Policy = Box::new(move |question| match question.opts().msg_type() {
        Some(MessageType::Request) if !question.ciaddr().is_unspecified() => {
            vec![from_server(lease(question, MessageType::Ack, ADDRESS, LONG), successor)]
        }
        Some(MessageType::Discover) => vec![lease(question, MessageType::Offer, ADDRESS, [2, 5, 30])],
        Some(MessageType::Request) => vec![lease(question, MessageType::Ack, ADDRESS, [2, 5, 30])],
        _ => vec![],
    });
    let _server = Server::start(&rack, "port0", policy);
    let booted = Machine::boot(&machine, "", None);
    assert_eq!(booted.wait_for_network().dhcp_server, Some(SERVER.into()));
    // Who asks the old address gets no answer any more; who asks everybody reaches the other server.
    rack.ip(&format!("address add {successor}/24 dev port0"));
    rack.ip(&format!("address del {SERVER}/24 dev port0"));
    rack.ip(&format!("address replace {successor}/24 dev port0"));
    machine.ip("neigh flush dev eth0");
    wait_until("the other server", || {
        booted.network().is_some_and(|network| network.dhcp_server == Some(successor.into()))
    });
    assert!(machine.ip("-4 address show dev eth0").contains("10.1.0.77/24"));
}

/// Says back what it hears, on the rack's side, to one connection.
fn echo(rack: &Namespace) {
    let listener = rack.run(|| async { TcpListener::bind((SERVER, 7)).expect("echo port") }).join().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = [0; 16];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..len]).expect("an answer");
        }
    });
}

fn says_back(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("sending");
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).expect("an answer");
    assert_eq!(heard, text);
}

#[test]
fn a_link_that_is_away_for_a_while_keeps_address_and_connections() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let server = Server::start(&rack, "port0", steady(ADDRESS, LONG));
    let booted = Machine::boot(&machine, "", None);
    let before = booted.wait_for_network();
    echo(&rack);
    let connect = machine.run(|| async { TcpStream::connect((SERVER, 7)) });
    let mut stream = connect.join().unwrap().expect("a connection");
    says_back(&mut stream, b"before");

    rack.ip("link set port0 down");
    // Longer than it takes to look at other links: nothing tells that from outside.
    thread::sleep(Duration::from_secs(12));
    assert!(machine.ip("-4 address show dev eth0").contains("10.1.0.77/24"), "there is no other network to go to");
    assert!(!server.heard().iter().any(asks_whether_it_holds));
    rack.ip("link set port0 up");

    server.wait_for("the question whether the address still holds", asks_whether_it_holds);
    says_back(&mut stream, b"after");
    assert_eq!(booted.network(), Some(before));
}

#[test]
fn a_link_that_flaps_has_its_address_confirmed_and_loses_it_when_the_network_is_another() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let mut moved = false;
    let policy: Policy = Box::new(move |question| {
        moved |= asks_whether_it_holds(question);
        match question.opts().msg_type() {
            Some(MessageType::Request) if asks_whether_it_holds(question) => {
                vec![answer(question, MessageType::Nak, Ipv4Addr::UNSPECIFIED)]
            }
            Some(MessageType::Discover) => {
                vec![lease(question, MessageType::Offer, if moved { SECOND } else { ADDRESS }, LONG)]
            }
            Some(MessageType::Request) => {
                vec![lease(question, MessageType::Ack, if moved { SECOND } else { ADDRESS }, LONG)]
            }
            _ => vec![],
        }
    });
    let _server = Server::start(&rack, "port0", policy);
    let booted = Machine::boot(&machine, "", None);
    assert_eq!(booted.wait_for_network().addresses[0].addr(), ADDRESS);
    // The machine counts the carrier's changes from its first look on.
    thread::sleep(Duration::from_secs(1));
    rack.ip("link set port0 down");
    rack.ip("link set port0 up");
    wait_until("the other network", || booted.network().is_some_and(|network| network.addresses[0].addr() == SECOND));
    let addresses = machine.ip("-4 address show dev eth0");
    assert!(addresses.contains("10.1.0.78/24") && !addresses.contains("10.1.0.77"), "{addresses}");
}

#[test]
fn a_cable_moved_to_another_port_is_followed() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.plug("eth1", &rack, "port1");
    rack.ip("link set port1 down");
    let _server = Server::start(&rack, "port0", steady(ADDRESS, LONG));
    let booted = Machine::boot(&machine, "", None);
    assert_eq!(booted.wait_for_network().interface, "eth0");
    rack.ip("link set port0 down");
    rack.ip("link set port1 up");
    let _moved = Server::start(&rack, "port1", steady(ADDRESS, LONG));
    wait_until("the other port", || booted.network().is_some_and(|network| network.interface == "eth1"));
    assert!(!machine.ip("-4 address show dev eth0").contains("inet "));
    assert!(machine.ip("-4 address show dev eth1").contains("inet 10.1.0.77/24"));
    assert!(machine.ip("-4 route show").contains("default via 10.1.0.1 dev eth1"));
}

#[test]
fn the_operators_mtu_goes_before_the_servers() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let _server = Server::start(&rack, "port0", steady(ADDRESS, LONG));
    let _booted = Machine::boot(&machine, "drophammer.mtu=9000", None);
    wait_until("the address", || machine.ip("-4 address show dev eth0").contains("inet 10.1.0.77/24"));
    assert!(machine.ip("link show dev eth0").contains("mtu 9000"));
}

/// A dnsmasq that serves DHCP, and nothing else, on one link.
struct Dnsmasq(Child);

impl Dnsmasq {
    /// `None` where it is not installed: the test then tests nothing, and says so.
    fn start(namespace: &Namespace, link: &str, arguments: &[&str]) -> Option<Self> {
        if !std::path::Path::new("/usr/sbin/dnsmasq").exists() {
            eprintln!("not tested: dnsmasq is not installed");
            return None;
        }
        namespace.ip(&format!("address add {SERVER}/24 dev {link}"));
        let mut command = namespace.command("/usr/sbin/dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--no-ping"]);
        command.args(["--dhcp-authoritative", "--leasefile-ro", "--user=root", "--pid-file", "--log-facility=-"]);
        command.arg(format!("--interface={link}")).args(arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting dnsmasq");
        Some(Self(child))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_server_gives_an_address_with_jumbo_frames() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let arguments = ["--dhcp-range=10.1.0.70,10.1.0.79,255.255.255.0,2m", "--dhcp-option=26,9000"];
    let Some(_server) = Dnsmasq::start(&rack, "port0", &arguments) else { return };
    let network = Machine::boot(&machine, "", None).wait_for_network();
    assert_eq!((network.origin, network.dhcp_server), (Origin::Dhcp, Some(SERVER.into())));
    assert!(machine.ip("link show dev eth0").contains("mtu 9000"));
}

#[test]
fn a_real_server_gives_another_address_for_one_that_was_declined() {
    if !kernel_has("bridge") {
        return;
    }
    let (rack, machine) = rack();
    let neighbour = Namespace::new("neighbour");
    machine.plug("eth0", &rack, "port0");
    neighbour.plug("eth0", &rack, "port1");
    neighbour.ip("link set eth0 up");
    switch(&rack, &["port0", "port1"]);
    let arguments = ["--dhcp-range=10.1.0.70,10.1.0.79,255.255.255.0,2m"];
    let Some(_server) = Dnsmasq::start(&rack, "switch", &arguments) else { return };
    let look = machine.run(|| async {
        let netlink = Netlink::open().unwrap();
        find_offer(&netlink, "eth0", &DhcpOptions::default(), PATIENCE).await.unwrap()
    });
    let taken = look.join().unwrap().expect("an offer").lease.address;
    // Somebody has it, whom the server does not know.
    neighbour.ip(&format!("address add {taken} dev eth0"));
    let booted = Machine::boot(&machine, "", None);
    let network = booted.wait_for_network();
    assert!(booted.said(&format!("address {taken} on eth0 is in use by ")));
    assert_ne!(network.addresses[0], taken.into());
}

#[test]
fn a_real_server_confirms_the_address_after_the_link_was_away() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let arguments = ["--dhcp-range=10.1.0.70,10.1.0.79,255.255.255.0,2m"];
    let Some(_server) = Dnsmasq::start(&rack, "port0", &arguments) else { return };
    let booted = Machine::boot(&machine, "", None);
    let before = booted.wait_for_network();
    let left = || {
        let shown = machine.ip("-4 address show dev eth0");
        let seconds = shown.split("valid_lft ").nth(1).and_then(|rest| rest.split("sec").next()?.parse::<u32>().ok());
        seconds.unwrap_or_else(|| panic!("no lifetime in {shown}"))
    };
    wait_until("some seconds of the lease to pass", || left() < 114);
    rack.ip("link set port0 down");
    rack.ip("link set port0 up");
    wait_until("a lease that is new", || left() >= 116);
    assert_eq!(booted.network(), Some(before));
}

#[test]
fn a_tagged_link_is_made_and_nothing_is_asked_untagged() {
    if !kernel_has("vlan") {
        return;
    }
    for (cmdline, origin) in [
        ("vlan=vlan0007:eth0", Origin::Dhcp),
        ("vlan=vlan0007:eth0 ip=vlan0007:dhcp", Origin::Dhcp),
        ("vlan=vlan0007:eth0 ip=10.1.0.77::10.1.0.1:255.255.255.0::vlan0007:none", Origin::Static),
    ] {
        let (rack, machine) = rack();
        machine.plug("eth0", &rack, "port0");
        rack.ip("link add link port0 name port0.7 type vlan id 7");
        rack.ip("link set port0.7 up");
        let untagged = Server::start(&rack, "port0", steady(SECOND, LONG));
        let _server = Server::start(&rack, "port0.7", steady(ADDRESS, LONG));
        let network = Machine::boot(&machine, cmdline, None).wait_for_network();
        assert_eq!((network.interface.as_str(), network.origin), ("vlan0007", origin), "{cmdline}");
        assert!(machine.ip("-4 address show dev vlan0007").contains("inet 10.1.0.77/24"));
        assert!(machine.ip("-d link show dev vlan0007").contains("vlan protocol 802.1Q id 7"));
        assert_eq!(untagged.heard().len(), 0, "{cmdline}");
    }
}

/// A switch with a server behind it.
fn switch(rack: &Namespace, ports: &[&str]) {
    rack.ip("link add switch type bridge");
    rack.ip("link set switch up");
    for port in ports {
        rack.ip(&format!("link set {port} master switch"));
    }
}

#[test]
fn a_bond_of_two_ports_lives_on_with_one() {
    if !(kernel_has("bond") && kernel_has("bridge")) {
        return;
    }
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.plug("eth1", &rack, "port1");
    switch(&rack, &["port0", "port1"]);
    let server = Server::start(&rack, "switch", steady(ADDRESS, [1, 40, 60]));
    let booted = Machine::boot(&machine, "bond=bond0:eth0,eth1:mode=active-backup,miimon=50,primary=eth0", None);
    let network = booted.wait_for_network();
    assert_eq!(network.interface, "bond0");
    assert!(machine.ip("link show dev eth0").contains("master bond0"));
    assert!(machine.ip("link show dev eth1").contains("master bond0"));
    let details = machine.ip("-d link show dev bond0");
    assert!(details.contains("mode active-backup") && details.contains("active_slave eth0"), "{details}");

    rack.ip("link set port0 down");
    wait_until("the other port to take over", || machine.ip("-d link show dev bond0").contains("active_slave eth1"));
    let renewals = || server.heard().iter().filter(|question| question.ciaddr() == ADDRESS).count();
    let before = renewals();
    wait_until("a renewal by the other port", || renewals() > before);
    assert_eq!(booted.network().expect("a network").interface, "bond0");
}

#[test]
fn a_vlan_on_a_bond_with_lacp_carries_the_address() {
    if !(kernel_has("bond") && kernel_has("vlan")) {
        return;
    }
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.plug("eth1", &rack, "port1");
    rack.ip("link add agg type bond mode 802.3ad miimon 50 lacp_rate fast");
    for port in ["port0", "port1"] {
        rack.ip(&format!("link set {port} down"));
        rack.ip(&format!("link set {port} master agg"));
    }
    rack.ip("link set agg up");
    rack.ip("link add link agg name agg.7 type vlan id 7");
    rack.ip("link set agg.7 up");
    let _server = Server::start(&rack, "agg.7", steady(ADDRESS, LONG));
    let line = "bond=bond0:eth0,eth1:mode=802.3ad,miimon=50,lacp_rate=fast:9000 vlan=bond0.7:bond0";
    let network = Machine::boot(&machine, line, None).wait_for_network();
    assert_eq!((network.interface.as_str(), network.addresses[0].addr()), ("bond0.7", ADDRESS.into()));
    wait_until("both ports in one group", || machine.ip("-d link show dev bond0").contains("ad_num_ports 2"));
    let bond = machine.ip("-d link show dev bond0");
    assert!(bond.contains("mode 802.3ad") && bond.contains("mtu 9000") && bond.contains("lacp_rate fast"), "{bond}");
    assert!(machine.ip("link show dev bond0.7").contains("mtu 1400"), "the server's, for this VLAN");
}

#[test]
fn a_port_that_comes_late_goes_into_its_bond() {
    if !(kernel_has("bond") && kernel_has("bridge")) {
        return;
    }
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    switch(&rack, &["port0"]);
    let _server = Server::start(&rack, "switch", steady(ADDRESS, LONG));
    let _booted = Machine::boot(&machine, "bond=bond0:eth0,eth1:active-backup", None);
    wait_until("the address", || machine.try_ip_output("-4 address show dev bond0").contains("inet 10.1.0.77/24"));
    machine.plug("eth1", &rack, "port1");
    wait_until("the late port", || machine.ip("link show dev eth1").contains("master bond0"));
    assert!(machine.ip("link show dev eth1").contains("UP"));
}

#[test]
fn a_link_that_is_no_port_of_ours_is_left_alone() {
    if !kernel_has("bridge") {
        return;
    }
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.ip("link add br0 type bridge");
    let _server = Server::start(&rack, "port0", steady(ADDRESS, LONG));
    assert_eq!(Machine::boot(&machine, "", None).wait_for_network().interface, "eth0");
    assert!(machine.ip("link show dev br0").contains("state DOWN"));
}
