//! `/v1/machine`.

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::Deserialize;
use time::OffsetDateTime;

use super::auth::Caller;
use super::{Answer, Body};
use crate::anvil::allocation;
use crate::anvil::machines;
use crate::anvil::records::Stored;
use crate::anvil::refusal::Refusal;
use crate::anvil::sizes::Verdict;
use crate::anvil::state::Anvil;
use crate::anvil::store::MAX_EVENTS;
use crate::api::erasure::{Erasure, SentPlan};
use crate::api::hmac::Role;
use crate::api::null_as_default;
use crate::api::rest::{AllocateRequest, EventLog, Machine};

pub(super) async fn list(State(anvil): State<Anvil>, Extension(caller): Extension<Caller>) -> Answer<Vec<Machine>> {
    let mut shown: Vec<Machine> =
        anvil.store.run(|tx| tx.machines()?.iter().map(|machine| machines::show(tx, machine)).collect()).await?;
    for machine in &mut shown {
        machines::add_live_progress(&anvil, machine);
        if caller.role == Role::View {
            hide_user_data(machine);
        }
    }
    Ok(Json(shown))
}

pub(super) async fn show(
    State(anvil): State<Anvil>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answer<Machine> {
    let Json(mut machine) = shown(&anvil, id).await?;
    // An agent reads it here, by the key that all viewers have; unless each machine has its own.
    if anvil.config.require_enrolment && caller.role == Role::View && !caller.is_machine {
        hide_user_data(&mut machine);
    }
    Ok(Json(machine))
}

/// It is where people put passwords.
fn hide_user_data(machine: &mut Machine) {
    if let Some(allocation) = &mut machine.allocation {
        allocation.user_data.clear();
    }
}

async fn shown(anvil: &Anvil, id: String) -> Answer<Machine> {
    let mut machine = anvil.store.run(move |tx| machines::show(tx, &tx.expect_machine(&id)?)).await?;
    machines::add_live_progress(anvil, &mut machine);
    Ok(Json(machine))
}

/// anvil's own: every size tried on the machine, with what kept each from matching.
pub(super) async fn size_match(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Verdict> {
    let matching = anvil.config.sizes.matching();
    let verdict = anvil.store.run(move |tx| machines::size_verdict(tx, &tx.expect_machine(&id)?, matching)).await?;
    Ok(Json(verdict))
}

/// What to look for; all that is given must fit.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Find {
    id: Option<String>,
    name: Option<String>,
    partition_id: Option<String>,
    sizeid: Option<String>,
    rackid: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    tags: Vec<String>,
    liveliness: Option<String>,
    state_value: Option<String>,
    allocation_name: Option<String>,
    allocation_project: Option<String>,
    allocation_hostname: Option<String>,
    allocation_image_id: Option<String>,
    allocation_role: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    nics_mac_addresses: Vec<String>,
}

impl Find {
    fn fits(&self, machine: &Machine) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| match wanted {
            None => true,
            Some(wanted) => found == Some(wanted.as_str()),
        };
        let allocation = machine.allocation.as_ref();
        same(&self.id, Some(&machine.id))
            && same(&self.name, Some(&machine.name))
            && same(&self.partition_id, machine.partition.as_ref().map(|p| p.id.as_str()))
            && same(&self.sizeid, machine.size.as_ref().map(|s| s.id.as_str()))
            && same(&self.rackid, Some(&machine.rackid))
            && same(&self.liveliness, Some(&machine.liveliness))
            && same(&self.state_value, Some(&machine.state.value))
            && same(&self.allocation_name, allocation.map(|a| a.name.as_str()))
            && same(&self.allocation_project, allocation.map(|a| a.project.as_str()))
            && same(&self.allocation_hostname, allocation.map(|a| a.hostname.as_str()))
            && same(&self.allocation_image_id, allocation.and_then(|a| a.image.as_ref()).map(|i| i.id.as_str()))
            && same(&self.allocation_role, allocation.map(|a| a.role.as_str()))
            && self.tags.iter().all(|tag| machine.tags.contains(tag))
            && self
                .nics_mac_addresses
                .iter()
                .all(|mac| machine.hardware.nics.iter().any(|nic| nic.mac.eq_ignore_ascii_case(mac)))
    }
}

