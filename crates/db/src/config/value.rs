//! Values of keys: what each kind accepts, and how the text of an environment variable becomes one.
//!
//! Messages repeat a value only where it can hold no secret; someone will paste a key where a variable's name belongs.

use std::net::SocketAddr;

use toml::Value;

use super::keys::{Form, Kind};
use super::{DistributionStrategy, policies};

impl Kind {
    /// Accepts a value of this kind, or says what was expected.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        match (self, value) {
            (Self::Boolean, Value::Boolean(_)) | (Self::Text, Value::String(_)) => Ok(()),
            (Self::Integer { min, max }, Value::Integer(number)) if (min..=max).contains(number) => Ok(()),
            (Self::Weight, Value::Float(number)) if *number > 0.0 && number.is_finite() => Ok(()),
            (Self::Weight, Value::Integer(number)) if *number > 0 => Ok(()),
            (Self::Cost, Value::Float(number)) if *number >= 0.0 && number.is_finite() => Ok(()),
            (Self::Cost, Value::Integer(number)) if *number >= 0 => Ok(()),
            (Self::Word(words), Value::String(text)) if words.contains(&text.as_str()) => Ok(()),
            (Self::Groups, value) if policies::is_groups(value) => Ok(()),
            (Self::Address, Value::String(text)) if text.parse::<SocketAddr>().is_ok() => Ok(()),
            (Self::Variable, Value::String(text)) if is_variable_name(text) => Ok(()),
            (Self::Strategy, Value::String(text)) => text
                .parse::<DistributionStrategy>()
                .map(|_| ())
                .map_err(|e| format!(": {e}")),
            (Self::Urls { what }, Value::Array(items)) if items.is_empty() => {
                Err(format!(" is an empty list: No {what} URLs configured"))
            }
            (Self::Urls { .. }, Value::Array(items)) if items.iter().all(Value::is_str) => Ok(()),
            (Self::Variable | Self::Urls { .. }, _) => Err(format!(" must be {}", self.expected())),
            _ => Err(format!(" must be {}, but is {value}", self.expected())),
        }
    }

    /// The value that the text of an environment variable stands for. What does not fit is left to [`Kind::check`].
    pub(super) fn parse(self, text: &str, form: Form) -> Value {
        let as_text = || Value::String(text.to_owned());
        match self {
            Self::Boolean => text.parse().map_or_else(|_| as_text(), Value::Boolean),
            Self::Integer { .. } => text.parse().map_or_else(|_| as_text(), Value::Integer),
            Self::Weight | Self::Cost => text.parse().map_or_else(|_| as_text(), Value::Float),
            Self::Groups => toml_value(text),
            Self::Urls { .. } if form == Form::Same => parse_list(text),
            Self::Address | Self::Variable | Self::Text | Self::Word(_) | Self::Strategy | Self::Urls { .. } => {
                as_text()
            }
        }
    }

    /// The type and limits in words.
    pub(super) fn expected(self) -> String {
        match self {
            Self::Address => "an IP address and port such as \"127.0.0.1:6333\"".to_owned(),
            Self::Variable => "the name of an environment variable, never the secret itself".to_owned(),
            Self::Text => "a string".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { min, max: i64::MAX } => format!("a whole number of at least {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Weight => "a number above 0".to_owned(),
            Self::Cost => "a number of at least 0".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Groups => "a list of groups, each with two or more of wal, viper, lsm, index, metadata".to_owned(),
            Self::Strategy => "the name of a strategy".to_owned(),
            Self::Urls { .. } => "a list of URLs".to_owned(),
        }
    }
}

/// Whether a shell could set a variable of this name.
fn is_variable_name(text: &str) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A list in an environment variable: a TOML array, or URLs with commas between them.
fn parse_list(text: &str) -> Value {
    if text.trim_start().starts_with('[') {
        return toml_value(text);
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
}

/// A TOML value, or the text itself when it is none.
fn toml_value(text: &str) -> Value {
    let document = format!("value = {text}").parse::<toml::Table>();
    let value = document.ok().and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}
