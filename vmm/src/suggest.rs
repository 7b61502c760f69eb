//! What a misspelt word was probably meant to be.

/// The known word nearest to `word`, if one is near.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let limit = |candidate: &str| 1 + candidate.len() / 4;
    known
        .into_iter()
        // A word of another length cannot be near; a very long one need not be compared.
        .filter(|candidate| word.len().abs_diff(candidate.len()) <= 4 * limit(candidate))
        // Edits are a letter more, less or other, or two neighbours swapped.
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Help for a word that is none of `known`: the one that was probably meant, else all of them.
#[must_use]
pub fn suggest(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("use one of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_near() {
        for (word, near) in [("rde", Some("red")), ("blu", Some("blue")), ("pink", None)] {
            assert_eq!(nearest(word, ["red", "blue", "green"]), near, "{word}");
        }
    }
}
