//! Keys and namespaces as object names.
//!
//! ```text
//! <namespace>/<nested namespace>/=keys/<key>!/<version, 20 digits>
//! ```
//!
//! Letters, digits, `-`, `.` and `_` stand for themselves; every other byte is `=` and two hexadecimal digits, and so is a
//! dot at the beginning: no name is `.` or `..`, and no two texts have the same name. `=keys` is no escaped text, so no
//! namespace is taken for the keys. `!` sorts before all that may stand in a name, so keys sort by their escaped text.
//! A long key is cut into segments of at most 200 bytes, all but the last ending in `=`.

use std::fmt::Write;

use object_store::path::Path;

/// Directory of the keys of a namespace.
const KEYS: &str = "=keys";
/// Ends the name of a key.
const END: char = '!';
/// Ends a segment of a key that goes on.
const CONTINUED: char = '=';
/// Longest segment: file systems allow 255 bytes for a name, with the staging suffix of a local write.
const MAX_SEGMENT: usize = 200;
/// Longest name below the place of the store: buckets allow 1,024 bytes, and the place has a name, too.
pub(crate) const MAX_NAME: usize = 800;
/// Digits of a version: any `u64`, so that names sort as numbers.
const DIGITS: usize = 20;

/// A namespace below the place of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Relative name; empty for the store itself.
    path: String,
}

/// Where the versions of one key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyName {
    path: String,
}

impl Namespace {
    /// The namespace of this name inside this one.
    pub(crate) fn nested(&self, name: &str) -> Result<Self, String> {
        let segment = escape(name);
        if name.is_empty() {
            return Err("a namespace has a name".to_owned());
        }
        if segment.len() > MAX_SEGMENT {
            return Err(format!(
                "the namespace takes {} bytes as a name, and at most {MAX_SEGMENT} are possible",
                segment.len()
            ));
        }
        let path = join(&self.path, &segment);
        Ok(Self { path })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.path
    }

    /// Where all keys of the namespace are.
    pub(crate) fn keys(&self) -> String {
        join(&self.path, KEYS)
    }

    /// Where a key is.
    pub(crate) fn key(&self, key: &str) -> Result<KeyName, String> {
        let path = format!("{}/{}{END}", self.keys(), segments(&escape(key)));
        let length = path.len() + 1 + DIGITS;
        if length > MAX_NAME {
            return Err(format!(
                "the key takes {length} bytes as a name, and at most {MAX_NAME} are possible"
            ));
        }
        Ok(KeyName { path })
    }

    /// A name that sorts before those of all keys with this prefix, and with which they all begin.
    pub(crate) fn prefix(&self, prefix: &str) -> String {
        format!("{}/{}", self.keys(), segments(&escape(prefix)))
    }

    /// The key and version that the object of this name holds; `None` for names that are none of ours.
    pub(crate) fn parse<'a>(&self, name: &'a str) -> Option<(&'a str, u64)> {
        let below = name.strip_prefix(&self.keys())?.strip_prefix('/')?;
        let (key, version) = below.rsplit_once('/')?;
        let _ = key.strip_suffix(END)?;
        Some((key, number(version)?))
    }
}

impl KeyName {
    /// Name of the directory of the versions.
    pub(crate) fn as_str(&self) -> &str {
        &self.path
    }

    /// Name of a version.
    pub(crate) fn version(&self, number: u64) -> String {
        format!("{}/{number:0DIGITS$}", self.path)
    }
}

/// The key whose name below `=keys` this is.
pub(crate) fn key_of(name: &str) -> Option<String> {
    let name = name.strip_suffix(END)?;
    let mut bytes = Vec::with_capacity(name.len());
    let mut segments = name.split('/').peekable();
    while let Some(segment) = segments.next() {
        let segment = match segments.peek() {
            Some(_) => segment.strip_suffix(CONTINUED)?,
            None => segment,
        };
        unescape(segment, &mut bytes)?;
    }
    String::from_utf8(bytes).ok()
}

/// The version that a file name begins with, also that of a staging file (`<version>#<n>`).
pub(crate) fn leading_number(path: &Path) -> Option<u64> {
    number(path.filename()?.get(..DIGITS)?)
}

