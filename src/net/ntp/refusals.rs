//! Servers that do not want to be asked (RFC 5905 section 7.4).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// After the first `RATE`; the shortest interval of polling that the protocol knows is half of it. Doubled each time.
const REST: Duration = Duration::from_secs(128);
/// A day.
const LONGEST_REST: Duration = Duration::from_secs(86_400);

const RATE: &str = "RATE";

/// Other codes of a kiss-o'-death say how the server is, and not that it minds being asked.
pub(super) fn is_refusal(code: &str) -> bool {
    [RATE, "DENY", "RSTR"].contains(&code)
}

/// Who refused, by the text of the configuration.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<String, Refusal>);

#[derive(Clone, Debug)]
struct Refusal {
    code: String,
    rest: Duration,
    /// `None`: for ever.
    until: Option<Instant>,
}

impl Refusals {
    /// Remembers a kiss-o'-death.
    pub(super) fn note(&mut self, server: &str, code: &str, now: Instant) {
        let before = self.0.get(server).map(|refusal| refusal.rest);
        let rest = before.map_or(REST, |rest| (rest * 2).min(LONGEST_REST));
        if !is_refusal(code) {
            return;
        }
        let until = (code == RATE).then(|| now + rest);
        self.0.insert(server.to_owned(), Refusal { code: code.to_owned(), rest, until });
    }

    /// The code with which a server refused that is to be left alone for now.
    pub(super) fn find(&self, server: &str, now: Instant) -> Option<&str> {
        let refusal = self.0.get(server)?;
        refusal.until.is_none_or(|until| now < until).then_some(refusal.code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_says_rate_rests_longer_each_time_and_one_that_denies_for_ever() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        refusals.note("ntp1", "RATE", start);
        assert_eq!(refusals.find("ntp1", after(127)), Some("RATE"));
        assert_eq!(refusals.find("ntp1", after(128)), None);
        refusals.note("ntp1", "RATE", after(128));
        assert_eq!(refusals.find("ntp1", after(128 + 255)), Some("RATE"));
        assert_eq!(refusals.find("ntp1", after(128 + 256)), None);
        refusals.note("ntp2", "DENY", start);
        assert_eq!(refusals.find("ntp2", after(1_000_000)), Some("DENY"));
        refusals.note("ntp3", "INIT", start);
        assert_eq!(refusals.find("ntp3", start), None, "it has no time yet, and may be asked again");
    }
}
