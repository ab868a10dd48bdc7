//! A DHCP server that does what a test wants, at the other end of a machine's cable.

#![allow(dead_code, reason = "each test uses its own part")]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use drophammer::sys::udp::{UdpOptions, bind_udp};

use crate::booted_machine::wait_until;
use crate::namespace::Namespace;

/// What the machine is given.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

/// What a test server does with one message. `None`: nothing.
pub type Policy = Box<dyn FnMut(&Message) -> Vec<Message> + Send>;

/// A DHCP server on one link of a namespace, and what it has heard.
pub struct Server {
    heard: Arc<Mutex<Vec<Message>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(namespace: &Namespace, link: &str, mut policy: Policy) -> Self {
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

    pub fn heard(&self) -> Vec<Message> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until a message heard satisfies the condition.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Message) -> bool) {
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

fn send(socket: &UdpSocket, question: &Message, answer: &Message) {
    let mut bytes = Vec::new();
    answer.encode(&mut Encoder::new(&mut bytes)).unwrap();
    let to = if question.ciaddr().is_unspecified() { Ipv4Addr::BROADCAST } else { question.ciaddr() };
    // The client may be gone already.
    let _ = socket.send_to(&bytes, (to, 68));
}

pub fn answer(question: &Message, kind: MessageType, address: Ipv4Addr) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut answer = Message::new_with_id(question.xid(), none, address, none, none, question.chaddr());
    answer.set_opcode(Opcode::BootReply);
    answer.opts_mut().insert(DhcpOption::MessageType(kind));
    answer.opts_mut().insert(DhcpOption::ServerIdentifier(SERVER));
    answer
}

/// An OFFER or ACK with everything a rack's server says.
pub fn lease(question: &Message, kind: MessageType, address: Ipv4Addr, times_s: [u32; 3]) -> Message {
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
pub fn steady(address: Ipv4Addr, times_s: [u32; 3]) -> Policy {
    Box::new(move |question| match question.opts().msg_type() {
        Some(MessageType::Discover) => vec![lease(question, MessageType::Offer, address, times_s)],
        Some(MessageType::Request) => vec![lease(question, MessageType::Ack, address, times_s)],
        _ => vec![],
    })
}

pub fn is(question: &Message, kind: MessageType) -> bool {
    question.opts().msg_type() == Some(kind)
}

/// Two namespaces: the rack with its server, and the machine.
pub fn rack() -> (Namespace, Namespace) {
    (Namespace::new("rack"), Namespace::new("machine"))
}
