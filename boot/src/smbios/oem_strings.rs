//! How OEM strings are spread over structures of type 11 (7.12), so that every guest gets them.
//!
//! Two things decide, both found in guests:
//!
//! - Linux copies every string that a structure counts, with 40 bytes beside each, into 64 KiB that it has reserved at
//!   build time (`dmi_alloc`, arch/x86/include/asm/dmi.h), and stops (`BUG_ON` in `extend_brk`, before there is a console)
//!   when they are full. So what is beyond that is in structures that count no strings. Linux passes these on whole in
//!   `/sys/firmware/dmi`, and systemd, which reads credentials there, does not look at the count; `dmidecode` does.
//! - Some versions of systemd read no more than a page of a structure, so a structure is no longer than that if its
//!   strings allow it.

use super::structure::Structure;

/// Strings that a structure can count.
const MAX_STRINGS: usize = u8::MAX as usize;
const MAX_SIZE: usize = 4096;
/// Of the 64 KiB; the rest is for what Linux keeps of the other structures.
const MAX_COPIED: usize = 60 << 10;

/// The strings of one structure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group<'a> {
    pub(super) strings: Vec<&'a str>,
    counted: bool,
    /// Bytes of the strings, each with its NUL.
    size: usize,
}

impl Group<'_> {
    /// The only field of the structure.
    pub(super) fn count(&self) -> u8 {
        match self.counted {
            true => self.strings.len() as u8,
            false => 0,
        }
    }
}

/// Spreads `strings` over as many structures as they need, in order.
pub(super) fn groups<'a>(strings: &[&'a str]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut copied = 0;
    for string in strings {
        let size = string.len() + 1;
        copied += linux_copies(size);
        let counted = copied <= MAX_COPIED;
        match groups.last_mut() {
            Some(group)
                if group.counted == counted
                    && group.strings.len() < MAX_STRINGS
                    && Structure::size(1, group.size + size) <= MAX_SIZE =>
            {
                group.strings.push(string);
                group.size += size;
            }
            _ => groups.push(Group {
                strings: vec![string],
                counted,
                size,
            }),
        }
    }
    groups
}

/// How many bytes Linux takes for a string of `size` bytes with its NUL: the string and a `struct dmi_device`, both
/// aligned to 4 bytes.
fn linux_copies(size: usize) -> usize {
    const DMI_DEVICE: usize = 40;
    size.next_multiple_of(4) + DMI_DEVICE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strings of `x`.
    fn strings(count: usize, length: usize) -> Vec<&'static str> {
        const LONGEST: &str = match std::str::from_utf8(&[b'x'; 70_000]) {
            Ok(text) => text,
            Err(_) => "",
        };
        vec![&LONGEST[..length]; count]
    }

    #[test]
    fn a_few_strings_are_one_structure_that_counts_them() {
        let strings = ["a", "b", "a"];
        let groups = groups(&strings);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].strings, ["a", "b", "a"]);
        assert_eq!(groups[0].count(), 3);
    }

    #[test]
    fn no_strings_are_no_structure() {
        assert_eq!(groups(&[]), []);
    }

    #[test]
    fn a_structure_has_no_more_strings_than_it_can_count() {
        let strings = strings(256, 1);
        let counts: Vec<u8> = groups(&strings).iter().map(Group::count).collect();
        assert_eq!(counts, [255, 1]);
    }

    #[test]
    fn a_structure_is_no_longer_than_a_page_if_its_strings_allow_it() {
        let strings = [strings(9, 1000), strings(1, 5000), strings(1, 1)].concat();
        let sizes: Vec<usize> = groups(&strings)
            .iter()
            .map(|group| Structure::size(1, group.size))
            .collect();
        assert_eq!(sizes, [4010, 4010, 1007, 5007, 8]);
        // Four strings fill a page exactly; with one byte more the last has a structure of its own.
        let exact = [self::strings(3, 1000), self::strings(1, 1086)].concat();
        assert_eq!(groups(&exact).len(), 1);
        let more = [self::strings(3, 1000), self::strings(1, 1087)].concat();
        assert_eq!(groups(&more).len(), 2);
    }

    #[test]
    fn linux_is_never_made_to_copy_more_than_it_has_room_for() {
        for length in [1, 100, 4000, 30_000, 70_000] {
            let strings = strings(245_760 / length, length);
            let groups = groups(&strings);
            let copied: usize = groups
                .iter()
                .flat_map(|group| &group.strings[..group.count().into()])
                .map(|string| linux_copies(string.len() + 1))
                .sum();
            assert!(copied <= MAX_COPIED, "{length}");
            let total: usize = groups.iter().map(|group| group.strings.len()).sum();
            assert_eq!(total, strings.len(), "{length}");
        }
    }
}
