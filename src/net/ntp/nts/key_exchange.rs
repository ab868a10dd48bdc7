//! The key exchange itself: one TLS connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::records::{self, Agreement};
use super::sealed::{Association, Keys};
use super::{EXPORT_LABEL, NtsError, PROTOCOL, export_context};

/// Per address.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Of the server's records: eight cookies are about 1 kB.
const MOST_BYTES: usize = 64 << 10;

/// Gets keys and cookies of `host`, whose certificate has to have that name. The caller bounds the time.
pub async fn exchange_keys(
    host: &str,
    addresses: &[SocketAddr],
    tls: Arc<ClientConfig>,
) -> Result<Association, NtsError> {
    let name = ServerName::try_from(host.trim_end_matches('.').to_owned());
    let name = name.map_err(|_| NtsError::Name(host.to_owned()))?;
    let tcp = connect(addresses).await?;
    let mut stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(NtsError::Talk)?;
    if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        return Err(NtsError::OtherProtocol);
    }
    stream.write_all(&records::question()).await.map_err(NtsError::Talk)?;
    stream.flush().await.map_err(NtsError::Talk)?;
    let Agreement { cookies, server, port } = read_agreement(&mut stream).await?;
    let keys = Keys { to_server: export(&stream, false)?, to_client: export(&stream, true)? };
    Ok(Association::new(keys, cookies, server, port))
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, NtsError> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(NtsError::Connect(last))
}

async fn read_agreement(stream: &mut TlsStream<TcpStream>) -> Result<Agreement, NtsError> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let len = stream.read(&mut buffer).await.map_err(NtsError::Talk)?;
        if len == 0 {
            return Err(NtsError::Malformed("ends too early"));
        }
        bytes.extend_from_slice(buffer.get(..len).unwrap_or_default());
        if let Some(records) = records::parse_records(&bytes) {
            return records::read_agreement(&records);
        }
        if bytes.len() > MOST_BYTES {
            return Err(NtsError::Malformed("has no end"));
        }
    }
}

fn export(stream: &TlsStream<TcpStream>, to_client: bool) -> Result<[u8; 32], NtsError> {
    let (_, connection) = stream.get_ref();
    connection
        .export_keying_material([0; 32], EXPORT_LABEL, Some(export_context(to_client).as_slice()))
        .map_err(|error| NtsError::Export(error.to_string()))
}
