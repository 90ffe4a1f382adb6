//! JSON paths as the Qdrant API writes them: `a.b`, `a[].b`, `a[0].b`, `"quoted.key".b`.
//!
//! A bare key has letters, digits, `_` and `-`; any other key is quoted, and a quoted key has neither `"` nor `\`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

/// Most steps after the first key; bounds the recursion of everything that follows a path.
pub const MAX_STEPS: usize = 64;

/// Where values are in a payload: a top-level key and steps below it. Its text form reads back as the same path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JsonPath {
    first_key: String,
    steps: Vec<Step>,
}

/// One step into a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// `.key`: into an object.
    Key(String),
    /// `[3]`: one element of an array, counted from 0.
    Index(usize),
    /// `[]`: every element of an array.
    Each,
}

/// A text is not a JSON path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid json path: '{path}': {reason} at byte {offset}")]
pub struct PathError {
    /// The text.
    pub path: String,
    /// Where reading stopped, in bytes.
    pub offset: usize,
    /// What is wrong there.
    pub reason: PathErrorReason,
}

/// What is wrong with a JSON path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathErrorReason {
    /// Neither a bare nor a quoted key where one must be.
    #[error("expected a key (letters, digits, '_', '-', or anything else in double quotes)")]
    Key,
    /// A quoted key does not end, or has a backslash.
    #[error("expected the closing quote (a quoted key has no '\"' and no '\\')")]
    Quote,
    /// Brackets hold neither nothing nor an array position.
    #[error("expected '[]' or a position as in '[0]'")]
    Index,
    /// Something other than a step follows.
    #[error("expected '.' or '['")]
    Step,
    /// More than 64 steps.
    #[error("more than {MAX_STEPS} steps")]
    TooLong,
}

impl JsonPath {
    /// The top-level key.
    pub fn first_key(&self) -> &str {
        &self.first_key
    }

    /// The steps after the top-level key.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// This path with a final `[]`, which is added unless it is there.
    pub fn each(&self) -> Self {
        let mut path = self.clone();
        if path.steps.last() != Some(&Step::Each) {
            path.steps.push(Step::Each);
        }
        path
    }
}

impl FromStr for JsonPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let mut reader = Reader { text, offset: 0 };
        reader.path().map_err(|reason| PathError {
            path: text.to_owned(),
            offset: reader.offset,
            reason,
        })
    }
}

/// Reads a path from left to right; `offset` stands before what is read next.
struct Reader<'t> {
    text: &'t str,
    offset: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.offset += token.len();
        }
        found
    }

    fn path(&mut self) -> Result<JsonPath, PathErrorReason> {
        let first_key = self.key()?;
        let mut steps = Vec::new();
        while !self.rest().is_empty() {
            if steps.len() == MAX_STEPS {
                return Err(PathErrorReason::TooLong);
            }
            steps.push(self.step()?);
        }
        Ok(JsonPath { first_key, steps })
    }

    fn step(&mut self) -> Result<Step, PathErrorReason> {
        if self.take(".") {
            return self.key().map(Step::Key);
        }
        if self.take("[]") {
            return Ok(Step::Each);
        }
        if !self.take("[") {
            return Err(PathErrorReason::Step);
        }
        let digits = self
            .rest()
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap_or_default();
        let index = digits.parse().map_err(|_| PathErrorReason::Index)?;
        self.offset += digits.len();
        if self.take("]") {
            Ok(Step::Index(index))
        } else {
            Err(PathErrorReason::Index)
        }
    }

    fn key(&mut self) -> Result<String, PathErrorReason> {
        if self.take("\"") {
            let key = self.rest().split(['"', '\\']).next().unwrap_or_default();
            self.offset += key.len();
            return if self.take("\"") {
                Ok(key.to_owned())
            } else {
                Err(PathErrorReason::Quote)
            };
        }
        let key = self.rest().split(|c| !is_bare(c)).next().unwrap_or_default();
        if key.is_empty() {
            return Err(PathErrorReason::Key);
        }
        self.offset += key.len();
        Ok(key.to_owned())
    }
}

fn is_bare(character: char) -> bool {
    character.is_alphanumeric() || character == '_' || character == '-'
}

fn write_key(f: &mut fmt::Formatter<'_>, key: &str) -> fmt::Result {
    if !key.is_empty() && key.chars().all(is_bare) {
        f.write_str(key)
    } else {
        write!(f, "\"{key}\"")
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_key(f, &self.first_key)?;
        for step in &self.steps {
            match step {
                Step::Key(key) => {
                    f.write_str(".")?;
                    write_key(f, key)?;
                }
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Each => f.write_str("[]")?,
            }
        }
        Ok(())
    }
}

impl Serialize for JsonPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JsonPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
