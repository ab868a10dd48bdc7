//! How anvil says no: one variant per kind of answer, with a sentence for the person who asked.

/// Why a call was not done. REST maps the variants to status codes, gRPC sends the text with code `Unknown`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request itself is wrong.
    #[error("{0}")]
    BadRequest(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// What the request names is not there.
    #[error("{0}")]
    NotFound(String),
    /// It is there already, or changed meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// The request is well formed, but can't be done as things stand.
    #[error("{0}")]
    Unprocessable(String),
    /// A fault of the server's own: database, disk.
    #[error("{0:#}")]
    Internal(anyhow::Error),
}

impl Refusal {
    /// The HTTP status of this kind of refusal.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Forbidden(_) => 403,
            Self::NotFound(_) => 404,
            Self::Conflict(_) => 409,
            Self::Unprocessable(_) => 422,
            Self::Internal(_) => 500,
        }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Internal(anyhow::Error::new(error).context("using the database"))
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Self::Internal(anyhow::Error::new(error).context("reading or writing a stored document"))
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Internal(error.into())
    }
}
