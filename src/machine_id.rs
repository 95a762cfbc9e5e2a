//! The host's machine id, machine-id(5).

use std::fs;

use uuid::Uuid;

const FILE: &str = "/etc/machine-id";

/// The id, unless this host has none: its file is missing in images and containers, and says "uninitialized" before a
/// first boot has ended.
pub fn machine_id() -> Option<Uuid> {
    parse(&fs::read_to_string(FILE).ok()?)
}

fn parse(text: &str) -> Option<Uuid> {
    let text = text.trim_end_matches('\n');
    let plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    Uuid::parse_str(text)
        .ok()
        .filter(|id| plain && !id.is_nil())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_hexadecimal_digits() {
        let id = "0123456789abcdef0123456789abcdef";
        let value = Some(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
        assert_eq!(parse(id), value);
        assert_eq!(parse(&format!("{id}\n")), value);
    }

    #[test]
    fn everything_else_is_none() {
        for text in [
            "",
            "\n",
            "uninitialized\n",
            "00000000000000000000000000000000\n",
            "01234567-89ab-cdef-0123-456789abcdef",
            "0123456789abcdef0123456789abcdefff",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
