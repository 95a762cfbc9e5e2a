//! Ethernet addresses.

use std::{fmt, str::FromStr};

/// The address of one network card: neither a multicast address nor all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddr([u8; 6]);

/// Why a string or six bytes are no card's address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Something else than an address.
    #[error("`{0}` is not a MAC address: write six bytes like 02:00:00:00:00:01")]
    Malformed(String),
    /// IEEE 802: the lowest bit of the first byte marks a group.
    #[error("{0} is a multicast address: the first byte of a MAC address must be even")]
    Multicast(String),
    /// The address of nobody.
    #[error(
        "00:00:00:00:00:00 is no card's address: 02:00:00:00:00:01 is one that is yours to give"
    )]
    Zero,
}

impl MacAddr {
    /// The six bytes in the order in which they are sent.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<[u8; 6]> for MacAddr {
    type Error = Error;

    fn try_from(bytes: [u8; 6]) -> Result<Self, Error> {
        let address = Self(bytes);
        if bytes == [0; 6] {
            Err(Error::Zero)
        } else if bytes[0] & 1 != 0 {
            Err(Error::Multicast(address.to_string()))
        } else {
            Ok(address)
        }
    }
}

impl FromStr for MacAddr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Malformed(text.to_owned());
        let mut bytes = [0; 6];
        let mut fields = text.split(':');
        for byte in &mut bytes {
            let field = fields.next().ok_or_else(malformed)?;
            // from_str_radix alone would take "+1".
            if field.len() != 2 || !field.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *byte = u8::from_str_radix(field, 16).map_err(|_| malformed())?;
        }
        if fields.next().is_some() {
            return Err(malformed());
        }
        Self::try_from(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in ["02:00:00:00:00:01", "52:54:00:ab:cd:ef"] {
            assert_eq!(
                text.parse::<MacAddr>().map(|mac| mac.to_string()),
                Ok(text.to_owned())
            );
        }
        assert_eq!(
            "52:54:00:AB:CD:EF".parse().map(MacAddr::bytes),
            Ok([0x52, 0x54, 0, 0xab, 0xcd, 0xef])
        );
    }

    #[test]
    fn other_strings_are_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02-00-00-00-00-01",
            "2:0:0:0:0:1",
            "02:00:00:00:00:+1",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:0é",
        ] {
            assert_eq!(
                text.parse::<MacAddr>(),
                Err(Error::Malformed(text.to_owned()))
            );
        }
    }

    #[test]
    fn group_and_zero_addresses_are_refused() {
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"] {
            assert_eq!(
                text.parse::<MacAddr>(),
                Err(Error::Multicast(text.to_owned()))
            );
        }
        assert_eq!("00:00:00:00:00:00".parse::<MacAddr>(), Err(Error::Zero));
    }
}
