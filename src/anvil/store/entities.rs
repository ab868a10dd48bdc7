//! Documents that are kept by kind and id: images, sizes, layouts, partitions.

use rusqlite::OptionalExtension;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Tx;
use crate::anvil::machines::Partition;
use crate::anvil::refusal::Refusal;
use crate::anvil::sizes::Size;
use crate::api::layout::FilesystemLayout;
use crate::api::rest::Image;

/// What is kept as a document under an id.
pub trait Entity: Serialize + DeserializeOwned {
    /// Its name, in the database and in sentences.
    const KIND: &'static str;
    fn id(&self) -> &str;
}

impl Entity for Image {
    const KIND: &'static str = "image";
    fn id(&self) -> &str {
        &self.id
    }
}

impl Entity for Size {
    const KIND: &'static str = "size";
    fn id(&self) -> &str {
        &self.id
    }
}

impl Entity for FilesystemLayout {
    const KIND: &'static str = "filesystemlayout";
    fn id(&self) -> &str {
        &self.id
    }
}

impl Entity for Partition {
    const KIND: &'static str = "partition";
    fn id(&self) -> &str {
        &self.id
    }
}

impl Tx<'_> {
    /// The entity of that id, if there is one.
    pub fn get<E: Entity>(&self, id: &str) -> Result<Option<E>, Refusal> {
        let document: Option<String> = self
            .0
            .prepare_cached("SELECT document FROM entities WHERE kind = ?1 AND id = ?2")?
            .query_row((E::KIND, id), |row| row.get(0))
            .optional()?;
        Ok(document.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// The entity of that id; its absence is a refusal.
    pub fn expect<E: Entity>(&self, id: &str) -> Result<E, Refusal> {
        self.get(id)?.ok_or_else(|| Refusal::NotFound(format!("no {} with id {id:?} found", E::KIND)))
    }

    /// All of the kind, ordered by id.
    pub fn all<E: Entity>(&self) -> Result<Vec<E>, Refusal> {
        let mut query = self.0.prepare_cached("SELECT document FROM entities WHERE kind = ?1 ORDER BY id")?;
        let documents = query.query_map([E::KIND], |row| row.get::<_, String>(0))?;
        documents.map(|document| Ok(serde_json::from_str(&document?)?)).collect()
    }

    /// Stores a new entity; one that is there already is a refusal.
    pub fn create<E: Entity>(&self, entity: &E) -> Result<(), Refusal> {
        if self.get::<E>(entity.id())?.is_some() {
            return Err(Refusal::Conflict(format!("{} {:?} exists already", E::KIND, entity.id())));
        }
        self.put(entity)
    }

    /// Stores an entity, new or not.
    pub fn put<E: Entity>(&self, entity: &E) -> Result<(), Refusal> {
        let document = serde_json::to_string(entity)?;
        self.0
            .prepare_cached("INSERT OR REPLACE INTO entities (kind, id, document) VALUES (?1, ?2, ?3)")?
            .execute((E::KIND, entity.id(), document))?;
        Ok(())
    }

    /// Removes an entity and returns it.
    pub fn remove<E: Entity>(&self, id: &str) -> Result<E, Refusal> {
        let entity = self.expect(id)?;
        self.0.execute("DELETE FROM entities WHERE kind = ?1 AND id = ?2", (E::KIND, id))?;
        Ok(entity)
    }
}
