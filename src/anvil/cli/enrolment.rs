//! `anvil machine admit`, `revoke`, `pending` and `token`.

use anyhow::Result;
use clap::Args;

use super::connection::segment;
use super::{Format, print_json, table};
use crate::anvil::client::Client;
use crate::api::enrolment::{Enrolment, NewToken, Standing, TokenRequest};

#[derive(Args)]
pub(super) struct Token {
    /// How many machines it admits
    #[arg(long, default_value_t = 1)]
    machines: u32,
    /// For how long, such as 90s, 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_seconds)]
    expires: u32,
}

pub(super) async fn admit(client: &Client, name: &str, format: Format) -> Result<()> {
    let path = format!("/v1/enrolment/{}/admit", segment(name));
    print(&[client.post(&path, &serde_json::json!({})).await?], format)
}

pub(super) async fn revoke(client: &Client, name: &str, format: Format) -> Result<()> {
    let path = format!("/v1/enrolment/{}/revoke", segment(name));
    print(&[client.post(&path, &serde_json::json!({})).await?], format)
}

pub(super) async fn list(client: &Client, all: bool, format: Format) -> Result<()> {
    let mut found: Vec<Enrolment> = client.get("/v1/enrolment").await?;
    found.retain(|entry| all || entry.standing == Standing::Pending);
    print(&found, format)
}

pub(super) async fn make_token(client: &Client, token: &Token, format: Format) -> Result<()> {
    let request = TokenRequest { machines: token.machines, seconds: token.expires };
    let made: NewToken = client.post("/v1/enrolment-token", &request).await?;
    match format {
        Format::Json => print_json(&made),
        // Alone on its line, so that a script can take it.
        Format::Table => super::print(&made.token),
    }
}

fn print(entries: &[Enrolment], format: Format) -> Result<()> {
    if format == Format::Json {
        return print_json(&entries);
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            vec![
                entry.machine.clone(),
                entry.standing.as_str().to_owned(),
                entry.since.clone(),
                entry.how.clone(),
                entry.asked.clone().unwrap_or_default(),
                entry.from.clone().unwrap_or_default(),
                entry.macs.join(" "),
            ]
        })
        .collect();
    table::print(&["MACHINE", "ENROLMENT", "SINCE", "BY", "LAST ASKED", "FROM", "MACS"], &rows)
}

/// A number and its unit.
fn parse_seconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("expected a number and s, m, h or d, such as 1h; found {text:?}");
    let factor = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 60 * 60,
        Some('d') => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number = text.get(..text.len() - 1).and_then(|number| number.parse::<u32>().ok()).ok_or_else(wrong)?;
    number.checked_mul(factor).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(parse_seconds(text), Ok(seconds));
        }
        for text in ["", "5", "h", "-1h", "1 h", "1y", "4294967295d", "1ö"] {
            assert!(parse_seconds(text).unwrap_err().contains("such as 1h"), "{text}");
        }
    }
}
