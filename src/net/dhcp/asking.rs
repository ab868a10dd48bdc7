//! One link that is asked on over a packet socket, since it has no address yet.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::debug;

use super::frame::{parse_frame, render_frame};
use super::message::{Question, render};
use super::reply::{Reply, parse_reply};
use super::rules::DhcpOptions;
use crate::net::AbortOnDrop;
use crate::net::links::EthernetLink;
use crate::sys::packet::PacketSocket;

const ETHERTYPE_IPV4: u16 = 0x0800;
/// After an error of a packet socket (its link went down).
const SOCKET_PAUSE: Duration = Duration::from_millis(500);

/// One link being asked on. Its answers arrive in a channel.
pub(super) struct Asking {
    pub(super) link: EthernetLink,
    socket: Arc<PacketSocket>,
    transaction: u32,
    _reader: AbortOnDrop,
}

/// A server's message to this machine.
pub(super) struct Heard {
    pub(super) link: EthernetLink,
    /// Where it came from: the server, or a relay.
    pub(super) source: Ipv4Addr,
    pub(super) reply: Box<Reply>,
}

impl Asking {
    pub(super) fn open(link: EthernetLink, replies: mpsc::Sender<Heard>) -> Result<Self> {
        let socket = PacketSocket::open(link.index, ETHERTYPE_IPV4);
        let socket = Arc::new(socket.with_context(|| format!("opening a packet socket on {}", link.name))?);
        let transaction = getrandom::u32().context("drawing a DHCP transaction number")?;
        let reader = tokio::spawn(read_replies(link.clone(), Arc::clone(&socket), transaction, replies));
        Ok(Self { link, socket, transaction, _reader: AbortOnDrop(reader) })
    }

    pub(super) async fn send(&self, question: Question, seconds: u16, options: &DhcpOptions) -> Result<()> {
        let payload = render(question, self.link.mac, self.transaction, seconds, options)?;
        let sent = self.socket.send(&render_frame(self.link.mac, &payload)).await;
        sent.with_context(|| format!("sending a DHCP question on {}", self.link.name))
    }
}

/// Passes on the answers to one transaction, until nobody listens any more.
async fn read_replies(link: EthernetLink, socket: Arc<PacketSocket>, transaction: u32, replies: mpsc::Sender<Heard>) {
    let mut buffer = vec![0; 4096];
    loop {
        let received = match socket.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(link = %link.name, %error, "packet socket");
                sleep(SOCKET_PAUSE).await;
                continue;
            }
        };
        let frame = buffer.get(..received.len).unwrap_or_default();
        let Some(datagram) = parse_frame(frame, received.checksum_filled) else { continue };
        match parse_reply(datagram.payload) {
            Ok(reply) if reply.transaction == transaction && reply.client == link.mac => {
                for fault in &reply.faults {
                    debug!(link = %link.name, server = %datagram.source, fault, "part of a DHCP answer ignored");
                }
                let heard = Heard { link: link.clone(), source: datagram.source, reply: Box::new(reply) };
                if replies.send(heard).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => debug!(link = %link.name, server = %datagram.source, %error, "no DHCP answer"),
        }
    }
}
