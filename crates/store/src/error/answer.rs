//! What the answer of a bucket's service says: the kind of the error, and one sentence with what to do.
//!
//! Answers repeat key ids, signed texts and signatures; so only the status, the error code and the host are taken from them.

use object_store::Error as E;
use object_store::client::{HttpError, HttpErrorKind};

use super::{StoreError, cause, detail};
use crate::url::{Scheme, StorageUrl};

/// The error of a failed request to a bucket.
pub(super) fn of_bucket(url: &StorageUrl, path: &str, error: &E) -> StoreError {
    let text = error.to_string();
    let code = code(&text);
    if let Some(error) = by_code(url, path, &text, code) {
        return error;
    }
    let at = |reason: String| detail(url, path, reason);
    match error {
        E::NotFound { .. } => StoreError::NotFound(at("no such file".to_owned())),
        E::PermissionDenied { .. } => StoreError::Denied(at(format!(
            "permission denied (403{}): {}",
            listed(code),
            credentials(url)
        ))),
        E::Unauthenticated { .. } => StoreError::Denied(at(format!(
            "credentials missing or refused (401{}): {}",
            listed(code),
            credentials(url)
        ))),
        E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::InvalidPath { .. }
        | E::UnknownConfigurationKey { .. } => StoreError::Config(at(redact(&text))),
        E::Generic { source, .. } => StoreError::Unavailable(at(unanswered(source.as_ref(), &text, code))),
        _ => StoreError::Io(at(redact(&text))),
    }
}

/// Errors that the code alone decides, whatever the status.
fn by_code(url: &StorageUrl, path: &str, text: &str, code: Option<&str>) -> Option<StoreError> {
    let noun = if url.scheme() == Scheme::Adls {
        "container"
    } else {
        "bucket"
    };
    let at = |reason: String| detail(url, path, reason);
    // S3 answers a wrong region by a redirect without a target, or by a code.
    if text.contains("redirect without LOCATION") {
        return Some(StoreError::Denied(at(wrong_region(noun))));
    }
    let code = code?;
    Some(match code {
        // A file of a bucket that is missing is not a missing file: nothing was looked at.
        "NoSuchBucket" | "ContainerNotFound" | "FilesystemNotFound" => StoreError::Unavailable(at(format!(
            "the {noun} does not exist ({code}): create it, or correct the URL"
        ))),
        "ContainerBeingDeleted" | "AccountIsDisabled" => {
            StoreError::Unavailable(at(format!("the {noun} cannot be used now ({code})")))
        }
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
            StoreError::Denied(at(format!("{} ({code})", wrong_region(noun))))
        }
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "AuthenticationFailed"
        | "AuthenticationRequired"
        | "InvalidToken"
        | "ExpiredToken"
        | "NoAuthenticationInformation" => StoreError::Denied(at(format!(
            "the credentials are refused ({code}): {}",
            credentials(url)
        ))),
        "RequestTimeTooSkewed" => StoreError::Denied(at(format!(
            "the clock of this machine is wrong ({code}): set it, signatures depend on it"
        ))),
        // A refused listing has no error of its own kind in the library.
        "AccessDenied" | "AuthorizationFailure" | "AuthorizationPermissionMismatch" => StoreError::Denied(at(format!(
            "permission denied (403{}): {}",
            listed(Some(code)),
            credentials(url)
        ))),
        "SlowDown" | "TooManyRequests" | "ServerBusy" => {
            StoreError::Unavailable(at(format!("the service asks for fewer requests ({code})")))
        }
        _ => return None,
    })
}

fn wrong_region(noun: &str) -> String {
    format!("the {noun} is in another region than the requests name: give its `region` in storage.credentials")
}

fn credentials(url: &StorageUrl) -> String {
    format!(
        "check the variables that [storage.credentials.\"{url}\"] (or a shorter prefix) names, or those of the environment"
    )
}

/// Why there was no good answer.
fn unanswered(source: &(dyn std::error::Error + 'static), text: &str, code: Option<&str>) -> String {
    let host = text.split(' ').find_map(host_of).unwrap_or_default();
    match cause::<HttpError>(source).map(HttpError::kind) {
        Some(HttpErrorKind::Connect) => {
            format!("{host} cannot be reached: check the endpoint and the network")
        }
        Some(HttpErrorKind::Timeout) => format!("{host} did not answer in time"),
        Some(_) => format!("{host} broke off the answer"),
        None => match (status(text), code) {
            (Some(status), code) => format!("{host} answers {status}{}", listed(code)),
            (None, _) => redact(text),
        },
    }
}

fn listed(code: Option<&str>) -> String {
    code.map(|code| format!(", {code}")).unwrap_or_default()
}

/// The error code in an XML answer: one word.
fn code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let plain = !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then_some(code)
}

/// The status in the library's message.
fn status(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)
        .filter(|status| status.bytes().all(|b| b.is_ascii_digit()))
}

/// Scheme and host of a word that is a URL.
fn host_of(word: &str) -> Option<String> {
    let (scheme, rest) = word.split_once("://")?;
    let host = rest.split(['/', '?']).next()?;
    (scheme.starts_with("http") && !host.contains('@')).then(|| format!("{scheme}://{host}"))
}

/// Cuts the query of every URL in a message: Azure's and presigned URLs carry their signature there. Bodies of answers
/// are cut too.
pub fn redact(text: &str) -> String {
    let text = text.split_once('<').map_or(text, |(head, _)| head);
    text.split(' ')
        .map(|word| match word.split_once('?') {
            Some((head, _)) if head.contains("://") => format!("{head}?…"),
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn generic(text: &str) -> StoreError {
        let url = StorageUrl::parse("adls://a.dfs.core.windows.net/c/").unwrap();
        let source = text.into();
        StoreError::from_object_store(&url, "x", &E::Generic { store: "Azure", source })
    }

    #[test]
    fn messages_name_root_and_path_and_carry_no_signature() {
        let error = generic(
            "GET https://a.blob.core.windows.net/c/x?sig=hunter2 status code: 500 Oops: <Error><Key>hunter2</Key><Code>InternalError</Code>",
        );
        assert_eq!(
            error.to_string(),
            "adls://a.dfs.core.windows.net/c/x: unavailable: https://a.blob.core.windows.net answers 500, InternalError"
        );
        let error = generic("GET https://k:hunter2@host/c/x?sig=hunter2 failed <Key>hunter2</Key>");
        assert!(!error.to_string().contains("sig=hunter2"), "{error}");
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_file() {
        let url = StorageUrl::parse("s3://b/p").unwrap();
        let source = "404: <Error><Code>NoSuchBucket</Code>".into();
        let path = "x".to_owned();
        let error = StoreError::from_object_store(&url, "x", &E::NotFound { path, source });
        assert!(error.is_unavailable(), "{error}");
        assert!(error.to_string().contains("the bucket does not exist"), "{error}");
    }

    #[test]
    fn a_code_is_one_word_or_nothing() {
        assert_eq!(code("<Error><Code>SlowDown</Code>"), Some("SlowDown"));
        assert_eq!(code("<Code>AKIA secret</Code>"), None);
        assert_eq!(code("<Code></Code>"), None);
    }
}
