//! The tables, as a list of migrations. Append only: a released one is never changed.

use anyhow::{Context, Result, bail};
use rusqlite::Connection;

const MIGRATIONS: &[&str] = &[
    "
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
",
    "
    -- Without a reference to machines: erase records stay, whatever becomes of the machine.
    CREATE TABLE erasures (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        machine_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        received TEXT NOT NULL,
        fault TEXT,
        jws TEXT NOT NULL,
        UNIQUE (machine_id, digest)
    ) STRICT;

    CREATE TABLE plans (
        machine_id TEXT PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
        received TEXT NOT NULL,
        fault TEXT,
        jws TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    -- Without a reference to machines: a machine is admitted before it is known.
    CREATE TABLE enrolments (
        machine_id TEXT PRIMARY KEY,
        standing TEXT NOT NULL,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Cards whose machine is admitted when it first asks.
    CREATE TABLE expected_macs (
        mac TEXT PRIMARY KEY,
        since TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE enrolment_tokens (
        digest TEXT PRIMARY KEY,
        expires INTEGER NOT NULL,
        machines INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_first_schema_is_brought_up_to_date_and_keeps_what_is_in_it() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let entity = "INSERT INTO entities (kind, id, document) VALUES ('image', 'debian-12', '{}')";
        connection.execute(entity, []).unwrap();
        migrate(&mut connection).unwrap();
        let count = |table: &str| -> i64 {
            connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        assert_eq!((count("entities"), count("erasures"), count("plans")), (1, 0, 0));
    }
}
