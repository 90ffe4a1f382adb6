//! What a path below a root may look like.

/// A relative path of plain names.
pub(super) fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.starts_with('/') {
        return Err("a path is relative to its root and not empty");
    }
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) || path.contains(['\\', '\0']) {
        return Err("`.`, `..`, empty segments and backslashes are not allowed in a path");
    }
    Ok(())
}

/// Whether a name is the staging name of a local write: `<name>#<digits>`.
pub(super) fn is_staging(path: &str) -> bool {
    path.rsplit_once('#')
        .is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