/// The version of a file name.
pub(crate) fn number(name: &str) -> Option<u64> {
    let legal = name.len() == DIGITS && name.bytes().all(|b| b.is_ascii_digit());
    if legal { name.parse().ok() } else { None }
}

fn join(path: &str, segment: &str) -> String {
    if path.is_empty() {
        segment.to_owned()
    } else {
        format!("{path}/{segment}")
    }
}

fn escape(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("=2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => name.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(name, "={byte:02X}")),
        }
    }
    name
}

/// Cuts an escaped key, between its characters.
fn segments(escaped: &str) -> String {
    let mut cut = String::with_capacity(escaped.len() + 8);
    let mut rest = escaped;
    while rest.len() > MAX_SEGMENT {
        let head = &rest[..MAX_SEGMENT];
        // Not inside of `=XX`.
        let end = match head.rfind('=') {
            Some(at) if at + 3 > MAX_SEGMENT => at,
            _ => MAX_SEGMENT,
        };
        cut.push_str(&rest[..end]);
        cut.push(CONTINUED);
        cut.push('/');
        rest = &rest[end..];
    }
    cut.push_str(rest);
    cut
}

fn unescape(segment: &str, bytes: &mut Vec<u8>) -> Option<()> {
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'=' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(namespaces: &[&str], key: &str) -> String {
        let nested = |at: Namespace, name: &&str| at.nested(name).unwrap();
        let namespace = namespaces.iter().fold(Namespace::default(), nested);
        namespace.key(key).unwrap().version(7)
    }

    #[test]
    fn m9_names_are_readable_and_nothing_escapes_from_a_namespace() {
        assert_eq!(path(&[], "user.1"), "=keys/user.1!/00000000000000000007");
        assert_eq!(path(&["a", "b"], "k"), "a/b/=keys/k!/00000000000000000007");
        assert_eq!(path(&["../x"], ".."), "=2E.=2Fx/=keys/=2E.!/00000000000000000007");
        assert_eq!(path(&["=keys"], ""), "=3Dkeys/=keys/!/00000000000000000007");
        assert_ne!(path(&["a", "b/c"], "k"), path(&["a/b", "c"], "k"));
        assert_ne!(path(&["a"], "b/k"), path(&["a", "b"], "k"));
    }

    #[test]
    fn what_is_too_long_or_empty_is_refused_with_the_limit() {
        let root = Namespace::default();
        assert!(root.nested("").is_err());
        assert!(root.nested(&"n".repeat(201)).unwrap_err().contains("200"));
        assert!(root.key(&"k".repeat(760)).is_ok());
        assert!(root.key(&"k".repeat(800)).unwrap_err().contains("800"));
        assert!(root.key(&"ü".repeat(400)).is_err());
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_name(key in "(?s).{0,60}|[a-z/=ü]{180,230}") {
            let root = Namespace::default().nested("n/s").unwrap();
            let Ok(name) = root.key(&key) else { return Ok(()) };
            let version = name.version(u64::MAX);
            prop_assert!(Path::parse(&version).unwrap().parts().all(|part| part.as_ref().len() <= MAX_SEGMENT + 1));
            let (below, number) = root.parse(&version).unwrap();
            prop_assert_eq!((key_of(below), number), (Some(key), u64::MAX));
        }

        #[test]
        fn names_sort_as_escaped_keys_and_begin_with_their_prefix(a in "[a-c!=/.-]{0,5}|[ab]{190,199}[ab/]{0,9}", b in "[a-c!=/.-]{0,5}|[ab]{190,199}[ab/]{0,9}") {
            let root = Namespace::default();
            let version = |key: &str| root.key(key).unwrap().version(1);
            prop_assert_eq!(version(&a).cmp(&version(&b)), escape(&a).cmp(&escape(&b)));
            let joined = format!("{a}{b}");
            if !(a.is_empty() && b.starts_with('.')) {
                prop_assert!(version(&joined).starts_with(&root.prefix(&a)));
                prop_assert!(version(&joined) > root.prefix(&a));
            }
        }

        #[test]
        fn any_name_is_parsed_without_a_panic(name in "(?s).{0,40}|=keys/[a=!/0-9#]{0,40}") {
            let root = Namespace::default();
            if let Some((key, _)) = root.parse(&name) {
                let _ = key_of(key);
            }
        }
    }
}
