//! The REST API: metal-api's paths, bodies and refusals, and a few of our own.
//!
//! Reading takes the key `Metal-View`, allocating `Metal-Edit`, changing what is offered `Metal-Admin`; a higher key
//! does for a lower one. Only health, version and what machines boot are open.

mod auth;
mod boot_files;
mod enrolment;
mod images;
mod info;
mod layouts;
mod machines;
mod sizes;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::refusal::Refusal;
use super::state::Anvil;
use super::store::{Entity, Tx};
use crate::api::hmac::Role;
use crate::api::rest::ErrorBody;

/// All routes of the API. Has a fallback, so merge it into nothing that has one, too.
pub fn router(anvil: Anvil) -> Router {
    let guarded = |role: Role, routes: Vec<(&str, MethodRouter<Anvil>)>| {
        let router = routes.into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
        router.route_layer(from_fn_with_state((anvil.clone(), role), auth::require))
    };
    let view = guarded(
        Role::View,
        vec![
            ("/v1/machine", get(machines::list)),
            ("/v1/machine/find", post(machines::find)),
            ("/v1/machine/{id}", get(machines::show)),
            ("/v1/machine/{id}/event", get(machines::events)),
            ("/v1/machine/{id}/erasure", get(machines::erasures)),
            ("/v1/machine/{id}/plan", get(machines::plan)),
            ("/v1/machine/{id}/size-match", get(machines::size_match)),
            ("/v1/image", get(images::list)),
            ("/v1/image/{id}", get(images::show)),
            ("/v1/size", get(sizes::list)),
            ("/v1/size/{id}", get(sizes::show)),
            ("/v1/filesystemlayout", get(layouts::list)),
            ("/v1/filesystemlayout/{id}", get(layouts::show)),
            ("/v1/filesystemlayout/try", post(layouts::choose)),
            ("/v1/filesystemlayout/matches", post(layouts::matches)),
            ("/v1/enrolment", get(enrolment::list)),
            ("/v1/partition", get(info::partitions)),
            ("/v1/partition/{id}", get(info::partition)),
        ],
    );
    let edit = guarded(
        Role::Edit,
        vec![
            ("/v1/machine/allocate", post(machines::allocate)),
            ("/v1/machine/{id}/free", delete(machines::free)),
            ("/v1/machine/{id}/reinstall", post(machines::reinstall)),
        ],
    );
    let admin = guarded(
        Role::Admin,
        vec![
            ("/v1/enrolment/{name}/admit", post(enrolment::admit)),
            ("/v1/enrolment/{name}/revoke", post(enrolment::revoke)),
            ("/v1/enrolment-token", post(enrolment::make_token)),
            ("/v1/image", put(images::create).post(images::update)),
            ("/v1/image/{id}", delete(images::remove)),
            ("/v1/image/{id}/file", put(images::upload)),
            ("/v1/size", put(sizes::create).post(sizes::update)),
            ("/v1/size/{id}", delete(sizes::remove)),
            ("/v1/filesystemlayout", put(layouts::create).post(layouts::update)),
            ("/v1/filesystemlayout/{id}", delete(layouts::remove)),
        ],
    );
    let open = Router::new()
        .route("/v1/health", get(info::health))
        .route("/v1/version", get(info::version))
        .route("/boot/kernel", get(boot_files::kernel))
        .route("/boot/initrd", get(boot_files::initrd));
    Router::new()
        .merge(view)
        .merge(edit)
        .merge(admin)
        .merge(open)
        .fallback(async |request: Request| {
            Refusal::NotFound(format!("no such path: {}", request.uri().path())).into_response()
        })
        .method_not_allowed_fallback(async |request: Request| {
            let message = format!("{} is not possible on {}", request.method(), request.uri().path());
            error_response(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .with_state(anvil)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Self::Internal(error) = &self {
            tracing::warn!(error = format!("{error:#}"), "a REST call failed");
        }
        error_response(status, self.to_string())
    }
}

fn error_response(status: StatusCode, message: String) -> Response {
    (status, Json(ErrorBody { statuscode: status.as_u16(), message })).into_response()
}

/// A JSON body, whatever its content type says. Refusals name the key that is wrong.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Refusal::BadRequest(format!("reading the body: {}", rejection.body_text())))?;
        let Json(value) =
            Json::<T>::from_bytes(&bytes).map_err(|rejection| Refusal::BadRequest(rejection.body_text()))?;
        Ok(Self(value))
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

async fn list_entities<E: Entity + Send + 'static>(anvil: Anvil) -> Answer<Vec<E>> {
    Ok(Json(anvil.store.run(|tx| tx.all()).await?))
}

async fn show_entity<E: Entity + Send + 'static>(anvil: Anvil, id: String) -> Answer<E> {
    Ok(Json(anvil.store.run(move |tx| tx.expect(&id)).await?))
}

/// What holds for a kind of entity that administrators change.
struct Rules<E> {
    /// Refuses what may not be stored beside all others.
    check: fn(&Tx<'_>, &E) -> Result<(), Refusal>,
    /// What follows from any change of the kind; part of the same transaction.
    follow: fn(&Tx<'_>, &Anvil) -> Result<(), Refusal>,
}

async fn create_entity<E>(anvil: Anvil, entity: E, rules: Rules<E>) -> Result<(StatusCode, Json<E>), Refusal>
where
    E: Entity + Clone + Send + 'static,
{
    let store = anvil.store.clone();
    let entry = entity.clone();
    store
        .run(move |tx| {
            (rules.check)(tx, &entry)?;
            tx.create(&entry)?;
            (rules.follow)(tx, &anvil)
        })
        .await?;
    Ok(created(entity))
}

async fn update_entity<E: Entity + Clone + Send + 'static>(anvil: Anvil, entity: E, rules: Rules<E>) -> Answer<E> {
    let store = anvil.store.clone();
    let entry = entity.clone();
    store
        .run(move |tx| {
            tx.expect::<E>(entry.id())?;
            (rules.check)(tx, &entry)?;
            tx.put(&entry)?;
            (rules.follow)(tx, &anvil)
        })
        .await?;
    Ok(Json(entity))
}

async fn remove_entity<E: Entity + Send + 'static>(anvil: Anvil, id: String, rules: Rules<E>) -> Answer<E> {
    let store = anvil.store.clone();
    let removed = store
        .run(move |tx| {
            let removed = tx.remove(&id)?;
            (rules.follow)(tx, &anvil)?;
            Ok(removed)
        })
        .await?;
    Ok(Json(removed))
}

/// 201 with the new object, as metal-api answers.
fn created<T: Serialize>(value: T) -> (StatusCode, Json<T>) {
    (StatusCode::CREATED, Json(value))
}

/// Joins several faults to one sentence.
fn sentence<T: ToString>(faults: &[T]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
