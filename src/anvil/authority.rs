//! What the network boot asks: who was seen, what this machine boots, what every agent is told.

use anyhow::Result;
use async_trait::async_trait;
use time::OffsetDateTime;

use super::enrolment::{self, Identity};
use super::machines;
use super::netboot::{Asking, BootAuthority, BootDecision, ConfigAnswer};
use super::state::Anvil;
use crate::api::event::ProvisioningEvent;
use crate::api::metal_config::MetalConfig;

/// Answers from the database. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    anvil: Anvil,
}

impl Authority {
    pub fn new(anvil: Anvil) -> Self {
        Self { anvil }
    }
}

#[async_trait]
impl BootAuthority for Authority {
    /// A machine of that UUID asked for an address to boot from the network. Never fails: booting matters more.
    async fn saw_dhcp(&self, uuid: &str) -> Result<()> {
        let id = uuid.to_owned();
        let installed = self.anvil.store.run(move |tx| Ok(tx.machine(&id)?.is_some_and(|m| m.is_installed()))).await;
        if matches!(installed, Ok(true)) {
            // It only passes by on the way to its disk. As an event it would look like a crash.
            tracing::info!(machine = uuid, "an installed machine boots over the network, will be sent to its disk");
            return Ok(());
        }
        let message = "machine sent extended dhcp request";
        if let Err(error) = machines::receive_event(&self.anvil, uuid, ProvisioningEvent::PxeBooting, message).await {
            tracing::warn!(machine = uuid, %error, "the network boot was not recorded");
        }
        Ok(())
    }

    /// What the machine with this NIC boots. In doubt the agent, which asks the API and destroys nothing by itself.
    async fn boot(&self, mac: &str) -> Result<BootDecision> {
        let wanted = mac.to_lowercase();
        let machine = self.anvil.store.run(move |tx| tx.machine_by_mac(&wanted)).await;
        match machine {
            Ok(Some(machine)) if machine.is_installed() => {
                tracing::info!(machine = %machine.id, mac, "boots its disk");
                return Ok(BootDecision::LocalDisk);
            }
            Ok(Some(machine)) => tracing::info!(machine = %machine.id, mac, "boots the agent"),
            Ok(None) => tracing::info!(mac, "a new machine boots the agent"),
            Err(error) => tracing::warn!(mac, %error, "could not look the machine up, it boots the agent"),
        }
        Ok(BootDecision::Agent { cmdline: self.anvil.config.partition.commandline() })
    }

    /// What every agent is told; where machines have to be admitted, with keys of this machine's own.
    async fn metal_config(&self, asking: Asking) -> Result<ConfigAnswer> {
        let config = self.anvil.metal_config();
        if !self.anvil.config.require_enrolment {
            return Ok(ConfigAnswer::Config(Box::new(config)));
        }
        let anvil = self.anvil.clone();
        let pin = anvil.pki.ca_pin()?.to_string();
        let answer = self.anvil.store.run(move |tx| {
            let authority = enrolment::Authority { dir: &anvil.ca_dir(), pin: &pin };
            enrolment::answer(tx, &asking, authority, OffsetDateTime::now_utc())
        });
        Ok(match answer.await? {
            Ok(Identity { cert, key, hmac, .. }) => ConfigAnswer::Config(Box::new(MetalConfig {
                pixie_api_url: format!("{}/certs", self.anvil.endpoints.https_url()),
                cert: Some(cert),
                key: Some(key),
                hmac: Some(hmac),
                ..config
            })),
            Err(reason) => ConfigAnswer::NotAdmitted(reason),
        })
    }
}
