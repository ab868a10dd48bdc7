//! The network phase against a DHCP server at the other end of a cable, in network namespaces. Needs root.

mod booted_machine;
mod dhcp_rack;
mod namespace;

use std::net::Ipv4Addr;

use booted_machine::{Machine, PATIENCE, wait_until};
use dhcp_rack::{ADDRESS, Policy, SERVER, Server, answer, is, lease, rack, steady};
use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use drophammer::net::Origin;
use drophammer::net::dhcp::{DhcpOptions, find_offer};
use drophammer::net::links::Netlink;

#[test]
fn a_lease_is_taken_applied_in_full_and_renewed() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let server = Server::start(&rack, "port0", steady(ADDRESS, [1, 20, 30]));
    let booted = Machine::boot(&machine, "", None);
    let network = booted.wait_for_network();

    assert_eq!((network.interface.as_str(), network.origin), ("eth0", Origin::Dhcp));
    assert_eq!(network.addresses[0].to_string(), "10.1.0.77/24");
    assert_eq!(network.dns, [Ipv4Addr::new(10, 1, 0, 53)]);
    assert_eq!(network.domain.as_deref(), Some("lab.example"));
    assert_eq!(network.ntp, ["10.1.0.123"]);
    assert_eq!(network.dhcp_server, Some(SERVER.into()));
    let address = machine.ip("-4 address show dev eth0");
    assert!(address.contains("inet 10.1.0.77/24") && address.contains("mtu 1400"), "{address}");
    assert!(!address.contains("valid_lft forever"), "{address}");
    assert!(machine.ip("-4 route show").contains("default via 10.1.0.1 dev eth0"));

    // The machine is known by its UUID, and does not look like PXE firmware.
    let first = &server.heard()[0];
    assert!(first.opts().contains(OptionCode::ClientMachineIdentifier));
    assert!(!first.opts().contains(OptionCode::ClientSystemArchitecture));

    server.wait_for("a renewal from the address itself", |question| question.ciaddr() == ADDRESS);
    assert!(machine.ip("-4 address show dev eth0").contains("inet 10.1.0.77/24"));
}

#[test]
fn the_link_with_a_server_behind_it_wins() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.plug("eth1", &rack, "port1");
    let _server = Server::start(&rack, "port1", steady(ADDRESS, [1800, 3150, 3600]));
    let booted = Machine::boot(&machine, "drophammer.dns=10.1.0.54,nonsense", None);
    let network = booted.wait_for_network();
    assert_eq!(network.interface, "eth1");
    assert_eq!(network.dns, [Ipv4Addr::new(10, 1, 0, 53)]);
    assert_eq!(booted.name_servers(), [Ipv4Addr::new(10, 1, 0, 54)], "the command line goes before the lease");
    assert!(!machine.ip("-4 address show dev eth0").contains("inet "));
}

#[test]
fn a_boot_servers_answer_and_a_refusal_do_not_stop_the_search() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let mut refusals = 0;
    let policy: Policy = Box::new(move |question| match question.opts().msg_type() {
        Some(MessageType::Discover) => vec![
            answer(question, MessageType::Offer, Ipv4Addr::UNSPECIFIED),
            lease(question, MessageType::Offer, ADDRESS, [1800, 3150, 3600]),
        ],
        Some(MessageType::Request) if refusals == 0 => {
            refusals += 1;
            let mut nak = answer(question, MessageType::Nak, Ipv4Addr::UNSPECIFIED);
            nak.opts_mut().insert(DhcpOption::Message("taken".into()));
            vec![nak]
        }
        Some(MessageType::Request) => vec![lease(question, MessageType::Ack, ADDRESS, [1800, 3150, 3600])],
        _ => vec![],
    });
    let _server = Server::start(&rack, "port0", policy);
    let booted = Machine::boot(&machine, "", None);
    assert_eq!(booted.wait_for_network().addresses[0].addr(), ADDRESS);
    assert!(booted.said("DHCP server 10.1.0.1 refuses 10.1.0.77/24 on eth0: taken"));
}

#[test]
fn what_is_missing_is_said_and_works_as_soon_as_it_appears() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    rack.ip("link set port0 down");
    let booted = Machine::boot(&machine, "", None);
    wait_until("the complaint about the carrier", || booted.said("no carrier on eth0 for"));
    rack.ip("link set port0 up");
    wait_until("the complaint about the server", || booted.said("no DHCP answer on eth0 for"));
    let _server = Server::start(&rack, "port0", steady(ADDRESS, [1800, 3150, 3600]));
    assert_eq!(booted.wait_for_network().addresses[0].addr(), ADDRESS);
}

