//! What somebody would be asked though nobody named it.

use std::fmt;

/// A server in the installed system's configuration that nobody named, or a way by which it may get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// A file names it.
    Named { file: String, server: String },
    /// A program takes whatever DHCP or router advertisements name.
    FromNetwork { file: String, what: &'static str },
}

/// For [`Stranger::FromNetwork`].
pub(super) const NAME_SERVERS: &str = "name servers";
pub(super) const TIME_SERVERS: &str = "time servers";

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { file, server } => write!(f, "{file} names {server}, which is not configured"),
            Self::FromNetwork { file, what } => {
                write!(f, "{file} takes {what} from the network beside those configured")
            }
        }
    }
}

/// Those of `found` that are not `configured`.
pub(super) fn named(file: &str, found: Vec<String>, configured: &[String]) -> Vec<Stranger> {
    let unknown = found.into_iter().filter(|server| !configured.contains(server));
    unknown.map(|server| Stranger::Named { file: file.to_owned(), server }).collect()
}

pub(super) fn from_network(file: &str, what: &'static str) -> Stranger {
    Stranger::FromNetwork { file: file.to_owned(), what }
}
