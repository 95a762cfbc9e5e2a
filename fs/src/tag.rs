//! The name of a share, as the guest mounts it.

use std::{fmt, str::FromStr};

/// A file system's tag (virtio 1.3, 5.11.4): 1 to 36 bytes of UTF-8, without a NUL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(String);

/// Why a string is no tag.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A tag names the share, so it cannot be empty.
    #[error("a share's tag is empty: give it a name of 1 to {} bytes", Tag::MAX)]
    Empty,
    /// The configuration space has room for [`Tag::MAX`] bytes.
    #[error("tag `{tag}` has {} bytes: at most {} fit", tag.len(), Tag::MAX)]
    TooLong {
        /// The string.
        tag: String,
    },
    /// The guest pads with NUL and so cannot see what follows one.
    #[error("tag {tag:?} contains a control character: use printable ones")]
    Control {
        /// The string.
        tag: String,
    },
}

impl Tag {
    /// Bytes of a tag at most.
    pub const MAX: usize = 36;

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The `tag` field of the configuration space: padded with NUL, which does not end a full field.
    pub fn padded(&self) -> [u8; Self::MAX] {
        let mut field = [0; Self::MAX];
        field[..self.0.len()].copy_from_slice(self.0.as_bytes());
        field
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(tag: &str) -> Result<Self, Error> {
        let tag = tag.to_owned();
        if tag.is_empty() {
            Err(Error::Empty)
        } else if tag.len() > Self::MAX {
            Err(Error::TooLong { tag })
        } else if tag.chars().any(char::is_control) {
            Err(Error::Control { tag })
        } else {
            Ok(Self(tag))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tag_of_36_bytes_fills_its_field() {
        let tag: Tag = "ä".repeat(18).parse().unwrap();
        assert_eq!(tag.padded(), *"ä".repeat(18).as_bytes());
        let tag: Tag = "data".parse().unwrap();
        assert_eq!(tag.padded()[..5], *b"data\0");
        assert_eq!(tag.padded()[5..], [0; 31]);
    }

    #[test]
    fn an_empty_a_long_and_an_unprintable_tag_are_refused() {
        assert_eq!("".parse::<Tag>(), Err(Error::Empty));
        let long = "x".repeat(37);
        assert_eq!(
            long.parse::<Tag>().unwrap_err().to_string(),
            format!("tag `{long}` has 37 bytes: at most 36 fit")
        );
        assert!(matches!("a\0b".parse::<Tag>(), Err(Error::Control { .. })));
    }
}
