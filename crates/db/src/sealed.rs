//! JSON with a checksum: `{"crc32":…,"record":{…}}`, the checksum over the exact text of the record.
//!
//! The text and not the value, because a number need not read back to the last bit and an order of keys may change.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// Version of the form of everything sealed; a field of every record.
pub(crate) const FORMAT_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    crc32: u32,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// Read before the rest of a record: another version may have other fields.
#[derive(Deserialize)]
struct Form {
    format_version: u32,
}

/// The bytes of a record.
pub(crate) fn seal(record: &impl Serialize) -> Result<Bytes> {
    let failed = |error: serde_json::Error| Error::Internal(format!("a record as JSON: {error}"));
    let record = serde_json::value::to_raw_value(record).map_err(failed)?;
    let sealed = Sealed {
        crc32: crc32(record.get().as_bytes()),
        record: &record,
    };
    Ok(serde_json::to_vec(&sealed).map_err(failed)?.into())
}

/// The record in the bytes, or what is wrong with them.
pub(crate) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = |error: serde_json::Error| error.to_string();
    let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(text)?;
    let found = crc32(sealed.record.get().as_bytes());
    if found != sealed.crc32 {
        return Err(format!("its checksum is {found}, and it says {}", sealed.crc32));
    }
    let form: Form = serde_json::from_str(sealed.record.get()).map_err(text)?;
    if form.format_version != FORMAT_VERSION {
        let version = form.format_version;
        return Err(format!(
            "it has format version {version}, and this release reads {FORMAT_VERSION}"
        ));
    }
    serde_json::from_str(sealed.record.get()).map_err(text)
}

/// CRC-32 (IEEE), the checksum of every file; the log's codec prescribes it.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    // The other half is empty: the algorithm has 32 bits.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}
