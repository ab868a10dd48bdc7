//! Who calls: where machines have to be admitted, each may speak for itself only.

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::{Request, Status};

use super::status;
use crate::anvil::enrolment;
use crate::anvil::refusal::Refusal;
use crate::anvil::state::Anvil;

/// The certificate that the client showed, DER.
pub(super) struct Peer(Option<Vec<u8>>);

impl Peer {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        Self(request.peer_certs().and_then(|chain| chain.first().map(|certificate| certificate.to_vec())))
    }

    /// Refuses a client that is not this machine, or that was shut out.
    pub(super) async fn expect_machine(&self, anvil: &Anvil, machine: &str) -> Result<(), Status> {
        if !anvil.config.require_enrolment || self.is_machine(anvil, machine).await? {
            return Ok(());
        }
        Err(refused(&format!("the client's certificate is not that of machine {machine:?}, or not any more")))
    }

    /// Refuses a client that is neither a boot server nor this machine.
    pub(super) async fn expect_boot_server_or(&self, anvil: &Anvil, machine: &str) -> Result<(), Status> {
        if self.is_boot_server(anvil).map_err(status)? {
            return Ok(());
        }
        self.expect_machine(anvil, machine).await
    }

    /// Refuses a client that is no boot server: machines have no business with each other's command lines.
    pub(super) async fn expect_boot_server(&self, anvil: &Anvil) -> Result<(), Status> {
        if !anvil.config.require_enrolment || self.is_boot_server(anvil).map_err(status)? {
            return Ok(());
        }
        Err(refused("the client's certificate is not that of boot servers"))
    }

    async fn is_machine(&self, anvil: &Anvil, machine: &str) -> Result<bool, Status> {
        let Some(shown) = self.0.clone() else { return Ok(false) };
        let machine = machine.to_owned();
        anvil.store.run(move |tx| enrolment::is_of_machine(tx, &machine, &shown)).await.map_err(status)
    }

    /// Boot servers have the certificate in anvil's data directory.
    fn is_boot_server(&self, anvil: &Anvil) -> Result<bool, Refusal> {
        let own = CertificateDer::from_pem_slice(anvil.pki.client_cert.as_bytes())
            .context("reading the boot servers' certificate")?;
        Ok(self.0.as_deref() == Some(own.as_ref()))
    }
}

fn refused(reason: &str) -> Status {
    tracing::warn!("gRPC call refused: {reason}");
    Status::permission_denied(reason.to_owned())
}
