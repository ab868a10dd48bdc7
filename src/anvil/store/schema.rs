//! The tables, as a list of migrations. Append only: a released one is never changed.

use anyhow::{Context, Result, bail};
use rusqlite::Connection;

const MIGRATIONS: &[&str] = &["
    CREATE TABLE entities (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE machines (
        id TEXT PRIMARY KEY,
        partition_id TEXT NOT NULL,
        size_id TEXT NOT NULL,
        waiting INTEGER NOT NULL,
        image_id TEXT,
        project_id TEXT,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX machines_by_image ON machines (image_id) WHERE image_id IS NOT NULL;

    CREATE TABLE nics (
        mac TEXT NOT NULL,
        machine_id TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
        PRIMARY KEY (mac, machine_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX nics_by_machine ON nics (machine_id);

    CREATE TABLE containers (
        machine_id TEXT PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        machine_id TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
        document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_machine ON events (machine_id, seq);

    CREATE TABLE phases (
        machine_id TEXT PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

/// Brings the schema to the newest version, each step in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?.try_into()?;
    if version > MIGRATIONS.len() {
        bail!(
            "the database has schema {version}, this anvil knows {}: it was written by a newer one",
            MIGRATIONS.len()
        );
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let next = i64::try_from(index + 1)?;
        let tx = connection.transaction()?;
        tx.execute_batch(migration).with_context(|| format!("migrating the database to schema {next}"))?;
        tx.pragma_update(None, "user_version", next)?;
        tx.commit()?;
    }
    Ok(())
}
