//! TCP connections to names and addresses, for gRPC channels.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::service_fn;

use super::resolver::Resolver;

/// Per address.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// An address that does not answer for so long is not waited for alone (RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// A connector for `tonic::transport::Endpoint::connect_with_connector(_lazy)`. It does TCP only: tonic puts TLS on
/// top when the endpoint has a `tls_config` and its URI says https.
pub fn connect(
    resolver: Resolver,
) -> impl tower::Service<Uri, Response = TokioIo<TcpStream>, Error = io::Error, Future: Send> + Clone + Send + Sync + 'static
{
    service_fn(move |uri: Uri| {
        let resolver = resolver.clone();
        async move { connect_tcp(&resolver, &uri).await.map(TokioIo::new) }
    })
}

/// Connects to whichever of the host's addresses answers first.
async fn connect_tcp(resolver: &Resolver, uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no host in {uri}")))?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let addresses = alternate(resolver.resolve(host).await?);
    let stream = connect_first(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Addresses of both kinds in turns, so that a kind that leads nowhere holds up little (RFC 8305 section 4).
fn alternate(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let mut second = second.into_iter();
    let mut all: Vec<IpAddr> = first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    all.extend(second);
    all
}

/// Begins with the next address when one has failed, or has not answered for [`NEXT_ADDRESS`].
async fn connect_first(mut targets: Vec<SocketAddr>) -> io::Result<TcpStream> {
    targets.reverse();
    let mut attempts = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        if let Some(target) = targets.pop() {
            attempts.spawn(connect_to(target));
        }
        let wait = if targets.is_empty() { CONNECT_LIMIT } else { NEXT_ADDRESS };
        match timeout(wait, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(failure)))) => failures.push(failure),
            Ok(Some(Err(died))) => failures.push(io::Error::other(died)),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    let kind = failures.last().map_or(io::ErrorKind::NotFound, io::Error::kind);
    let told: Vec<String> = failures.iter().map(io::Error::to_string).collect();
    Err(io::Error::new(kind, told.join("; ")))
}

async fn connect_to(target: SocketAddr) -> io::Result<TcpStream> {
    match timeout(CONNECT_LIMIT, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("connecting to {target}: {error}"))),
        Err(_) => {
            let text = format!("connecting to {target}: no answer for {} s", CONNECT_LIMIT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn addresses_of_both_kinds_are_tried_in_turns() {
        let sorted = |addresses: &[&str]| {
            let addresses = alternate(addresses.iter().map(|address| address.parse().unwrap()).collect());
            addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            sorted(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"]),
            ["10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3"]
        );
        assert_eq!(sorted(&["fd00::1", "10.0.0.1", "10.0.0.2"]), ["fd00::1", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(sorted(&["fd00::1"]), ["fd00::1"]);
    }

    #[tokio::test]
    async fn literal_hosts_are_connected_to_without_name_servers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let stream = connect(Resolver::new(&[], &[])).oneshot(uri).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(stream.inner().local_addr().unwrap(), peer);
    }

    #[tokio::test]
    async fn a_refusal_names_the_address() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let uri: Uri = format!("https://{closed}").parse().unwrap();
        let error = connect(Resolver::new(&[], &[])).oneshot(uri).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("connecting to {closed}: ")), "{error}");
    }

    #[tokio::test]
    async fn a_name_without_name_servers_is_not_looked_up() {
        let uri: Uri = "https://api.lab.example:50051".parse().unwrap();
        let error = connect(Resolver::new(&[], &[])).oneshot(uri).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot look up \"api.lab.example\": no name server is configured");
    }
}
