//! The agent's life as a list of phases.
//!
//! The method says what happens when a phase fails: `or_stop` ends this life (the failure is reported, the machine
//! reboots and starts over), `or_retry` tries again for ever, `or_warn` goes on without.

use anyhow::Result;

use super::install::Installation;
use super::wait::Waited;
use super::{
    Agent, clock, configure, erase, hand_over, init, installed, inventory, late_neighbours, network, register,
    remote_log, ssh, wait,
};
use crate::init::exit::Ending;

/// From the first driver to the installed system's kernel. Returns how the machine goes on, and why.
pub(crate) async fn live(agent: &Agent) -> Result<(Ending, String)> {
    let phase = &agent.runner;
    let (identity, late_disks) = phase.or_stop("init", init::run(agent)).await?;
    let network = phase.or_stop("network", async { Ok(network::run(agent, &identity).await) }).await?;
    let mut session = phase.or_retry("configure", async || configure::run(agent, &network, &identity.id()).await).await;
    let time = clock::client(&session);
    if phase.or_warn("clock", clock::run(agent, &session, &network, &time)).await.is_none() {
        clock::keep_trying(agent, &session, &network, time);
    }
    // After the clock: a log server refuses lines that seem to be years old.
    remote_log::start(agent, &session, &identity.id());
    ssh::start(agent, &session);
    let facts = phase.or_stop("inventory", inventory::run(agent, late_disks)).await?;
    network.wait_for_switches().await?;
    register::announce(agent);
    let known =
        phase.or_retry("register", async || register::run(agent, &mut session, &network, &facts, &identity).await);
    let order = match known.await {
        register::Known::Installed(system) => return Ok(installed::start(agent, *system).await),
        register::Known::Reinstall(order) => order,
        register::Known::Fresh => {
            let erased = phase.or_stop("erase", erase::run(agent, &session)).await?;
            let late = late_neighbours::follow(&session, &network, &facts, &identity);
            let waited = phase
                .or_stop("wait", async { Ok(wait::run(agent, &mut session, &identity.id(), &erased, late).await) });
            match waited.await? {
                Waited::Order(order) => order,
                Waited::Reboot(reason) => return Ok(hand_over::planned_reboot(agent, reason).await),
            }
        }
    };
    let installation =
        Installation { agent, session: &mut session, connected: &network, identity: &identity, order: &order };
    let installed = phase.or_stop("install", installation.run()).await?;
    phase.or_stop("hand over", hand_over::run(agent, &mut session, &identity.id(), installed)).await
}
