//! Phase inventory: what is in this machine.

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::Agent;
use super::init::LateDisks;
use crate::inventory::{self, Inventory};

pub(crate) async fn run(agent: &Agent, late_disks: LateDisks) -> Result<Inventory> {
    late_disks.await.context("waiting for USB disks")?;
    let roots = agent.roots.clone();
    let facts = tokio::task::spawn_blocking(move || inventory::read(&roots)).await.context("reading the inventory")?;
    for warning in &facts.warnings {
        warn!("inventory: {warning}");
    }
    info!(
        "{} CPUs, {} of memory, {} GPUs, {} disks, {} NICs",
        facts.cpus.len(),
        facts.memory.map_or_else(|| "unknown amount".to_owned(), |memory| memory.to_string()),
        facts.gpus.len(),
        facts.disks.len(),
        facts.nics.len()
    );
    if let Some(bmc) = &facts.bmc {
        let address = bmc.lan.as_ref().and_then(|lan| lan.address);
        info!(
            "BMC at {}, firmware {}",
            address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string()),
            bmc.firmware.as_deref().unwrap_or("unknown"),
        );
    }
    Ok(facts)
}
