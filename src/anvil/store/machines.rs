//! Machine records, with the columns that are searched beside the document.

use rusqlite::OptionalExtension;

use super::Tx;
use crate::anvil::machines::MachineRecord;
use crate::anvil::refusal::Refusal;

impl Tx<'_> {
    /// The machine of that id, if it is known.
    pub fn machine(&self, id: &str) -> Result<Option<MachineRecord>, Refusal> {
        let document: Option<String> = self
            .0
            .prepare_cached("SELECT document FROM machines WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        Ok(document.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// The machine of that id; an unknown one is a refusal.
    pub fn expect_machine(&self, id: &str) -> Result<MachineRecord, Refusal> {
        self.machine(id)?.ok_or_else(|| Refusal::NotFound(format!("no machine with id {id:?} found")))
    }

    /// All machines, ordered by id.
    pub fn machines(&self) -> Result<Vec<MachineRecord>, Refusal> {
        let mut query = self.0.prepare_cached("SELECT document FROM machines ORDER BY id")?;
        let documents = query.query_map([], |row| row.get::<_, String>(0))?;
        documents.map(|document| Ok(serde_json::from_str(&document?)?)).collect()
    }

    /// Unallocated machines that wait for an allocation.
    pub fn waiting_machines(&self) -> Result<Vec<MachineRecord>, Refusal> {
        let mut query = self
            .0
            .prepare_cached("SELECT document FROM machines WHERE waiting = 1 AND image_id IS NULL ORDER BY id")?;
        let documents = query.query_map([], |row| row.get::<_, String>(0))?;
        documents.map(|document| Ok(serde_json::from_str(&document?)?)).collect()
    }

    /// The machine that last reported a NIC of this address (lower case).
    pub fn machine_by_mac(&self, mac: &str) -> Result<Option<MachineRecord>, Refusal> {
        let mut query = self.0.prepare_cached(
            "SELECT document FROM machines JOIN nics ON machines.id = nics.machine_id WHERE mac = ?1 ORDER BY id",
        )?;
        let documents = query.query_map([mac], |row| row.get::<_, String>(0))?;
        let mut machines: Vec<MachineRecord> =
            documents.map(|document| Ok(serde_json::from_str(&document?)?)).collect::<Result<_, Refusal>>()?;
        // A NIC moved to another machine: the newer registration is right.
        machines.sort_by_key(|machine| machine.changed);
        Ok(machines.pop())
    }

    /// Machines allocated under this host name (lower case).
    pub fn machines_called(&self, hostname: &str) -> Result<Vec<MachineRecord>, Refusal> {
        let mut query = self.0.prepare_cached(
            "SELECT document FROM machines WHERE image_id IS NOT NULL
             AND lower(json_extract(document, '$.allocation.hostname')) = ?1 ORDER BY id",
        )?;
        let documents = query.query_map([hostname], |row| row.get::<_, String>(0))?;
        documents.map(|document| Ok(serde_json::from_str(&document?)?)).collect()
    }

    /// Machines whose id begins with these hexadecimal digits (lower case).
    pub fn machines_beginning(&self, digits: &str) -> Result<Vec<MachineRecord>, Refusal> {
        // `g` comes behind every character of an id.
        let mut query =
            self.0.prepare_cached("SELECT document FROM machines WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id")?;
        let documents = query.query_map([digits], |row| row.get::<_, String>(0))?;
        documents.map(|document| Ok(serde_json::from_str(&document?)?)).collect()
    }

    /// Ids of the machines allocated with this image.
    pub fn machines_using_image(&self, image: &str) -> Result<Vec<String>, Refusal> {
        let mut query = self.0.prepare_cached("SELECT id FROM machines WHERE image_id = ?1 ORDER BY id")?;
        let ids = query.query_map([image], |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// Stores a machine, new or not.
    pub fn put_machine(&self, machine: &MachineRecord) -> Result<(), Refusal> {
        let document = serde_json::to_string(machine)?;
        let allocation = machine.allocation.as_ref();
        let image = allocation.map(|allocation| allocation.image.as_ref().map_or("", |image| image.id.as_str()));
        let project = allocation.map(|allocation| allocation.project.as_str());
        self.0
            .prepare_cached(
                "INSERT INTO machines (id, partition_id, size_id, waiting, image_id, project_id, document)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET partition_id = ?2, size_id = ?3, waiting = ?4, image_id = ?5,
                     project_id = ?6, document = ?7",
            )?
            .execute((&machine.id, &machine.partition, &machine.size, machine.waiting, image, project, document))?;
        self.0.prepare_cached("DELETE FROM nics WHERE machine_id = ?1")?.execute([&machine.id])?;
        let mut insert = self.0.prepare_cached("INSERT OR IGNORE INTO nics (mac, machine_id) VALUES (?1, ?2)")?;
        for nic in machine.hardware.nics.iter().filter(|nic| !nic.mac.is_empty()) {
            insert.execute((nic.mac.to_lowercase(), &machine.id))?;
        }
        Ok(())
    }
}
