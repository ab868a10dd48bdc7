//! Who was admitted, and what admits: cards that are expected, tokens.

use rusqlite::OptionalExtension;
use time::OffsetDateTime;

use super::Tx;
use crate::anvil::enrolment::Enrolled;
use crate::anvil::machines::format_time;
use crate::anvil::refusal::Refusal;
use crate::api::enrolment::Standing;
use crate::api::mac::Mac;

impl Tx<'_> {
    /// How a machine stands; `None` when it never asked and nobody named it.
    pub fn enrolment(&self, machine: &str) -> Result<Option<Enrolled>, Refusal> {
        let document: Option<String> = self
            .0
            .prepare_cached("SELECT document FROM enrolments WHERE machine_id = ?1")?
            .query_row([machine], |row| row.get(0))
            .optional()?;
        Ok(document.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// All machines that asked or were named, ordered by id.
    pub fn enrolments(&self) -> Result<Vec<Enrolled>, Refusal> {
        let mut query = self.0.prepare_cached("SELECT document FROM enrolments ORDER BY machine_id")?;
        let documents = query.query_map([], |row| row.get::<_, String>(0))?;
        documents.map(|document| Ok(serde_json::from_str(&document?)?)).collect()
    }

    /// How many machines wait for an operator.
    pub fn pending_count(&self) -> Result<u32, Refusal> {
        let mut query = self.0.prepare_cached("SELECT count(*) FROM enrolments WHERE standing = ?1")?;
        Ok(query.query_row([Standing::Pending.as_str()], |row| row.get(0))?)
    }

    pub fn put_enrolment(&self, enrolled: &Enrolled) -> Result<(), Refusal> {
        let document = serde_json::to_string(enrolled)?;
        self.0
            .prepare_cached("INSERT OR REPLACE INTO enrolments (machine_id, standing, document) VALUES (?1, ?2, ?3)")?
            .execute((&enrolled.machine, enrolled.standing.as_str(), document))?;
        Ok(())
    }

    /// The machine with this card is admitted when it first asks.
    pub fn expect_mac(&self, mac: Mac, now: OffsetDateTime) -> Result<(), Refusal> {
        self.0
            .prepare_cached("INSERT OR REPLACE INTO expected_macs (mac, since) VALUES (?1, ?2)")?
            .execute((mac.to_string(), format_time(now)))?;
        Ok(())
    }

    /// Cards that are expected, with since when.
    pub fn expected_macs(&self) -> Result<Vec<(String, String)>, Refusal> {
        let mut query = self.0.prepare_cached("SELECT mac, since FROM expected_macs ORDER BY mac")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The card is not expected any more. Returns whether it was.
    pub fn take_expected_mac(&self, mac: Mac) -> Result<bool, Refusal> {
        let removed = self.0.prepare_cached("DELETE FROM expected_macs WHERE mac = ?1")?.execute([mac.to_string()])?;
        Ok(removed > 0)
    }

    /// Keeps a token by its digest.
    pub fn add_token(&self, digest: &str, machines: u32, expires: OffsetDateTime) -> Result<(), Refusal> {
        self.0
            .prepare_cached("INSERT INTO enrolment_tokens (digest, expires, machines) VALUES (?1, ?2, ?3)")?
            .execute((digest, expires.unix_timestamp(), machines))?;
        Ok(())
    }

    /// Takes one machine off a token. Returns whether it was good; tokens that are used up or ran out are forgotten.
    pub fn spend_token(&self, digest: &str, now: OffsetDateTime) -> Result<bool, Refusal> {
        self.0.prepare_cached("DELETE FROM enrolment_tokens WHERE expires <= ?1")?.execute([now.unix_timestamp()])?;
        let spent = self
            .0
            .prepare_cached("UPDATE enrolment_tokens SET machines = machines - 1 WHERE digest = ?1 AND machines > 0")?
            .execute([digest])?;
        self.0.prepare_cached("DELETE FROM enrolment_tokens WHERE machines = 0")?.execute([])?;
        Ok(spent > 0)
    }
}
