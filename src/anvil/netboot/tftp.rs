//! A TFTP server for boot loaders: reads only, from one directory.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::pxe::Firmware;
use super::tftp_packet::{ErrorCode, Packet, ParseError, ReadRequest, encode_data, encode_error, encode_option_ack};
use crate::api::mac::Mac;

/// Transfers at the same time; more requests are dropped, and clients ask again.
const MAX_TRANSFERS: usize = 128;
/// How often a packet is sent before the client is given up.
const ATTEMPTS: u32 = 6;
/// Wait for an acknowledgement when the client did not ask for another one.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const SOCKET_ERROR_PAUSE: Duration = Duration::from_secs(1);

/// A server on a bound socket.
pub struct TftpServer {
    socket: UdpSocket,
    dir: Arc<PathBuf>,
    /// Clients with a transfer under way: a request sent twice must not start two.
    active: Arc<Mutex<HashSet<SocketAddr>>>,
    transfers: Arc<Semaphore>,
}

impl TftpServer {
    pub fn new(socket: std::net::UdpSocket, dir: PathBuf) -> Result<Self> {
        let socket = UdpSocket::from_std(socket).context("watching the TFTP socket")?;
        let transfers = Arc::new(Semaphore::new(MAX_TRANSFERS));
        Ok(Self { socket, dir: Arc::new(dir), active: Arc::default(), transfers })
    }

    /// Serves for ever.
    pub async fn run(self) -> Result<()> {
        let local = self.socket.local_addr().context("asking for the TFTP socket's address")?.ip();
        let mut buffer = vec![0; 2048];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((len, from)) => self.handle(buffer.get(..len).unwrap_or_default(), from, local).await,
                Err(error) => {
                    warn!(%error, "TFTP: receiving failed");
                    tokio::time::sleep(SOCKET_ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn handle(&self, packet: &[u8], from: SocketAddr, local: IpAddr) {
        let request = match Packet::parse(packet) {
            Ok(Packet::Read(request)) => request,
            Ok(Packet::Ack(_) | Packet::Error { .. }) | Err(ParseError::Malformed) => return,
            Err(error @ (ParseError::Write | ParseError::Mode(_))) => {
                let answer = encode_error(ErrorCode::IllegalOperation, &error.to_string());
                let _ = self.socket.send_to(&answer, from).await;
                return;
            }
        };
        let Some(guard) = ActiveClient::enter(&self.active, from) else { return };
        let Ok(permit) = Arc::clone(&self.transfers).try_acquire_owned() else {
            warn!(client = %from, file = request.file, "TFTP: {MAX_TRANSFERS} transfers are under way, request dropped");
            return;
        };
        let dir = Arc::clone(&self.dir);
        tokio::spawn(async move {
            let (_guard, _permit) = (guard, permit);
            match transfer(&request, from, local, &dir).await {
                Ok(Sent::File { bytes }) => info!(client = %from, file = request.file, bytes, "TFTP: sent"),
                // PXE ROMs ask for the size first and abort on purpose.
                Ok(Sent::Aborted { message }) => {
                    debug!(client = %from, file = request.file, message, "TFTP: client stopped")
                }
                Err(error) => warn!(client = %from, file = request.file, error = format!("{error:#}"), "TFTP: failed"),
            }
        });
    }
}

/// A client's place in the set, given back when dropped.
struct ActiveClient {
    set: Arc<Mutex<HashSet<SocketAddr>>>,
    client: SocketAddr,
}

impl ActiveClient {
    fn enter(set: &Arc<Mutex<HashSet<SocketAddr>>>, client: SocketAddr) -> Option<Self> {
        let entered = set.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(client);
        entered.then(|| Self { set: Arc::clone(set), client })
    }
}

impl Drop for ActiveClient {
    fn drop(&mut self) {
        self.set.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&self.client);
    }
}

enum Sent {
    File { bytes: u64 },
    Aborted { message: String },
}

/// One file to one client, from a port of its own (RFC 1350 section 4).
async fn transfer(request: &ReadRequest, client: SocketAddr, local: IpAddr, dir: &Path) -> Result<Sent> {
    let socket = UdpSocket::bind((local, 0)).await.with_context(|| format!("binding a UDP port of {local}"))?;
    socket.connect(client).await.context("connecting to the client")?;
    let (file, size) = match open(dir, &request.file) {
        Ok(opened) => opened,
        Err(error) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound => ErrorCode::NotFound,
                io::ErrorKind::PermissionDenied => ErrorCode::AccessViolation,
                _ => ErrorCode::Undefined,
            };
            let _ = socket.send(&encode_error(code, &error.to_string())).await;
            return Err(error).with_context(|| format!("opening {:?} in {}", request.file, dir.display()));
        }
    };
    let wait = request.options.timeout.unwrap_or(DEFAULT_TIMEOUT);
    if let Some(packet) = encode_option_ack(request.options, size)
        && let Some(message) = send_until_acknowledged(&socket, &packet, 0, wait).await?
    {
        return Ok(Sent::Aborted { message });
    }
    send_blocks(&socket, &file, size, request.options.block_size(), wait).await
}

