//! Which of several answers to believe. Pure.

use thiserror::Error;

use super::ServerAnswer;

/// Answers this close to each other agree.
const AGREEMENT_NS: i128 = 1_000_000_000;

/// Why no time can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoChoice {
    #[error("no time server gave a usable answer")]
    NoAnswers,
    #[error("time servers disagree: {0}")]
    Disagree(String),
}

/// The median of the largest group that agrees. One answer alone is believed; of several a majority must agree.
pub fn choose_answer(answers: &[ServerAnswer]) -> Result<&ServerAnswer, NoChoice> {
    let mut sorted: Vec<&ServerAnswer> = answers.iter().collect();
    sorted.sort_by_key(|answer| answer.sample.offset_ns);
    let group = largest_group(&sorted);
    if group.is_empty() {
        return Err(NoChoice::NoAnswers);
    }
    if group.len() * 2 <= sorted.len() {
        return Err(NoChoice::Disagree(describe(&sorted)));
    }
    group.get((group.len() - 1) / 2).copied().ok_or(NoChoice::NoAnswers)
}

/// The longest run of sorted answers whose ends are less than [`AGREEMENT_NS`] apart; of equals the first.
fn largest_group<'a, 'b>(sorted: &'b [&'a ServerAnswer]) -> &'b [&'a ServerAnswer] {
    let mut best: &[&ServerAnswer] = &[];
    for start in 0..sorted.len() {
        let Some(run) = sorted.get(start..) else { continue };
        let Some(first) = run.first() else { continue };
        let limit = first.sample.offset_ns + AGREEMENT_NS;
        let len = run.iter().take_while(|answer| answer.sample.offset_ns <= limit).count();
        if len > best.len() {
            best = run.get(..len).unwrap_or_default();
        }
    }
    best
}

fn describe(answers: &[&ServerAnswer]) -> String {
    let told: Vec<String> = answers
        .iter()
        .map(|answer| format!("{} {:+.3} s", answer.server, answer.sample.offset_ns as f64 / 1e9))
        .collect();
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::ntp::Sample;

    fn answers(offsets_ms: &[i128]) -> Vec<ServerAnswer> {
        let answer = |(number, offset): (usize, &i128)| ServerAnswer {
            server: format!("ntp{number}"),
            address: ([10, 0, 0, 1], 123).into(),
            sample: Sample {
                offset_ns: offset * 1_000_000,
                delay: Duration::ZERO,
                stratum: 2,
                root_distance: Duration::ZERO,
            },
        };
        offsets_ms.iter().enumerate().map(answer).collect()
    }

    fn chosen_ms(offsets_ms: &[i128]) -> Result<i128, NoChoice> {
        choose_answer(&answers(offsets_ms)).map(|answer| answer.sample.offset_ns / 1_000_000)
    }

    #[test]
    fn the_majority_outvotes_a_liar() {
        assert_eq!(chosen_ms(&[100, 3_600_000, 200]), Ok(100));
        assert_eq!(chosen_ms(&[-90_000, 100, 300, 200, 3_600_000]), Ok(200));
    }

    #[test]
    fn one_server_alone_is_believed() {
        assert_eq!(chosen_ms(&[3_600_000]), Ok(3_600_000));
    }

    #[test]
    fn without_a_majority_nothing_is_chosen() {
        assert_eq!(chosen_ms(&[0, 2_000]), Err(NoChoice::Disagree("ntp0 +0.000 s, ntp1 +2.000 s".into())));
        assert!(matches!(chosen_ms(&[0, 10, 5_000, 5_010]), Err(NoChoice::Disagree(_))));
        assert_eq!(chosen_ms(&[]), Err(NoChoice::NoAnswers));
    }

    #[test]
    fn two_that_agree_are_enough() {
        assert_eq!(chosen_ms(&[900, 100]), Ok(100));
    }
}
