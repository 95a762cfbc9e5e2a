//! A secret for the guest's systemd: an OEM string of a form that systemd knows (systemd.system-credentials(7)).
//!
//! What holds a secret here is overwritten with zeros before its memory is given back.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

/// What the strings begin with that systemd decodes from base64.
const PREFIX: &str = "io.systemd.credential.binary:";

/// A credential: any bytes under a name.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// As the guest asks for it: printable ASCII without `=`.
    pub name: String,
    /// What it is.
    pub value: Zeroizing<Vec<u8>>,
}

/// How many bytes the string has of a credential of `size` bytes.
pub(super) fn string_size(name: &str, size: usize) -> usize {
    let encoded = size.div_ceil(3).saturating_mul(4);
    encoded.saturating_add(PREFIX.len() + name.len() + 1)
}

impl Credential {
    /// The string that carries it, in memory that never moves.
    pub(super) fn string(&self) -> Zeroizing<String> {
        let mut text = vec![0; string_size(&self.name, self.value.len())];
        let head = [PREFIX, &self.name, "="].concat();
        let (start, encoded) = text.split_at_mut(head.len());
        start.copy_from_slice(head.as_bytes());
        Base64::encode(&self.value, encoded).expect("the size is that of the encoded bytes");
        Zeroizing::new(String::from_utf8(text).expect("base64 and a name of ASCII are UTF-8"))
    }
}

/// Without the value.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(name: &str, value: &[u8]) -> Credential {
        Credential {
            name: name.to_owned(),
            value: Zeroizing::new(value.to_vec()),
        }
    }

    #[test]
    fn a_credential_is_a_string_as_systemd_reads_it() {
        for (value, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xfb\xff\0", "+/8A"),
        ] {
            let credential = credential("a.b", value);
            let expected = format!("io.systemd.credential.binary:a.b={text}");
            assert_eq!(*credential.string(), expected);
            assert_eq!(string_size("a.b", value.len()), expected.len());
        }
    }

    #[test]
    fn nothing_of_a_value_is_in_what_a_log_would_say() {
        let said = format!("{:?}", credential("name", b"secret"));
        assert_eq!(said, "Credential { name: \"name\", .. }");
    }
}