/// The last block is the first that is not full, so a file of whole blocks ends with an empty one. Block numbers wrap.
async fn send_blocks(socket: &UdpSocket, file: &File, size: u64, block_size: usize, wait: Duration) -> Result<Sent> {
    let (mut offset, mut number) = (0, 1u16);
    let mut block = vec![0; block_size];
    loop {
        let len = usize::try_from(size - offset).unwrap_or(block_size).min(block_size);
        let data = block.get_mut(..len).unwrap_or_default();
        // Loaders are small and in the page cache: not worth another thread for each block.
        file.read_exact_at(data, offset).with_context(|| format!("reading {len} bytes at {offset}"))?;
        if let Some(message) = send_until_acknowledged(socket, &encode_data(number, data), number, wait).await? {
            return Ok(Sent::Aborted { message });
        }
        offset += len as u64;
        if len < block_size {
            return Ok(Sent::File { bytes: offset });
        }
        number = number.wrapping_add(1);
    }
}

/// Returns the client's message when it ends the transfer. An old acknowledgement is not answered with another copy:
/// each duplicate would breed one more (RFC 1123 section 4.2.3.1).
async fn send_until_acknowledged(
    socket: &UdpSocket,
    packet: &[u8],
    number: u16,
    wait: Duration,
) -> Result<Option<String>> {
    let mut buffer = [0; 600];
    for _ in 0..ATTEMPTS {
        socket.send(packet).await.context("sending")?;
        let deadline = Instant::now() + wait;
        while let Ok(received) = timeout_at(deadline, socket.recv(&mut buffer)).await {
            let len = received.context("receiving")?;
            match Packet::parse(buffer.get(..len).unwrap_or_default()) {
                Ok(Packet::Ack(acknowledged)) if acknowledged == number => return Ok(None),
                Ok(Packet::Error { message, .. }) => return Ok(Some(message)),
                Ok(Packet::Ack(_) | Packet::Read(_)) | Err(_) => {}
            }
        }
    }
    bail!("no acknowledgement of block {number} after {ATTEMPTS} attempts of {} s", wait.as_secs())
}

/// `<mac>/<firmware number>`, or the name of a file in `dir`. Links that the operator put there are followed (Debian's
/// own directory has some); a name with any other `/` or a leading dot is no file here.
fn open(dir: &Path, name: &str) -> io::Result<(File, u64)> {
    let not_found = || io::Error::new(io::ErrorKind::NotFound, "file not found");
    let candidates = file_names(name);
    for candidate in &candidates {
        match open_regular(&dir.join(candidate)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
    }
    Err(not_found())
}

fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt;
    // Without O_NONBLOCK a FIFO in the directory would hold the server.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "not a regular file"));
    }
    Ok((file, metadata.len()))
}

fn file_names(name: &str) -> Vec<&str> {
    let name = name.trim_start_matches('/');
    match name.split_once('/') {
        Some((mac, number)) => match (mac.parse::<Mac>(), Firmware::from_number(number)) {
            (Ok(_), Some(firmware)) => firmware.loaders().to_vec(),
            _ => Vec::new(),
        },
        None if name.is_empty() || name.starts_with('.') || name.contains('\0') => Vec::new(),
        None => vec![name],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_into_the_directory_and_nowhere_else() {
        for (name, files) in [
            ("02:00:00:00:00:01/0", vec!["undionly.kpxe"]),
            ("/02:00:00:00:00:01/2", vec!["snponly.efi", "ipxe.efi"]),
            ("02:00:00:00:00:01/4", vec!["ipxe.pxe", "undionly.kpxe"]),
            ("ipxe.efi", vec!["ipxe.efi"]),
            ("02:00:00:00:00:01/9", vec![]),
            ("../etc/passwd", vec![]),
            ("..", vec![]),
            ("", vec![]),
            ("/", vec![]),
            ("02:00:00:00:00:01/../x", vec![]),
        ] {
            assert_eq!(file_names(name), files, "{name:?}");
        }
    }
}
