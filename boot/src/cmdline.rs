//! The kernel command line: what it may contain, how long it may be, and its place in memory.

use vm_memory::GuestMemoryMmap;

use crate::layout::CMDLINE;

/// A command line that the kernel would cut off or misread.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than the kernel keeps.
    #[error(
        "the kernel command line has {length} bytes and this kernel takes {limit}: shorten kernel.cmdline"
    )]
    TooLong {
        /// Length of the line in bytes, without its NUL.
        length: usize,
        /// The longest that this kernel, and its place in memory, allow.
        limit: usize,
    },
    /// A character that ends the line early or means nothing to the kernel.
    #[error(
        "the kernel command line has the control character {character:?} at byte {offset}: only printable \
         characters and spaces may be in kernel.cmdline"
    )]
    ControlCharacter {
        /// The character.
        character: char,
        /// Where it is, in bytes from the start of the line.
        offset: usize,
    },
}

/// Checks that `line` is printable and not longer than `cmdline_size`, the limit from the kernel's setup header, which
/// does not count the NUL (boot.rst, "cmdline_size").
pub fn check(line: &str, cmdline_size: u32) -> Result<(), Error> {
    let room = CMDLINE.size as usize - 1;
    let limit = usize::try_from(cmdline_size).map_or(room, |size| size.min(room));
    if line.len() > limit {
        return Err(Error::TooLong {
            length: line.len(),
            limit,
        });
    }
    match line.char_indices().find(|(_, c)| c.is_control()) {
        Some((offset, character)) => Err(Error::ControlCharacter { character, offset }),
        None => Ok(()),
    }
}

/// Writes `line`, which [`check`] has accepted, and its NUL.
pub(crate) fn write(memory: &GuestMemoryMmap, line: &str) -> Result<(), crate::Error> {
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(0);
    crate::write(memory, "the command line", CMDLINE.start, &bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_line_may_be_exactly_as_long_as_the_kernel_says() {
        assert_eq!(check(&"x".repeat(2047), 2047), Ok(()));
        assert_eq!(
            check(&"x".repeat(2048), 2047),
            Err(Error::TooLong {
                length: 2048,
                limit: 2047
            })
        );
    }

    #[test]
    fn the_error_names_length_and_limit() {
        let message = check("0123456789", 9).unwrap_err().to_string();
        assert!(message.contains("10 bytes"), "{message}");
        assert!(message.contains("takes 9"), "{message}");
    }

    #[test]
    fn a_kernel_that_claims_to_take_more_than_its_place_holds_is_not_believed() {
        let length = CMDLINE.size as usize;
        assert_eq!(check(&"x".repeat(length - 1), u32::MAX), Ok(()));
        assert_eq!(
            check(&"x".repeat(length), u32::MAX),
            Err(Error::TooLong {
                length,
                limit: length - 1
            })
        );
    }

    #[test]
    fn control_characters_are_refused_and_located() {
        for character in ['\0', '\n', '\t', '\u{7f}', '\u{85}'] {
            assert_eq!(
                check(&format!("quiet {character}x"), 2047),
                Err(Error::ControlCharacter {
                    character,
                    offset: 6
                })
            );
        }
    }

    #[test]
    fn printable_utf8_and_the_empty_line_are_accepted() {
        assert_eq!(check("console=ttyS0 motd=\"grüße, 世界\"", 2047), Ok(()));
        assert_eq!(check("", 0), Ok(()));
    }
}