#[test]
fn an_address_that_nobody_renews_is_given_up_and_a_new_one_asked_for() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let second = Ipv4Addr::new(10, 1, 0, 78);
    let mut offered = 0;
    let policy: Policy = Box::new(move |question| {
        if is(question, MessageType::Discover) {
            offered += 1;
        }
        let address = if offered <= 1 { ADDRESS } else { second };
        match question.opts().msg_type() {
            _ if !question.ciaddr().is_unspecified() => vec![],
            Some(MessageType::Discover) => vec![lease(question, MessageType::Offer, address, [1, 2, 4])],
            Some(MessageType::Request) => vec![lease(question, MessageType::Ack, address, [1, 2, 4])],
            _ => vec![],
        }
    });
    let server = Server::start(&rack, "port0", policy);
    let booted = Machine::boot(&machine, "", None);
    assert_eq!(booted.wait_for_network().addresses[0].addr(), ADDRESS);
    wait_until("the second address", || booted.network().is_some_and(|network| network.addresses[0].addr() == second));
    let renewals = server.heard().iter().filter(|question| question.ciaddr() == ADDRESS).count();
    assert!(renewals >= 2, "renewing and rebinding were tried: {renewals}");
    let addresses = machine.ip("-4 address show dev eth0");
    assert!(addresses.contains("10.1.0.78/24") && !addresses.contains("10.1.0.77/24"), "{addresses}");
}

#[test]
fn an_address_on_the_command_line_needs_no_server() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.plug("eth1", &rack, "port1");
    let line = "ip=10.1.0.9::10.1.0.1:255.255.255.0:node9:eth1:none:10.1.0.53";
    let network = Machine::boot(&machine, line, None).wait_for_network();
    assert_eq!((network.interface.as_str(), network.origin), ("eth1", Origin::Static));
    assert_eq!(network.host_name.as_deref(), Some("node9"));
    assert_eq!(network.dns, [Ipv4Addr::new(10, 1, 0, 53)]);
    let address = machine.ip("-4 address show dev eth1");
    assert!(address.contains("inet 10.1.0.9/24") && address.contains("valid_lft forever"), "{address}");
    assert!(machine.ip("-4 route show").contains("default via 10.1.0.1 dev eth1"));
}

#[test]
fn the_kernels_own_address_is_used_and_its_lease_taken_over() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    machine.ip("link set eth0 up");
    machine.ip(&format!("address add {ADDRESS}/24 dev eth0"));
    let proc = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(proc.path().join("net/ipconfig")).unwrap();
    std::fs::write(proc.path().join("net/pnp"), "#PROTO: DHCP\ndomain lab\nnameserver 10.1.0.55\n").unwrap();
    std::fs::write(proc.path().join("net/ipconfig/ntp_servers"), "10.1.0.124\n").unwrap();
    let server = Server::start(&rack, "port0", steady(ADDRESS, [1, 20, 30]));
    let booted = Machine::boot(&machine, "ip=dhcp", Some(proc.path().to_owned()));
    let network = booted.wait_for_network();
    assert_eq!(network.addresses[0].to_string(), "10.1.0.77/24");
    server.wait_for("a renewal of the kernel's lease", |question| question.ciaddr() == ADDRESS);
    let heard = server.heard();
    assert!(!heard.iter().any(|question| is(question, MessageType::Discover)), "no second lease is asked for");
    assert!(!heard.iter().any(|question| question.opts().contains(OptionCode::ClientIdentifier)));
}

#[test]
fn an_offer_can_be_looked_at_without_taking_it() {
    let (rack, machine) = rack();
    machine.plug("eth0", &rack, "port0");
    let server = Server::start(&rack, "port0", steady(ADDRESS, [1800, 3150, 3600]));
    let looked = machine.run(|| async {
        let netlink = Netlink::open().unwrap();
        find_offer(&netlink, "eth0", &DhcpOptions::default(), PATIENCE).await.unwrap()
    });
    let offer = looked.join().unwrap().expect("an offer");
    assert_eq!(offer.lease.address.to_string(), "10.1.0.77/24");
    assert!(server.heard().iter().all(|question| is(question, MessageType::Discover)));
    assert!(!machine.ip("-4 address show dev eth0").contains("inet "));
}
