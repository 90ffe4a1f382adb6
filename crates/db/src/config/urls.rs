//! Which URLs a component has when it has no list of its own, and what makes a URL or a set of lists wrong.
//!
//! URLs are strings here and stay byte-identical. Whether the roots behind them are what they should be
//! (nested, foreign, unmounted) is found out when they are opened.

use std::env;

use proximadb_store::url::{Overlap, StorageUrl, compare};

use crate::error::{Error, Result};

/// The directory, below the working directory, that holds everything when nothing is configured.
const DATA_DIRECTORY: &str = "proximadb-data";

/// The URL of the data directory that is used when no URL is configured at all.
pub(super) fn data_directory() -> Result<String> {
    let current = env::current_dir().map_err(|e| Error::Config(format!("cannot find the working directory: {e}")))?;
    let Some(path) = current.to_str() else {
        let problem = "the name of the working directory is not UTF-8: configure [storage] urls";
        return Err(Error::Config(problem.to_owned()));
    };
    Ok(join(&format!("file://{path}"), DATA_DIRECTORY))
}

/// `<url>/<name>`, with one slash between them.
pub(super) fn join(url: &str, name: &str) -> String {
    // The slashes of an empty path ("file:///") belong to the scheme.
    let root = url.trim_end_matches('/');
    if root.ends_with(':') {
        format!("{root}///{name}")
    } else {
        format!("{root}/{name}")
    }
}

/// Whether a URL lies at or below a prefix. The prefix ends at a slash: `s3://logs` does not cover `s3://logs-old`.
pub(super) fn covers(prefix: &str, url: &str) -> bool {
    let rest = url.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Refuses a URL that names the same place as another, or a place inside it: a root belongs to one component.
/// Compares the texts only; links between directories are found when the roots are opened.
pub(super) fn check_apart(lists: &[(&str, &[String])]) -> Result<()> {
    let mut seen: Vec<(&str, &str, String)> = Vec::new();
    for (component, urls) in lists {
        for url in *urls {
            let place = StorageUrl::parse(url)
                .map_err(|problem| Error::Config(format!("{component}: {problem}")))?
                .lexical();
            for (other_component, other, other_place) in &seen {
                let components = format!("in {other_component} and {component}: each component needs roots of its own");
                match compare(&place, other_place) {
                    Overlap::Apart => {}
                    Overlap::Same if component == other_component => {
                        return Err(Error::Config(format!("duplicate URL `{url}` in {component}")));
                    }
                    Overlap::Same => return Err(Error::Config(format!("duplicate URL `{url}` {components}"))),
                    Overlap::Nested => {
                        return Err(Error::Config(format!(
                            "URLs `{other}` and `{url}` lie in one another, {components}"
                        )));
                    }
                }
            }
            seen.push((component, url, place));
        }
    }
    Ok(())
}
