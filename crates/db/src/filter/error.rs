//! What is wrong with a filter, and where.

use std::fmt;

use serde_json::Value;

use crate::payload::JsonPath;

/// A JSON value is not a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// Where in the filter, as in `must[0].range.gte`; empty for the filter itself.
    pub position: String,
    /// The payload field of the innermost condition, if it is on one.
    pub field: Option<String>,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("filter")?;
        if !self.position.is_empty() {
            let dot = if self.position.starts_with('[') { "" } else { "." };
            write!(f, "{dot}{}", self.position)?;
        }
        if let Some(field) = &self.field {
            write!(f, " (field `{field}`)")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for FilterError {}

impl FilterError {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self {
            position: String::new(),
            field: None,
            problem: problem.into(),
        }
    }

    pub(super) fn expected(what: &str, got: &Value) -> Self {
        /// Longest part of a wrong value that a message repeats, in characters.
        const SHOWN: usize = 80;
        let text = got.to_string();
        let shown: String = text.chars().take(SHOWN).collect();
        let dots = if shown.len() < text.len() { "…" } else { "" };
        Self::new(format!("expected {what}, got {shown}{dots}"))
    }

    /// The same error seen from the value around: `segment` is a key or `[position]`.
    pub(super) fn inside(mut self, segment: &str) -> Self {
        let dot = if self.position.is_empty() || self.position.starts_with('[') {
            ""
        } else {
            "."
        };
        self.position = format!("{segment}{dot}{}", self.position);
        self
    }

    pub(super) fn on_field(mut self, field: &JsonPath) -> Self {
        self.field.get_or_insert_with(|| field.to_string());
        self
    }
}
