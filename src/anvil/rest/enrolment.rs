//! `/v1/enrolment`: anvil's own. Who may have the agents' keys.

use axum::Json;
use axum::extract::{Path, State};
use time::OffsetDateTime;

use super::{Answer, Body};
use crate::anvil::enrolment;
use crate::anvil::state::Anvil;
use crate::api::enrolment::{Enrolment, NewToken, TokenRequest};

pub(super) async fn list(State(anvil): State<Anvil>) -> Answer<Vec<Enrolment>> {
    Ok(Json(anvil.store.run(enrolment::list).await?))
}

pub(super) async fn admit(State(anvil): State<Anvil>, Path(name): Path<String>) -> Answer<Enrolment> {
    let now = OffsetDateTime::now_utc();
    Ok(Json(anvil.store.run(move |tx| enrolment::admit(tx, &name, now)).await?))
}

pub(super) async fn revoke(State(anvil): State<Anvil>, Path(name): Path<String>) -> Answer<Enrolment> {
    let now = OffsetDateTime::now_utc();
    let revoked = anvil.store.run(move |tx| enrolment::revoke(tx, &name, now)).await?;
    // An open call looks, and ends.
    anvil.waiters.wake(&revoked.machine);
    Ok(Json(revoked))
}

pub(super) async fn make_token(State(anvil): State<Anvil>, Body(request): Body<TokenRequest>) -> Answer<NewToken> {
    let now = OffsetDateTime::now_utc();
    Ok(Json(anvil.store.run(move |tx| enrolment::make_token(tx, request, now)).await?))
}
