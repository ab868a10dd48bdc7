//! The database: one SQLite file, one writer, every change of state one transaction.
//!
//! What was answered is on the disk: write-ahead log with `synchronous=FULL`, and the answer is given only after the
//! commit. So a kill at any moment loses nothing that anybody was told.
//!
//! - [`entities`]: images, sizes, layouts, partitions, as documents by kind and id
//! - [`machines`]: machine records, with the columns that are searched
//! - [`events`]: event containers, event lists, phases
//! - [`records`]: erase records, plans
//! - [`enrolments`]: who was admitted, and what admits

mod enrolments;
mod entities;
mod events;
mod machines;
mod records;
mod schema;

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rusqlite::{Connection, TransactionBehavior};

pub use entities::Entity;
pub use events::MAX_EVENTS;

use super::refusal::Refusal;

/// A cheap handle. The mutex is only ever locked on tokio's blocking threads, never across an `.await`.
#[derive(Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

/// One transaction. All reads and writes of the database are its methods.
pub struct Tx<'c>(rusqlite::Transaction<'c>);

impl Store {
    /// Opens the file, creating it at the first start and bringing its schema up to date.
    pub fn open(path: &Path) -> Result<Self> {
        let opening = || format!("opening {}", path.display());
        // It holds passwords. SQLite gives its side files the mode of the main one.
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).with_context(opening)?;
        let connection = Connection::open(path).with_context(opening)?;
        Self::prepare(connection).with_context(|| format!("preparing {}", path.display()))
    }

    /// A store that lives in memory only: for tests.
    pub fn in_memory() -> Result<Self> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn prepare(mut connection: Connection) -> Result<Self> {
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).context("switching to WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        schema::migrate(&mut connection)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Runs `work` as one transaction: committed when it returns `Ok`, as if never begun when it refuses.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        F: FnOnce(&Tx<'_>) -> Result<T, Refusal> + Send + 'static,
        T: Send + 'static,
    {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.run_blocking(work))
            .await
            .map_err(|error| Refusal::Internal(anyhow::Error::new(error).context("running a transaction")))?
    }

    /// [`Store::run`] for callers that may block.
    pub fn run_blocking<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        F: FnOnce(&Tx<'_>) -> Result<T, Refusal>,
    {
        // A panic in another transaction has rolled it back; the connection itself is sound.
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let tx = Tx(connection.transaction_with_behavior(TransactionBehavior::Immediate)?);
        let value = work(&tx)?;
        tx.0.commit()?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_transaction_leaves_nothing_behind() {
        let store = Store::in_memory().unwrap();
        let image = crate::api::rest::Image { id: "debian-12.0.1".into(), ..Default::default() };
        let refused: Result<(), Refusal> = store.run_blocking(|tx| {
            tx.put(&image)?;
            Err(Refusal::Conflict("no".into()))
        });
        assert!(matches!(refused, Err(Refusal::Conflict(_))));
        let images = store.run_blocking(|tx| tx.all::<crate::api::rest::Image>()).unwrap();
        assert_eq!(images, []);
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anvil.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = format!("{:#}", Store::open(&path).err().unwrap());
        assert!(error.contains("schema 99"), "{error}");
    }
}