pub(super) async fn find(
    state: State<Anvil>,
    caller: Extension<Caller>,
    Body(wanted): Body<Find>,
) -> Answer<Vec<Machine>> {
    let Json(machines) = list(state, caller).await?;
    Ok(Json(machines.into_iter().filter(|machine| wanted.fits(machine)).collect()))
}

/// anvil's own: how many events.
#[derive(Debug, Deserialize)]
pub(super) struct EventQuery {
    limit: Option<u32>,
}

pub(super) async fn events(
    State(anvil): State<Anvil>,
    Path(id): Path<String>,
    Query(query): Query<EventQuery>,
) -> Answer<EventLog> {
    let limit = query.limit.unwrap_or(machines::SHOWN_EVENTS).min(MAX_EVENTS);
    let events = anvil
        .store
        .run(move |tx| {
            let shown = machines::show(tx, &tx.expect_machine(&id)?)?;
            let log = tx.events(&id, limit)?.iter().map(machines::event_to_rest).collect();
            Ok(EventLog { log, ..shown.events })
        })
        .await?;
    Ok(Json(events))
}

/// anvil's own: the erase records of the machine, newest first.
pub(super) async fn erasures(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Vec<Erasure>> {
    let stored = anvil
        .store
        .run(move |tx| {
            tx.expect_machine(&id)?;
            tx.erasures(&id)
        })
        .await?;
    Ok(Json(stored.iter().map(Stored::to_erasure).collect()))
}

/// anvil's own: what the newest installation was about to do to which disk.
pub(super) async fn plan(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<SentPlan> {
    let stored = anvil
        .store
        .run(move |tx| {
            tx.expect_machine(&id)?;
            tx.plan(&id)?.ok_or_else(|| Refusal::NotFound(format!("machine {id:?} has sent no plan")))
        })
        .await?;
    Ok(Json(stored.to_plan()))
}

pub(super) async fn allocate(
    State(anvil): State<Anvil>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<AllocateRequest>,
) -> Answer<Machine> {
    let partition = anvil.config.partition.id.clone();
    let hostname = request.hostname.clone();
    let now = OffsetDateTime::now_utc();
    let allocated = anvil.store.run(move |tx| allocation::allocate(tx, &request, caller.user(), &partition, now)).await;
    let machine = allocated.inspect_err(|refusal| tracing::info!(%hostname, %refusal, "allocation refused"))?;
    anvil.waiters.wake(&machine.id);
    tracing::info!(machine = %machine.id, %hostname, "allocated");
    shown(&anvil, machine.id).await
}

pub(super) async fn free(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Machine> {
    let machine = id.clone();
    let now = OffsetDateTime::now_utc();
    let matching = anvil.config.sizes.matching();
    anvil.store.run(move |tx| machines::free(tx, &machine, matching, now)).await?;
    anvil.live.clear(&id);
    tracing::info!(machine = %id, "freed");
    shown(&anvil, id).await
}

#[derive(Debug, Deserialize)]
pub(super) struct Reinstall {
    #[serde(default, deserialize_with = "null_as_default")]
    imageid: String,
}

pub(super) async fn reinstall(
    State(anvil): State<Anvil>,
    Path(id): Path<String>,
    Body(request): Body<Reinstall>,
) -> Answer<Machine> {
    if request.imageid.is_empty() {
        return Err(Refusal::BadRequest("imageid: missing".to_owned()));
    }
    let machine = id.clone();
    let now = OffsetDateTime::now_utc();
    anvil.store.run(move |tx| machines::reinstall(tx, &machine, &request.imageid, now)).await?;
    tracing::info!(machine = %id, "marked for reinstallation at its next network boot");
    shown(&anvil, id).await
}
