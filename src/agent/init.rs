//! Phase init: drivers for the hardware that is there, watchdog, reaper, and who this machine is.

use std::time::Duration;

use anyhow::{Context, Result};
use tracing::{info, warn};
use uuid::Uuid;

use super::{Agent, clock};
use crate::init::modules::{self, ModuleDb};
use crate::init::{mounts, reaper, watchdog};
use crate::inventory::machine_id::{MachineId, read_machine_id};

/// Disks and links that appear later than this after their driver are missed.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Who this machine is.
pub(crate) struct Identity {
    pub uuid: Uuid,
}

impl Identity {
    /// As the API spells it.
    pub(crate) fn id(&self) -> String {
        self.uuid.to_string()
    }
}

pub(crate) async fn run(agent: &Agent) -> Result<Identity> {
    let roots = agent.roots.clone();
    tokio::task::spawn_blocking(move || {
        let db = ModuleDb::read(&ModuleDb::running_kernel_dir());
        modules::load_for_hardware(&roots, &db, &mut |line| info!("{line}"));
        mounts::mount_efivars();
        if !modules::settle(&roots, SETTLE_LIMIT) {
            warn!("disks or links are still appearing after {} s; going on", SETTLE_LIMIT.as_secs());
        }
    })
    .await
    .context("loading drivers")?;
    clock::advance_to_build_time();
    let (dev, proc) = (agent.roots.dev.clone(), agent.roots.proc.clone());
    tokio::spawn(async move { watchdog::run(&dev).await });
    tokio::spawn(async move { reaper::run(&proc).await });
    tokio::spawn(agent.events.clone().run());
    let MachineId { uuid, made_because } = read_machine_id(&agent.roots).context("reading this machine's id")?;
    if let Some(sentence) = made_because {
        warn!("{sentence}");
    }
    info!(%uuid, "this machine");
    Ok(Identity { uuid })
}
