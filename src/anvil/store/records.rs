//! Erase records, which stay for ever, and the newest plan of each machine.

use rusqlite::{OptionalExtension, Row};

use super::Tx;
use crate::anvil::records::Stored;
use crate::anvil::refusal::Refusal;

impl Tx<'_> {
    /// Keeps an erase record. `false` when it is here already: the agent sends again what it got no answer for.
    pub fn add_erasure(&self, machine: &str, record: &Stored) -> Result<bool, Refusal> {
        let added = self
            .0
            .prepare_cached(
                "INSERT OR IGNORE INTO erasures (machine_id, digest, received, fault, jws) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((machine, record.digest(), &record.received, &record.fault, &record.jws))?;
        Ok(added > 0)
    }

    /// All erase records of a machine, newest first.
    pub fn erasures(&self, machine: &str) -> Result<Vec<Stored>, Refusal> {
        let mut query = self
            .0
            .prepare_cached("SELECT received, fault, jws FROM erasures WHERE machine_id = ?1 ORDER BY seq DESC")?;
        let rows = query.query_map([machine], stored)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Puts the plan in the place of an older one.
    pub fn put_plan(&self, machine: &str, plan: &Stored) -> Result<(), Refusal> {
        self.0
            .prepare_cached("INSERT OR REPLACE INTO plans (machine_id, received, fault, jws) VALUES (?1, ?2, ?3, ?4)")?
            .execute((machine, &plan.received, &plan.fault, &plan.jws))?;
        Ok(())
    }

    /// The machine's newest plan.
    pub fn plan(&self, machine: &str) -> Result<Option<Stored>, Refusal> {
        let mut query = self.0.prepare_cached("SELECT received, fault, jws FROM plans WHERE machine_id = ?1")?;
        Ok(query.query_row([machine], stored).optional()?)
    }
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored { received: row.get(0)?, fault: row.get(1)?, jws: row.get(2)? })
}
