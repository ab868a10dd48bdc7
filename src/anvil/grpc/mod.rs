//! The gRPC side: BootService and EventService over TLS with client certificates.

mod boot;
mod events;
mod peer;
mod wait;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tonic::Status;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::refusal::Refusal;
use super::state::Anvil;
use crate::api::grpc::boot_service_server::BootServiceServer;
use crate::api::grpc::event_service_server::EventServiceServer;

/// A quiet connection is tried after this long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Longer than upstream's 1 s: an emulated machine busy with an image answers late, and cutting it off helps nobody.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that does not finish its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `shutdown` and the calls then open have ended.
pub async fn serve(anvil: Anvil, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&anvil.pki.server_cert, &anvil.pki.server_key))
        .client_ca_root(Certificate::from_pem(&anvil.pki.ca_cert))
        .timeout(HANDSHAKE_TIMEOUT);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(Duration::from_secs(30)));
    Server::builder()
        .tls_config(tls)
        .context("configuring TLS for gRPC")?
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(BootServiceServer::new(boot::Boot::new(anvil.clone())))
        .add_service(EventServiceServer::new(events::Events::new(anvil)))
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await
        .context("serving gRPC")
}

/// metal-api sends plain errors, which arrive as code `Unknown` with their text.
fn status(refusal: Refusal) -> Status {
    if let Refusal::Internal(error) = &refusal {
        tracing::warn!(error = format!("{error:#}"), "a gRPC call failed");
    }
    Status::unknown(refusal.to_string())
}
