//! JSON values: any store holds them as their text.

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// Typed values on any [`Store`]. JSON's `null` is a value like any other, and not a missing key.
#[async_trait]
pub trait JsonStore: Store {
    /// The value of the key, or `None` when it does not exist.
    ///
    /// # Errors
    /// Those of [`Store::get`]; [`ErrorKind::Invalid`] when the value is no such JSON.
    async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&value)
            .map(Some)
            .map_err(|error| invalid(self, key, &error))
    }

    /// Sets the value.
    ///
    /// # Errors
    /// Those of [`Store::set`]; [`ErrorKind::Invalid`] when the value has no JSON text.
    async fn set_json<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<()> {
        let text = serde_json::to_vec(value).map_err(|error| invalid(self, key, &error))?;
        self.set(key, text.into()).await
    }
}

impl<S: Store + ?Sized> JsonStore for S {}

fn invalid<S: Store + ?Sized>(store: &S, key: &str, error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Invalid, store.url(), key, format!("as JSON: {error}"))
}
