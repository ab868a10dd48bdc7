//! The DHCP sockets: port 67 as server or beside another one, port 4011 for PXE clients that come back.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::BootAuthority;
use super::dhcp_answer::{Me, Network, answer, answer_as_proxy, answer_binl};
use super::dhcp_message::{Reply, ReplyType, Request, RequestType};
use super::leases::{LeaseFile, LeasePool, unix_seconds};
use super::pxe;
use crate::sys::udp::send_from;

/// How long the authority may take to note a booting machine.
const AUTHORITY_LIMIT: Duration = Duration::from_secs(10);
/// Notes under way at the same time; more are dropped, as every boot sends several.
const MAX_NOTES: usize = 64;
/// Pause after an error of the socket itself, such as an interface that went away.
const SOCKET_ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Who answers on a socket, and how.
pub enum Role {
    /// Gives addresses.
    Server(Box<ServerState>),
    /// Port 67 beside another server.
    Proxy,
    /// Port 4011.
    Binl,
}

pub struct ServerState {
    pub network: Network,
    pub pool: LeasePool,
    pub file: LeaseFile,
}

pub struct DhcpSocket {
    socket: UdpSocket,
    me: Me,
    role: Role,
    authority: Arc<dyn BootAuthority>,
    notes: Arc<Semaphore>,
}

impl DhcpSocket {
    /// `socket` is bound, non-blocking, and may broadcast.
    pub fn new(socket: std::net::UdpSocket, me: Me, role: Role, authority: Arc<dyn BootAuthority>) -> Result<Self> {
        let socket = UdpSocket::from_std(socket).context("watching the DHCP socket")?;
        Ok(Self { socket, me, role, authority, notes: Arc::new(Semaphore::new(MAX_NOTES)) })
    }

    /// Answers for ever. A bad packet or a failed answer is logged and never ends the server.
    pub async fn run(mut self) -> Result<()> {
        let mut buffer = vec![0; 4096];
        loop {
            let (len, from) = match self.socket.recv_from(&mut buffer).await {
                Ok((len, SocketAddr::V4(from))) => (len, from),
                Ok((_, SocketAddr::V6(_))) => continue,
                Err(error) => {
                    warn!(%error, "DHCP: receiving failed");
                    tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
                    continue;
                }
            };
            match Request::parse(buffer.get(..len).unwrap_or_default()) {
                Ok(request) => {
                    if let Err(error) = self.handle(&request, from).await {
                        warn!(mac = %request.mac, error = format!("{error:#}"), "DHCP: not answered");
                    }
                }
                Err(error) => debug!(%from, %error, "DHCP: ignored a packet"),
            }
        }
    }

    async fn handle(&mut self, request: &Request, from: SocketAddrV4) -> Result<()> {
        self.note_booting_machine(request);
        let reply = match &mut self.role {
            Role::Server(state) => serve(state, request, self.me).await?,
            Role::Proxy => answer_as_proxy(request, self.me),
            Role::Binl => answer_binl(request, self.me, from),
        };
        let Some(reply) = reply else { return Ok(()) };
        self.send(&reply).await.with_context(|| format!("sending to {}", reply.to))?;
        log_reply(request, &reply);
        Ok(())
    }

    /// Tells the authority of a machine that starts to boot. The answer does not wait for it, and is sent even when
    /// it fails (upstream sends none then): a machine that boots reports itself a minute later, while one without an
    /// answer is lost without a trace.
    fn note_booting_machine(&self, request: &Request) {
        if request.kind != RequestType::Discover || pxe::architecture(request).is_none() {
            return;
        }
        let Some(uuid) = pxe::machine_uuid(request) else { return };
        let Ok(permit) = Arc::clone(&self.notes).try_acquire_owned() else {
            warn!(machine = uuid, "PXE: too many machines boot at once, this boot was not recorded");
            return;
        };
        let authority = Arc::clone(&self.authority);
        tokio::spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(AUTHORITY_LIMIT, authority.saw_dhcp(&uuid)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(machine = uuid, error = format!("{error:#}"), "PXE: boot not recorded"),
                Err(_) => warn!(machine = uuid, "PXE: boot not recorded within {} s", AUTHORITY_LIMIT.as_secs()),
            }
        });
    }

    async fn send(&self, reply: &Reply) -> std::io::Result<usize> {
        let bytes = reply.encode();
        self.socket
            .async_io(Interest::WRITABLE, || send_from(self.socket.as_fd(), &bytes, reply.to, self.me.address))
            .await
    }
}

/// A lease is on disk before its client hears of it (RFC 2131 section 3.1): after a restart the address must not go
/// to somebody else.
async fn serve(state: &mut ServerState, request: &Request, me: Me) -> Result<Option<Reply>> {
    let reply = answer(request, me, &state.network, &mut state.pool, unix_seconds(SystemTime::now()));
    if state.pool.is_unsaved() {
        let (file, leases) = (state.file.clone(), state.pool.leases().clone());
        tokio::task::spawn_blocking(move || file.save(&leases)).await.context("waiting for the lease file")??;
        state.pool.mark_saved();
    }
    Ok(reply)
}

fn log_reply(request: &Request, reply: &Reply) {
    let mac = request.mac;
    let client = pxe::identify(request).map_or_else(|| "plain client".to_owned(), |client| client.to_string());
    let address = if reply.yiaddr == Ipv4Addr::UNSPECIFIED { None } else { Some(reply.yiaddr) };
    match (reply.kind, address) {
        (ReplyType::Offer, Some(address)) => info!(%mac, %address, client, file = reply.boot_file, "DHCP: offered"),
        (ReplyType::Ack, Some(address)) => info!(%mac, %address, client, file = reply.boot_file, "DHCP: leased"),
        (ReplyType::Nak, _) => info!(%mac, client, "DHCP: refused"),
        (ReplyType::Offer | ReplyType::Ack, None) => info!(%mac, client, file = reply.boot_file, "PXE: answered"),
    }
}
