//! `/v1/image`.

use axum::Json;
use axum::body::Body as RawBody;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Answer, Body, created};
use crate::anvil::images::{self, Upload};
use crate::anvil::refusal::Refusal;
use crate::anvil::state::Anvil;
use crate::anvil::store::Tx;
use crate::api::rest::Image;

/// With the machines that use it.
fn with_users(tx: &Tx<'_>, image: Image) -> Result<Image, Refusal> {
    Ok(Image { usedby: tx.machines_using_image(&image.id)?, ..image })
}

pub(super) async fn list(State(anvil): State<Anvil>) -> Answer<Vec<Image>> {
    let images = anvil.store.run(|tx| tx.all::<Image>()?.into_iter().map(|image| with_users(tx, image)).collect());
    Ok(Json(images.await?))
}

pub(super) async fn show(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Image> {
    Ok(Json(anvil.store.run(move |tx| with_users(tx, tx.expect(&id)?)).await?))
}

pub(super) async fn create(
    State(anvil): State<Anvil>,
    Body(image): Body<Image>,
) -> Result<(StatusCode, Json<Image>), Refusal> {
    let image = images::complete(image)?;
    let entry = image.clone();
    anvil.store.run(move |tx| tx.create(&entry)).await?;
    tracing::info!(image = %image.id, url = %image.url, "image added");
    Ok(created(image))
}

/// What may change; a key that is absent leaves its field.
#[derive(Debug, Deserialize)]
pub(super) struct Update {
    id: String,
    name: Option<String>,
    description: Option<String>,
    url: Option<String>,
    features: Option<Vec<String>>,
    #[serde(rename = "expirationDate")]
    expiration_date: Option<String>,
    classification: Option<String>,
    digest: Option<String>,
}

pub(super) async fn update(State(anvil): State<Anvil>, Body(update): Body<Update>) -> Answer<Image> {
    let image = anvil
        .store
        .run(move |tx| {
            let before: Image = tx.expect(&update.id)?;
            let url_changes = update.url.as_ref().is_some_and(|url| *url != before.url);
            let image = images::complete(Image {
                name: update.name.unwrap_or(before.name),
                description: update.description.unwrap_or(before.description),
                url: update.url.unwrap_or(before.url),
                features: update.features.unwrap_or(before.features),
                expiration_date: update.expiration_date.or(before.expiration_date),
                classification: update.classification.unwrap_or(before.classification),
                // The digest of another file would refuse every installation.
                digest: update.digest.or(before.digest.filter(|_| !url_changes)),
                ..before
            })?;
            tx.put(&image)?;
            Ok(image)
        })
        .await?;
    Ok(Json(image))
}

pub(super) async fn remove(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Image> {
    Ok(Json(images::remove(&anvil, &id).await?))
}

/// anvil's own: the image's file as the body.
pub(super) async fn upload(
    State(anvil): State<Anvil>,
    Path(id): Path<String>,
    Query(upload): Query<Upload>,
    body: RawBody,
) -> Result<(StatusCode, Json<Image>), Refusal> {
    Ok(created(images::receive_file(&anvil, &id, upload, body.into_data_stream()).await?))
}
