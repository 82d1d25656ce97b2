//! What is wrong with a document, and where.

/// A document that is not a policy of its kind. Displayed, it is the message of
/// `MalformedPolicyDocumentException`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct PolicyError {
    /// The place, for example `Statement[2].Condition.DateLessThan.aws:CurrentTime`; `Policy` for
    /// the document as a whole.
    pub path: String,
    /// What is wrong there, a sentence without its full stop.
    pub reason: String,
}

impl PolicyError {
    pub(crate) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}
