//! Words of a text, as the default tokenizer of Qdrant sees them: runs of letters and digits in lower case.

/// The words of `text` in order.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// Whether every word of `query` is a word of `text`; a query without words matches nothing.
pub fn has_all(text: &str, query: &str) -> bool {
    let mut wanted: Vec<String> = words(query).collect();
    if wanted.is_empty() {
        return false;
    }
    for word in words(text) {
        wanted.retain(|other| *other != word);
        if wanted.is_empty() {
            return true;
        }
    }
    false
}

/// Whether some word of `query` is a word of `text`.
pub fn has_any(text: &str, query: &str) -> bool {
    let wanted: Vec<String> = words(query).collect();
    words(text).any(|word| wanted.contains(&word))
}

/// Whether the words of `query` stand one after the other in `text`; a query without words matches nothing.
pub fn has_phrase(text: &str, query: &str) -> bool {
    let wanted: Vec<String> = words(query).collect();
    let present: Vec<String> = words(text).collect();
    !wanted.is_empty() && present.windows(wanted.len()).any(|window| window == wanted)
}
