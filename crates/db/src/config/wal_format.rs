//! The names of the log's file formats. What their bytes are is the log's; a configuration only names one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the files of the write-ahead log are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalFormat {
    /// Avro object container files, which stock readers open.
    #[default]
    Avro,
    /// Records in bincode's wire format.
    Bincode,
}

impl WalFormat {
    /// Every format, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::Avro, Self::Bincode];

    /// The exact name used in configurations, and the ending of the files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Avro => "avro",
            Self::Bincode => "bincode",
        }
    }
}

impl fmt::Display for WalFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is not the exact name of a log format; the message lists the names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format `{name}`: choose {}", WalFormat::ALL.map(WalFormat::name).join(", "))]
pub struct UnknownWalFormat {
    name: String,
}

impl FromStr for WalFormat {
    type Err = UnknownWalFormat;

    fn from_str(text: &str) -> Result<Self, UnknownWalFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| UnknownWalFormat { name: text.to_owned() })
    }
}
