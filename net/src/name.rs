//! Names of network interfaces.

/// Bytes of an interface's name, without the NUL (IFNAMSIZ - 1).
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// A byte that is a space to the kernel, whose characters are those of Latin-1 (lib/ctype.c).
const NO_BREAK_SPACE: u8 = 0xa0;

/// Whether an interface can have this name: the kernel's rule (dev_valid_name in net/core/dev.c), without `%`,
/// of which the kernel would make a number, and without control characters, which nobody can read.
pub fn is_interface_name(name: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    (1..=NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(forbidden)
        && !name.as_bytes().contains(&NO_BREAK_SPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_refuse_or_change_is_none() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "tap\n",
            "tap\0",
            "tap%d",
            "à",
            "sixteen-bytes-ab",
        ] {
            assert!(!is_interface_name(name), "{name:?}");
        }
        for name in ["a", "vm-adguard", "...", "fifteen-bytes-a", "é"] {
            assert!(is_interface_name(name), "{name:?}");
        }
    }
}
