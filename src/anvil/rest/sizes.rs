//! `/v1/size`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Answer, Body, created, list_entities, sentence, show_entity};
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
    let size = with_name(size);
    let entry = size.clone();
    anvil
        .store
        .run(move |tx| {
            check(tx, &entry)?;
            tx.create(&entry)
        })
        .await?;
    Ok(created(size))
}

pub(super) async fn update(State(anvil): State<Anvil>, Body(size): Body<Size>) -> Answer<Size> {
    let size = with_name(size);
    let entry = size.clone();
    anvil
        .store
        .run(move |tx| {
            tx.expect::<Size>(&entry.id)?;
            check(tx, &entry)?;
            tx.put(&entry)
        })
        .await?;
    Ok(Json(size))
}

pub(super) async fn remove(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Size> {
    Ok(Json(anvil.store.run(move |tx| tx.remove(&id)).await?))
}
