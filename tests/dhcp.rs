//! The network phase against a DHCP server at the other end of a cable, in network namespaces. Needs root.

mod namespace;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use drophammer::config::cmdline::Cmdline;
use drophammer::net::dhcp::{DhcpOptions, find_offer};
use drophammer::net::links::Netlink;
use drophammer::net::{Network, Online, Origin, bring_up};
use drophammer::sys::roots::Roots;
use drophammer::sys::udp::{UdpOptions, bind_udp};
use namespace::Namespace;
use uuid::Uuid;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
/// Far longer than anything here takes: only a fault waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a test server does with one message. `None`: nothing.
type Policy = Box<dyn FnMut(&Message) -> Vec<Message> + Send>;

/// A DHCP server on one link of a namespace, and what it has heard.
struct Server {
    heard: Arc<Mutex<Vec<Message>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(namespace: &Namespace, link: &str, mut policy: Policy) -> Self {
        namespace.ip(&format!("address add {SERVER}/24 dev {link}"));
        let (heard, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stopped, link) = (Arc::clone(&heard), Arc::clone(&stop), link.to_owned());
        let thread = namespace.run(move || async move {
            let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67);
            let options = UdpOptions { address, device: Some(&link), broadcast: true, share_port: true };
            let socket = bind_udp(&options).expect("server socket");
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut buffer = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, _)) = socket.recv_from(&mut buffer) else { continue };
                let question = Message::decode(&mut Decoder::new(&buffer[..len])).expect("a DHCP question");
                for answer in policy(&question) {
                    send(&socket, &question, &answer);
                }
                log.lock().unwrap().push(question);
            }
        });
        Self { heard, stop, thread: Some(thread) }
    }

    fn heard(&self) -> Vec<Message> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until a message heard satisfies the condition.
    fn wait_for(&self, what: &str, condition: impl Fn(&Message) -> bool) {
        wait_until(what, || self.heard().iter().any(&condition));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn send(socket: &UdpSocket, question: &Message, answer: &Message) {
    let mut bytes = Vec::new();
    answer.encode(&mut Encoder::new(&mut bytes)).unwrap();
    let to = if question.ciaddr().is_unspecified() { Ipv4Addr::BROADCAST } else { question.ciaddr() };
    // The client may be gone already.
    let _ = socket.send_to(&bytes, (to, 68));
}

fn answer(question: &Message, kind: MessageType, address: Ipv4Addr) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut answer = Message::new_with_id(question.xid(), none, address, none, none, question.chaddr());
    answer.set_opcode(Opcode::BootReply);
    answer.opts_mut().insert(DhcpOption::MessageType(kind));
    answer.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
    answer
}

/// An OFFER or ACK with everything a rack's server says.
fn lease(question: &Message, kind: MessageType, address: Ipv4Addr, times_s: [u32; 3]) -> Message {
    let mut answer = answer(question, kind, address);
    let options = answer.opts_mut();
    options.insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
    options.insert(DhcpOption::Router(vec![SERVER]));
    options.insert(DhcpOption::DomainNameServer(vec![Ipv4Addr::new(10, 1, 0, 53)]));
    options.insert(DhcpOption::DomainName("lab.example".into()));
    options.insert(DhcpOption::NtpServers(vec![Ipv4Addr::new(10, 1, 0, 123)]));
    options.insert(DhcpOption::InterfaceMtu(1400));
    options.insert(DhcpOption::Renewal(times_s[0]));
    options.insert(DhcpOption::Rebinding(times_s[1]));
    options.insert(DhcpOption::AddressLeaseTime(times_s[2]));
    answer
}

/// Offers and confirms always the same.
fn steady(address: Ipv4Addr, times_s: [u32; 3]) -> Policy {
    Box::new(move |question| match question.opts().msg_type() {
        Some(MessageType::Discover) => vec![lease(question, MessageType::Offer, address, times_s)],
        Some(MessageType::Request) => vec![lease(question, MessageType::Ack, address, times_s)],
        _ => vec![],
    })
}

fn is(question: &Message, kind: MessageType) -> bool {
    question.opts().msg_type() == Some(kind)
}

/// Two namespaces: the rack with its server, and the machine.
fn rack() -> (Namespace, Namespace) {
    (Namespace::new("rack"), Namespace::new("machine"))
}

/// The network phase of one machine, running until it is dropped.
struct Seen {
    network: Network,
    /// That are asked.
    name_servers: Vec<IpAddr>,
}

struct Machine {
    seen: Arc<Mutex<Option<Seen>>>,
    said: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Machine {
    fn boot(namespace: &Namespace, cmdline: &str, proc: Option<PathBuf>) -> Self {
        let (seen, said) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(Vec::new())));
        let stop = Arc::new(AtomicBool::new(false));
        let (publish, log, stopped) = (Arc::clone(&seen), Arc::clone(&said), Arc::clone(&stop));
        let cmdline = Cmdline::parse(cmdline);
        let thread = namespace.run(move || async move {
            let mut roots = Roots::under(std::path::Path::new("/nonexistent"));
            if let Some(proc) = proc {
                roots.proc = proc;
            }
            let say = move |text: String| log.lock().unwrap().push(text);
            let up = bring_up(&roots, &cmdline, Some(Uuid::parse_str(UUID).unwrap()), &say);
            let mut up = Box::pin(up);
            let mut online: Option<Online> = None;
            while !stopped.load(Ordering::Relaxed) {
                match &online {
                    None => online = tokio::time::timeout(Duration::from_millis(20), &mut up).await.ok(),
                    Some(online) => {
                        *publish.lock().unwrap() =
                            Some(Seen { network: online.network(), name_servers: online.resolver.servers() });
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        });
        Self { seen, said, stop, thread: Some(thread) }
    }

    fn network(&self) -> Option<Network> {
        self.seen.lock().unwrap().as_ref().map(|seen| seen.network.clone())
    }

    fn name_servers(&self) -> Vec<IpAddr> {
        self.seen.lock().unwrap().as_ref().map(|seen| seen.name_servers.clone()).unwrap_or_default()
    }

    fn wait_for_network(&self) -> Network {
        wait_until("the network", || self.network().is_some() || self.thread.as_ref().unwrap().is_finished());
        self.network().expect("the network phase has ended")
    }

    fn said(&self, part: &str) -> bool {
        self.said.lock().unwrap().iter().any(|text| text.contains(part))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);

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
