//! `/v1/filesystemlayout`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Answer, Body, Rules, create_entity, list_entities, remove_entity, sentence, show_entity, update_entity};
use crate::anvil::layouts;
use crate::anvil::refusal::Refusal;
use crate::anvil::state::Anvil;
use crate::anvil::store::Tx;
use crate::anvil::version::ImageId;
use crate::api::layout::FilesystemLayout;
use crate::api::layout::validate::validate;

pub(super) async fn list(State(anvil): State<Anvil>) -> Answer<Vec<FilesystemLayout>> {
    list_entities(anvil).await
}

pub(super) async fn show(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<FilesystemLayout> {
    show_entity(anvil, id).await
}

fn check(tx: &Tx<'_>, layout: &FilesystemLayout) -> Result<(), Refusal> {
    let faults = validate(layout);
    if !faults.is_empty() {
        let unsupported = faults.iter().any(|fault| fault.rule.is_unsupported_value());
        let text = sentence(&faults.iter().map(ToString::to_string).collect::<Vec<_>>());
        return Err(if unsupported { Refusal::Unprocessable(text) } else { Refusal::BadRequest(text) });
    }
    match layouts::collision(layout, &tx.all::<FilesystemLayout>()?) {
        Some(fault) => Err(Refusal::BadRequest(fault)),
        None => Ok(()),
    }
}

/// Allocations have copies of their layouts, so nothing follows from a change.
const RULES: Rules<FilesystemLayout> = Rules { check, follow: |_, _| Ok(()) };

pub(super) async fn create(
    State(anvil): State<Anvil>,
    Body(layout): Body<FilesystemLayout>,
) -> Result<(StatusCode, Json<FilesystemLayout>), Refusal> {
    create_entity(anvil, layout, RULES).await
}

pub(super) async fn update(
    State(anvil): State<Anvil>,
    Body(layout): Body<FilesystemLayout>,
) -> Answer<FilesystemLayout> {
    update_entity(anvil, layout, RULES).await
}

pub(super) async fn remove(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<FilesystemLayout> {
    remove_entity(anvil, id, RULES).await
}

#[derive(Debug, Deserialize)]
pub(super) struct Choose {
    size: String,
    image: String,
}

/// Which layout an allocation of this size and image would get.
pub(super) async fn choose(State(anvil): State<Anvil>, Body(wanted): Body<Choose>) -> Answer<FilesystemLayout> {
    let chosen = anvil
        .store
        .run(move |tx| {
            let image = ImageId::parse(&wanted.image)?;
            let layouts = tx.all::<FilesystemLayout>()?;
            layouts::choose(&layouts, &wanted.size, &image).cloned().ok_or_else(|| {
                Refusal::Unprocessable(format!(
                    "no filesystemlayout is for size {:?} and image {:?}",
                    wanted.size, wanted.image
                ))
            })
        })
        .await?;
    Ok(Json(chosen))
}

#[derive(Debug, Deserialize)]
pub(super) struct Matches {
    machine: String,
    filesystemlayout: String,
}

/// Whether a layout fits a machine's disks.
pub(super) async fn matches(State(anvil): State<Anvil>, Body(pair): Body<Matches>) -> Answer<FilesystemLayout> {
    let layout = anvil
        .store
        .run(move |tx| {
            let machine = tx.expect_machine(&pair.machine)?;
            let layout: FilesystemLayout = tx.expect(&pair.filesystemlayout)?;
            layouts::check_fit(&layout, &machine.hardware.disks)?;
            Ok(layout)
        })
        .await?;
    Ok(Json(layout))
}
