//! How much of the exact answer an approximate search found.

/// Share of `truth` that is in `found`, 0 to 1; 1 if there was nothing to find.
pub fn recall_at_k(found: &[u32], truth: &[u32]) -> f64 {
    let hits = truth.iter().filter(|row| found.contains(row)).count();
    if truth.is_empty() {
        1.0
    } else {
        hits as f64 / truth.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_is_the_share_of_the_truth_that_was_found() {
        assert_eq!(recall_at_k(&[4, 3, 9], &[3, 4, 5, 6]), 0.5);
        assert_eq!(recall_at_k(&[], &[1]), 0.0);
        assert_eq!(recall_at_k(&[], &[]), 1.0);
    }
}
