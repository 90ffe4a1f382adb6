//! Points in time in payloads and filters.

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

/// Longest text that is tried as a date; keeps the formats away from long strings.
const MAX_TEXT_BYTES: usize = 64;

/// A point in time, in microseconds since 1970 UTC; finer parts are cut off, as Qdrant's index does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datetime(pub i64);

impl Datetime {
    /// Reads RFC 3339, also with a space for the `T`, an offset without colon or minutes, no offset (UTC), no seconds, or
    /// a date alone (midnight UTC). Anything else is no date.
    pub fn parse(text: &str) -> Option<Self> {
        // Most strings of a payload are no dates: the first byte tells without trying seven formats.
        let starts_like_a_year = text.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-');
        if !starts_like_a_year || text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let with_offset = || {
            DateTime::parse_from_rfc3339(text)
                .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%#z"))
                .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"))
                .map(|datetime| datetime.to_utc())
        };
        let without_offset = || {
            NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
                .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
                .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M"))
                .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M"))
                .or_else(|_| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(NaiveDateTime::from))
                .map(|datetime| datetime.and_utc())
        };
        let datetime: DateTime<Utc> = with_offset().or_else(|_| without_offset()).ok()?;
        Some(Self(datetime.timestamp_micros()))
    }
}

impl Serialize for Datetime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match DateTime::from_timestamp_micros(self.0) {
            Some(datetime) => serializer.serialize_str(&datetime.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => Err(serde::ser::Error::custom("the point in time is outside the calendar")),
        }
    }
}
