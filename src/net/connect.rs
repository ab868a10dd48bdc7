//! TCP connections to names and addresses, for gRPC channels.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::service_fn;

use super::resolver::Resolver;

/// Per address.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

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

/// Tries the addresses of the URI's host one after the other.
async fn connect_tcp(resolver: &Resolver, uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no host in {uri}")))?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in resolver.resolve(host).await? {
        let target = SocketAddr::new(address, port);
        match timeout(CONNECT_LIMIT, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = io::Error::new(error.kind(), format!("connecting to {target}: {error}")),
            Err(_) => {
                let text = format!("connecting to {target}: no answer for {} s", CONNECT_LIMIT.as_secs());
                last = io::Error::new(io::ErrorKind::TimedOut, text);
            }
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    use super::*;

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
