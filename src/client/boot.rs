//! gRPC BootService over mTLS.

use std::time::Duration;

use anyhow::{Context, Result};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::api::grpc::boot_service_client::BootServiceClient;
use crate::api::grpc::{
    BootServiceAbortReinstallRequest, BootServiceAbortReinstallResponse, BootServiceRegisterRequest,
    BootServiceRegisterResponse, BootServiceReportRequest, BootServiceWaitRequest,
};
use crate::api::metal_config::MetalConfig;
use crate::causes::add_causes;
use crate::net::Backoff;
use crate::net::{Resolver, connect};

/// Upstream's deadline for all unary calls but Wait.
const DEADLINE: Duration = Duration::from_secs(10);
/// Upstream pings after 10 s without traffic and waits 1 s for the answer. Ours waits longer, so that a busy server or
/// a slow link does not break a connection that works.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A lazy connection: the first call connects, and every call after a break connects anew.
pub fn channel(config: &MetalConfig, resolver: &Resolver) -> Result<Channel> {
    let address = config.address.as_deref().context("MetalConfig has no address")?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(config.ca_cert.as_deref().unwrap_or_default()))
        .identity(Identity::from_pem(
            config.cert.as_deref().unwrap_or_default(),
            config.key.as_deref().unwrap_or_default(),
        ));
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .with_context(|| format!("MetalConfig's address {address:?} is not host:port"))?
        .tls_config(tls)
        .context("MetalConfig's certificates cannot be used")?
        .connect_timeout(DEADLINE)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(connect(resolver.clone())))
}

/// The calls of BootService that an agent makes.
#[derive(Clone, Debug)]
pub struct BootService {
    client: BootServiceClient<Channel>,
}

/// How a Wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The machine is allocated.
    Allocated,
    /// The certificates no longer fit: fetch the configuration again.
    CertificateRefused(String),
    /// The server does not know the call: perhaps a newer agent does.
    Unimplemented,
}

/// A call that the API did not answer, or refused.
#[derive(Debug, thiserror::Error)]
#[error("the API answered {}", describe(.0))]
pub struct CallFailed(Status);

impl CallFailed {
    /// The API was not reached or was too slow; the same call may work later. Its refusals come as `Unknown`.
    pub fn is_transient(&self) -> bool {
        is_transient(&self.0)
    }
}

impl BootService {
    pub fn new(channel: Channel) -> Self {
        Self { client: BootServiceClient::new(channel) }
    }

    pub async fn register(
        &mut self,
        request: BootServiceRegisterRequest,
    ) -> Result<BootServiceRegisterResponse, CallFailed> {
        let answer = self.client.register(with_deadline(request)).await.map_err(CallFailed)?;
        Ok(answer.into_inner())
    }

    pub async fn report(&mut self, request: BootServiceReportRequest) -> Result<(), CallFailed> {
        self.client.report(with_deadline(request)).await.map_err(CallFailed)?;
        Ok(())
    }

    pub async fn abort_reinstall(
        &mut self,
        request: BootServiceAbortReinstallRequest,
    ) -> Result<BootServiceAbortReinstallResponse, CallFailed> {
        let answer = self.client.abort_reinstall(with_deadline(request)).await.map_err(CallFailed)?;
        Ok(answer.into_inner())
    }

    /// Waits until the machine is allocated, through any number of broken connections.
    pub async fn wait(&mut self, machine_id: &str) -> WaitEnd {
        let mut backoff = Backoff::for_server();
        loop {
            let status = match self.wait_once(machine_id, &mut backoff).await {
                Ok(()) => return WaitEnd::Allocated,
                Err(status) => status,
            };
            if status.code() == Code::Unimplemented {
                return WaitEnd::Unimplemented;
            }
            if is_certificate_fault(&status) {
                return WaitEnd::CertificateRefused(describe(&status));
            }
            let delay = backoff.next_delay();
            warn!(error = describe(&status), "waiting was interrupted; opening it again in {} s", delay.as_secs());
            tokio::time::sleep(delay).await;
        }
    }

    async fn wait_once(&mut self, machine_id: &str, backoff: &mut Backoff) -> Result<(), Status> {
        let request = BootServiceWaitRequest { machine_id: machine_id.to_owned() };
        let mut stream = self.client.wait(request).await?.into_inner();
        info!("waiting for an allocation");
        // Messages carry nothing: they are a sign of life.
        while stream.message().await?.is_some() {
            *backoff = Backoff::for_server();
        }
        Ok(())
    }
}

pub(super) fn is_transient(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

fn with_deadline<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Code, message, and the causes below it, which tonic keeps apart.
pub fn describe(status: &Status) -> String {
    let mut text = format!("{:?}", status.code());
    if !status.message().is_empty() {
        text = format!("{text} ({})", status.message());
    }
    add_causes(text, status)
}

/// Certificate faults of an open connection surface as `Unavailable` with rustls' text among the causes.
fn is_certificate_fault(status: &Status) -> bool {
    let text = describe(status).to_ascii_lowercase();
    text.contains("certificate")
}
