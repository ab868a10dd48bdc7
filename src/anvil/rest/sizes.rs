//! `/v1/size`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use time::OffsetDateTime;

use super::{Answer, Body, Rules, create_entity, list_entities, remove_entity, sentence, show_entity, update_entity};
use crate::anvil::machines::judge_sizes;
use crate::anvil::refusal::Refusal;
use crate::anvil::sizes::{Size, SizeFault, overlap, validate};
use crate::anvil::state::Anvil;
use crate::anvil::store::Tx;

pub(super) async fn list(State(anvil): State<Anvil>) -> Answer<Vec<Size>> {
    list_entities(anvil).await
}

pub(super) async fn show(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Size> {
    show_entity(anvil, id).await
}

fn check(tx: &Tx<'_>, size: &Size) -> Result<(), Refusal> {
    let faults = validate(size);
    if faults.iter().any(|fault| matches!(fault, SizeFault::Id(_))) {
        return Err(Refusal::BadRequest(sentence(&faults)));
    }
    if !faults.is_empty() {
        return Err(Refusal::Unprocessable(sentence(&faults)));
    }
    match overlap(size, &tx.all::<Size>()?) {
        Some(fault) => Err(Refusal::BadRequest(fault.to_string())),
        None => Ok(()),
    }
}

/// Machines that nobody has been given follow every change.
const RULES: Rules<Size> =
    Rules { check, follow: |tx, anvil| judge_sizes(tx, anvil.config.sizes.matching(), OffsetDateTime::now_utc()) };

fn with_name(mut size: Size) -> Size {
    if size.name.is_empty() {
        size.name = size.id.clone();
    }
    size
}

pub(super) async fn create(
    State(anvil): State<Anvil>,
    Body(size): Body<Size>,
) -> Result<(StatusCode, Json<Size>), Refusal> {
    create_entity(anvil, with_name(size), RULES).await
}

pub(super) async fn update(State(anvil): State<Anvil>, Body(size): Body<Size>) -> Answer<Size> {
    update_entity(anvil, with_name(size), RULES).await
}

pub(super) async fn remove(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Size> {
    remove_entity(anvil, id, RULES).await
}
