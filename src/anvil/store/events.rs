//! Event containers, the newest events of each machine, and the phases of its newest boot.

use rusqlite::OptionalExtension;

use super::Tx;
use crate::anvil::fsm::{Container, StoredEvent};
use crate::anvil::refusal::Refusal;
use crate::api::progress::Phase;

/// How many events of a machine are kept.
pub const MAX_EVENTS: u32 = 100;

impl Tx<'_> {
    /// What is known of a machine's events; an empty one when nothing is.
    pub fn container(&self, machine: &str) -> Result<Container, Refusal> {
        let document: Option<String> = self
            .0
            .prepare_cached("SELECT document FROM containers WHERE machine_id = ?1")?
            .query_row([machine], |row| row.get(0))
            .optional()?;
        Ok(document.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default())
    }

    pub fn put_container(&self, machine: &str, container: &Container) -> Result<(), Refusal> {
        let document = serde_json::to_string(container)?;
        self.0
            .prepare_cached("INSERT OR REPLACE INTO containers (machine_id, document) VALUES (?1, ?2)")?
            .execute((machine, document))?;
        Ok(())
    }

    /// The stored events, newest first.
    pub fn events(&self, machine: &str, limit: u32) -> Result<Vec<StoredEvent>, Refusal> {
        let mut query =
            self.0.prepare_cached("SELECT document FROM events WHERE machine_id = ?1 ORDER BY seq DESC LIMIT ?2")?;
        let documents = query.query_map((machine, limit), |row| row.get::<_, String>(0))?;
        documents.map(|document| Ok(serde_json::from_str(&document?)?)).collect()
    }

    /// Puts an event in front of the list and drops the oldest beyond [`MAX_EVENTS`].
    pub fn push_event(&self, machine: &str, event: &StoredEvent) -> Result<(), Refusal> {
        let document = serde_json::to_string(event)?;
        self.0
            .prepare_cached("INSERT INTO events (machine_id, document) VALUES (?1, ?2)")?
            .execute((machine, document))?;
        self.0
            .prepare_cached(
                "DELETE FROM events WHERE machine_id = ?1 AND seq <= (
                     SELECT seq FROM events WHERE machine_id = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
            )?
            .execute((machine, MAX_EVENTS))?;
        Ok(())
    }

    /// The phases of the newest boot, in the order they began.
    pub fn phases(&self, machine: &str) -> Result<Vec<Phase>, Refusal> {
        let document: Option<String> = self
            .0
            .prepare_cached("SELECT document FROM phases WHERE machine_id = ?1")?
            .query_row([machine], |row| row.get(0))
            .optional()?;
        Ok(document.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default())
    }

    pub fn put_phases(&self, machine: &str, phases: &[Phase]) -> Result<(), Refusal> {
        let document = serde_json::to_string(phases)?;
        self.0
            .prepare_cached("INSERT OR REPLACE INTO phases (machine_id, document) VALUES (?1, ?2)")?
            .execute((machine, document))?;
        Ok(())
    }
}
