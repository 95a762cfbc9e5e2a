//! Text of others in our log.

/// One line that does nothing to a terminal, whatever a guest, a library, a file's name or a distrusted process brings
/// along: what ends a line is a space, any other control character a U+FFFD.
pub fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            // Unicode has two ends of lines that are no control characters.
            '\t' | '\n' | '\x0b' | '\x0c' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_lines_are_spaces_and_other_control_characters_are_marked() {
        assert_eq!(
            one_line("a\nb\x1b[31mc\r\u{85}\u{2028}d\u{2029}\u{9b}ä"),
            "a b\u{fffd}[31mc   d \u{fffd}ä"
        );
    }
}
