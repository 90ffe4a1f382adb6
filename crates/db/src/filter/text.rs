//! Words of a text, as the default tokenizer of Qdrant sees them: runs of letters and digits, compared in lower case.

/// The words of `text` in order.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
}

/// Whether two words are equal in lower case. Nearly all words are ASCII, and comparing those allocates nothing.
fn same(left: &str, right: &str) -> bool {
    if left.is_ascii() && right.is_ascii() {
        left.eq_ignore_ascii_case(right)
    } else {
        left.to_lowercase() == right.to_lowercase()
    }
}

/// Whether every word of `query` is a word of `text`; a query without words matches nothing.
pub fn has_all(text: &str, query: &str) -> bool {
    let mut wanted: Vec<&str> = words(query).collect();
    if wanted.is_empty() {
        return false;
    }
    for word in words(text) {
        wanted.retain(|other| !same(other, word));
        if wanted.is_empty() {
            return true;
        }
    }
    false
}

/// Whether some word of `query` is a word of `text`.
pub fn has_any(text: &str, query: &str) -> bool {
    let wanted: Vec<&str> = words(query).collect();
    words(text).any(|word| wanted.iter().any(|other| same(other, word)))
}

/// Whether the words of `query` stand one after the other in `text`; a query without words matches nothing.
pub fn has_phrase(text: &str, query: &str) -> bool {
    let wanted: Vec<&str> = words(query).collect();
    let present: Vec<&str> = words(text).collect();
    let starts_here = |window: &[&str]| window.iter().zip(&wanted).all(|(word, other)| same(word, other));
    !wanted.is_empty() && present.windows(wanted.len()).any(starts_here)
}
