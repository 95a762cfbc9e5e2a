//! Finds the words of a panicking Linux kernel in what it prints, byte by byte.

/// What Linux prints first of all when it panics (kernel/panic.c).
const TEXT: &[u8] = b"Kernel panic - not syncing";

/// How far the text has come.
#[derive(Debug, Default)]
pub(super) struct PanicText {
    matched: usize,
}

impl PanicText {
    /// Looks at the next bytes, in whatever pieces they come; says whether they end or contain the text's end.
    pub(super) fn ends_in(&mut self, bytes: &[u8]) -> bool {
        let mut found = false;
        for byte in bytes {
            // The first letter is nowhere else in the text, so that a mismatch can only be its beginning.
            self.matched = match self.matched {
                matched if TEXT.get(matched) == Some(byte) => matched + 1,
                _ => usize::from(TEXT.first() == Some(byte)),
            };
            found |= self.matched == TEXT.len();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(pieces: &[&[u8]]) -> bool {
        let mut text = PanicText::default();
        pieces
            .iter()
            .fold(false, |found, piece| text.ends_in(piece) | found)
    }

    #[test]
    fn the_text_is_found_wherever_it_is_cut() {
        let line = b"[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n";
        for at in 0..=line.len() {
            assert!(found(&[&line[..at], &line[at..]]), "cut at {at}");
        }
        let bytes: Vec<&[u8]> = line.chunks(1).collect();
        assert!(found(&bytes));
    }

    #[test]
    fn a_false_start_does_not_hide_the_text() {
        assert!(found(&[b"KKernel panic - not syncing"]));
        assert!(found(&[b"Kernel panKernel panic - not syncing"]));
    }

    #[test]
    fn almost_the_text_is_not_the_text() {
        assert!(!found(&[b""]));
        assert!(!found(&[b"Kernel panic - not synci", b"\n", b"ng"]));
        assert!(!found(&[b"kernel panic - not syncing"]));
    }

    #[test]
    fn its_first_letter_is_in_it_once() {
        assert_eq!(TEXT.iter().filter(|byte| **byte == TEXT[0]).count(), 1);
    }

    proptest! {
        #[test]
        fn it_finds_what_a_search_finds(
            parts in prop::collection::vec(prop_oneof![
                (0..=TEXT.len()).prop_map(|n| TEXT[..n].to_vec()),
                (0..TEXT.len()).prop_map(|n| TEXT[n..].to_vec()),
                prop::collection::vec(any::<u8>(), 0..4),
            ], 0..8),
        ) {
            let whole = parts.concat();
            let pieces: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let expected = whole.windows(TEXT.len()).any(|window| window == TEXT);
            prop_assert_eq!(found(&pieces), expected);
        }
    }
}
