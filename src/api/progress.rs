//! What the agent tells about phases, long steps, erased disks and plans beyond metal-stack's events.
//!
//! It travels in the message of `Alive` events: metal-api stores neither the event nor its message, so a server that
//! does not know this form is not disturbed. One line of `key=value` words after a marker:
//!
//! ```text
//! phase name=erase state=done start_ms=3201 took_ms=412
//! progress step=image done=104857600 total=330301440 rate=45000000 left_s=5
//! record kind=erase jws=eyJhbGciOiJFUzI1NiIs….eyJtYWNoaW5lIjoi….Tm90IGEgc2lnbmF0dXJl
//! ssh host_key=SHA256:uNiVztksCsDhcc0u9e8BrrJXVGDy8eoFUS6gZTeDcFg
//! ```

use serde::{Deserialize, Serialize};

use super::jws::Kind;

/// How a phase stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseState {
    Running,
    Done,
    /// Failed, and the agent went on by the phase's policy.
    Warned,
    Failed,
}

impl PhaseState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Warned => "warned",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Done, Self::Warned, Self::Failed].into_iter().find(|s| s.as_str() == text)
    }
}

/// One phase of the agent's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// One of design.md section 2; blanks are sent as `-`.
    pub name: String,
    pub state: PhaseState,
    /// Milliseconds since the agent's first line.
    pub start_ms: u64,
    /// Milliseconds; of a running phase, 0.
    pub took_ms: u64,
}

/// How far a long step is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// `image`, `erase`, …
    pub step: String,
    /// Bytes.
    pub done: u64,
    /// Bytes; absent when the source did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes a second.
    pub rate: u64,
    /// Seconds; absent when it can't be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

/// What is to be kept: an erase record, a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    /// The signed document, see [`super::jws`].
    pub jws: String,
}

/// Longer ones are neither sent nor kept: servers take messages of 4 MiB, and a plan of 60 disks has a tenth of it.
pub const RECORD_LIMIT: usize = 1 << 20;

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::EraseRecord => "erase",
        Kind::Plan => "plan",
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Phase(Phase),
    Progress(Progress),
    Record(Record),
    /// Fingerprint of the key that the agent's SSH server shows, as `ssh-keygen -l` prints it.
    SshHostKey(String),
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Phase(phase) => write!(
                f,
                "phase name={} state={} start_ms={} took_ms={}",
                phase.name.replace(' ', "-"),
                phase.state.as_str(),
                phase.start_ms,
                phase.took_ms
            ),
            Self::Progress(progress) => {
                write!(f, "progress step={} done={}", progress.step.replace(' ', "-"), progress.done)?;
                if let Some(total) = progress.total {
                    write!(f, " total={total}")?;
                }
                write!(f, " rate={}", progress.rate)?;
                match progress.left_s {
                    Some(left) => write!(f, " left_s={left}"),
                    None => Ok(()),
                }
            }
            Self::SshHostKey(fingerprint) => write!(f, "ssh host_key={fingerprint}"),
            Self::Record(record) => write!(f, "record kind={} jws={}", kind_word(record.kind), record.jws),
        }
    }
}

impl Note {
    /// `None` for every other text: an `Alive` event of another agent has no message or one for people.
    pub fn parse(message: &str) -> Option<Self> {
        let mut words = message.split_ascii_whitespace();
        let marker = words.next()?;
        let fields: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
        let text = |key: &str| fields.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let number = |key: &str| text(key).and_then(|v| v.parse::<u64>().ok());
        match marker {
            "phase" => Some(Self::Phase(Phase {
                name: text("name")?.to_owned(),
                state: PhaseState::parse(text("state")?)?,
                start_ms: number("start_ms")?,
                took_ms: number("took_ms")?,
            })),
            "progress" => Some(Self::Progress(Progress {
                step: text("step")?.to_owned(),
                done: number("done")?,
                total: number("total"),
                rate: number("rate")?,
                left_s: number("left_s"),
            })),
            "ssh" => Some(Self::SshHostKey(text("host_key").filter(|key| is_fingerprint(key))?.to_owned())),
            "record" => Some(Self::Record(Record {
                kind: [Kind::EraseRecord, Kind::Plan]
                    .into_iter()
                    .find(|kind| text("kind") == Some(kind_word(*kind)))?,
                jws: text("jws").filter(|jws| jws.len() <= RECORD_LIMIT)?.to_owned(),
            })),
            _ => None,
        }
    }
}

/// `SHA256:` and the digest in base64 without padding.
fn is_fingerprint(text: &str) -> bool {
    text.strip_prefix("SHA256:").is_some_and(|digest| {
        digest.len() == 43 && digest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive_the_wire() {
        let notes = [
            Note::Phase(Phase { name: "hand-over".into(), state: PhaseState::Done, start_ms: 5, took_ms: 7 }),
            Note::Progress(Progress { step: "image".into(), done: 1, total: Some(2), rate: 3, left_s: Some(4) }),
            Note::Progress(Progress { step: "image".into(), done: 1, total: None, rate: 3, left_s: None }),
            Note::Record(Record { kind: Kind::EraseRecord, jws: "eyJ9.a-_b.c".into() }),
            Note::Record(Record { kind: Kind::Plan, jws: "eyJ9.a.".into() }),
            Note::SshHostKey(format!("SHA256:{}", "a/+0".repeat(10) + "bcd")),
        ];
        for note in notes {
            assert_eq!(Note::parse(&note.to_string()), Some(note));
        }
    }

    #[test]
    fn other_messages_are_no_notes() {
        let long = format!("record kind=erase jws={}", "a".repeat(RECORD_LIMIT + 1));
        for message in [
            "",
            "still alive",
            "phase",
            "phase name=x state=odd start_ms=1 took_ms=1",
            "progress step=a done=-1",
            "record kind=odd jws=a.b.c",
            "record kind=erase",
            "ssh host_key=SHA256:short",
            "ssh",
            long.as_str(),
        ] {
            assert_eq!(Note::parse(message), None, "{}", message.len());
        }
    }
}
