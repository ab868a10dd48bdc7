//! Partitions, health, version.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::{Answer, list_entities, show_entity};
use crate::VERSION;
use crate::anvil::machines::Partition;
use crate::anvil::state::Anvil;
use crate::api::masked::masked;

pub(super) async fn partitions(State(anvil): State<Anvil>) -> Answer<Vec<Partition>> {
    let Json(partitions) = list_entities(anvil).await?;
    Ok(Json(partitions.into_iter().map(without_secrets).collect()))
}

pub(super) async fn partition(State(anvil): State<Anvil>, Path(id): Path<String>) -> Answer<Partition> {
    let Json(partition) = show_entity(anvil, id).await?;
    Ok(Json(without_secrets(partition)))
}

/// Machines get theirs by iPXE.
fn without_secrets(mut partition: Partition) -> Partition {
    partition.bootconfig.commandline = masked(&partition.bootconfig.commandline);
    partition
}

/// Healthy when the database answers.
pub(super) async fn health(State(anvil): State<Anvil>) -> Answer<Value> {
    anvil.store.run(|tx| tx.all::<Partition>()).await?;
    Ok(Json(json!({ "status": "healthy", "message": "", "services": {} })))
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "name": "anvil",
        "version": VERSION,
        "revision": "",
        "gitsha1": "",
        "builddate": "",
        "min_client_version": ""
    }))
}
