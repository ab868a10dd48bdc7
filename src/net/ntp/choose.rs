//! Which of several answers to believe. Pure.

use std::time::Duration;

use thiserror::Error;

use super::ServerAnswer;
use super::ask::Protection;

/// A server is taken to be this uncertain at least, whatever it says: a clock that is off by so little is of no harm here,
/// and not setting it is (RFC 5905 calls it the step threshold).
const LEAST_DISTANCE: Duration = Duration::from_millis(128);

/// Why no time can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoChoice {
    #[error("no time server gave a usable answer")]
    NoAnswers,
    #[error("time servers disagree: {0}")]
    Disagree(String),
}

/// One answer alone is believed; of several a majority must agree. Each says that the true time is within its root
/// distance of what it tells, and those agree whose intervals share a moment (RFC 5905 section 11.2.1). Of them the least
/// uncertain is taken.
///
/// Where some answers prove who gave them, the others have no vote: whoever forges one of those forges all of them.
pub fn choose_answer(answers: &[ServerAnswer]) -> Result<&ServerAnswer, NoChoice> {
    let proven: Vec<&ServerAnswer> = answers.iter().filter(|answer| is_proven(answer)).collect();
    let voters = if proven.is_empty() { answers.iter().collect() } else { proven };
    if voters.is_empty() {
        return Err(NoChoice::NoAnswers);
    }
    let group = largest_group(&voters);
    if group.len() * 2 <= voters.len() {
        return Err(NoChoice::Disagree(describe(&voters)));
    }
    group.into_iter().min_by_key(|answer| answer.sample.root_distance).ok_or(NoChoice::NoAnswers)
}

fn is_proven(answer: &ServerAnswer) -> bool {
    match answer.protection {
        Protection::Nts => true,
        Protection::Plain { .. } => false,
    }
}

/// The most answers whose intervals share a moment; of equals the one that is earliest. The moment can be taken to be
/// where one of the intervals begins.
fn largest_group<'a>(answers: &[&'a ServerAnswer]) -> Vec<&'a ServerAnswer> {
    let mut moments: Vec<i128> = answers.iter().map(|answer| interval(answer).0).collect();
    moments.sort_unstable();
    let groups = moments.into_iter().map(|moment| {
        let holds = |answer: &&&ServerAnswer| (interval(answer).0..=interval(answer).1).contains(&moment);
        answers.iter().filter(holds).copied().collect::<Vec<_>>()
    });
    groups.fold(Vec::new(), |best, group| if group.len() > best.len() { group } else { best })
}

/// Within which the clock's error is, nanoseconds.
fn interval(answer: &ServerAnswer) -> (i128, i128) {
    let distance = answer.sample.root_distance.max(LEAST_DISTANCE).as_nanos();
    let distance = i128::try_from(distance).unwrap_or(i128::MAX / 4);
    (answer.sample.offset_ns - distance, answer.sample.offset_ns + distance)
}

fn describe(answers: &[&ServerAnswer]) -> String {
    let mut sorted = answers.to_vec();
    sorted.sort_by_key(|answer| answer.sample.offset_ns);
    let told: Vec<String> = sorted
        .iter()
        .map(|answer| format!("{} {:+.3} s", answer.server, answer.sample.offset_ns as f64 / 1e9))
        .collect();
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ntp::Sample;

    const PLAIN: Protection = Protection::Plain { why: None };
    const HOUR_MS: i128 = 3_600_000;

    /// Offset and root distance in milliseconds.
    fn answers(given: &[(i128, u64, Protection)]) -> Vec<ServerAnswer> {
        let answer = |(number, (offset_ms, distance_ms, protection)): (usize, &(i128, u64, Protection))| ServerAnswer {
            server: format!("ntp{number}"),
            address: ([10, 0, 0, 1], 123).into(),
            sample: Sample {
                offset_ns: offset_ms * 1_000_000,
                delay: Duration::ZERO,
                stratum: 2,
                root_distance: Duration::from_millis(*distance_ms),
            },
            protection: protection.clone(),
        };
        given.iter().enumerate().map(answer).collect()
    }

    fn chosen_ms(given: &[(i128, u64, Protection)]) -> Result<i128, NoChoice> {
        choose_answer(&answers(given)).map(|answer| answer.sample.offset_ns / 1_000_000)
    }

    fn exact_ms(offsets_ms: &[i128]) -> Result<i128, NoChoice> {
        chosen_ms(&offsets_ms.iter().map(|offset| (*offset, 0, PLAIN)).collect::<Vec<_>>())
    }

    #[test]
    fn the_majority_outvotes_a_liar() {
        assert_eq!(exact_ms(&[100, HOUR_MS, 200]), Ok(100));
        assert_eq!(exact_ms(&[-90_000, 300, 200, 250, HOUR_MS]), Ok(300));
    }

    #[test]
    fn one_server_alone_is_believed() {
        assert_eq!(exact_ms(&[HOUR_MS]), Ok(HOUR_MS));
    }

    #[test]
    fn without_a_majority_nothing_is_chosen() {
        assert_eq!(exact_ms(&[2_000, 0]), Err(NoChoice::Disagree("ntp1 +0.000 s, ntp0 +2.000 s".into())));
        assert!(matches!(exact_ms(&[0, 10, 5_000, 5_010]), Err(NoChoice::Disagree(_))));
        assert_eq!(exact_ms(&[]), Err(NoChoice::NoAnswers));
    }

    #[test]
    fn servers_agree_as_far_as_they_say_themselves_that_they_may_be_wrong() {
        assert_eq!(chosen_ms(&[(0, 900, PLAIN), (1_000, 200, PLAIN)]), Ok(1_000), "the less uncertain is taken");
        assert!(matches!(chosen_ms(&[(0, 200, PLAIN), (1_000, 200, PLAIN)]), Err(NoChoice::Disagree(_))));
        assert_eq!(exact_ms(&[0, 250]), Ok(0), "claims of being exact are not believed beyond 128 ms");
    }

    #[test]
    fn those_in_the_middle_hold_the_ends_together_only_when_all_share_a_moment() {
        // Each of the outer ones agrees with the middle one, but not with the other: two of three are a majority.
        let chain = [(0, 400, PLAIN), (700, 390, PLAIN), (1_400, 400, PLAIN)];
        assert_eq!(chosen_ms(&chain), Ok(700));
        // Of four in a chain, no three share a moment.
        let chain = [(0, 300, PLAIN), (500, 300, PLAIN), (1_000, 300, PLAIN), (1_500, 300, PLAIN)];
        assert!(matches!(chosen_ms(&chain), Err(NoChoice::Disagree(_))));
    }

    #[test]
    fn who_proves_his_answer_is_not_outvoted_by_those_who_do_not() {
        let nts = || Protection::Nts;
        assert_eq!(chosen_ms(&[(HOUR_MS, 1, PLAIN), (HOUR_MS, 1, PLAIN), (5, 50, nts())]), Ok(5));
        let two = [(0, 1, nts()), (HOUR_MS, 1, nts()), (0, 1, PLAIN)];
        assert!(matches!(chosen_ms(&two), Err(NoChoice::Disagree(_))));
    }
}
