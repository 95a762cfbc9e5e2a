//! What the guest's SMBIOS tables say of the VM, as the configuration has it.

use minivmm_boot::smbios;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{VmConfig, schema};

/// What the guest finds in its SMBIOS tables.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Smbios {
    /// OEM strings (type 11), for programs in the guest that look for them: printable, at most 240 KiB with all other
    /// structures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::oem_strings")]
    pub oem_strings: Vec<String>,
}

impl VmConfig {
    /// What the VM's SMBIOS tables say: its UUID, or [`default_uuid`] of its name alone, its name as the serial number,
    /// and the strings. What is in its credentials the configuration does not know.
    pub fn smbios(&self) -> minivmm_boot::Smbios {
        minivmm_boot::Smbios {
            uuid: self.uuid.unwrap_or_else(|| default_uuid(None, &self.name)),
            serial: self.name.clone(),
            oem_strings: self.smbios.oem_strings.clone(),
            credentials: Vec::new(),
        }
    }

    pub(super) fn validate_smbios(&self) -> Result<(), super::Error> {
        // What SMBIOS has for "there is none" (SMBIOS 3.7, 7.2.1).
        if self.uuid.is_some_and(|uuid| uuid.is_nil() || uuid.is_max()) {
            return Err(super::Error::Uuid);
        }
        smbios::tables(&self.smbios()).map_err(super::Error::OemStrings)?;
        Ok(())
    }
}

/// The UUID of a VM that is given none: the same for a name on a host, whose machine id (machine-id(5)) no guest can find
/// out from it, because it goes through a one-way hash (version 5 of RFC 9562).
///
/// Without a machine id VMs of one name have one UUID on all such hosts.
pub fn default_uuid(machine_id: Option<Uuid>, name: &str) -> Uuid {
    let host = machine_id.unwrap_or(Uuid::nil());
    Uuid::new_v5(&host, format!("minivmm:{name}").as_bytes())
}

/// A UUID as text with hyphens: what RFC 9562, 4 writes, and nothing else that a UUID may be written as.
pub(super) mod uuid_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use uuid::{Uuid, fmt::Hyphenated};

    pub fn serialize<S: Serializer>(uuid: &Option<Uuid>, serializer: S) -> Result<S::Ok, S::Error> {
        match uuid {
            Some(uuid) => serializer.collect_str(&uuid.hyphenated()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Uuid>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let uuid: Hyphenated = text.parse().map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is not a UUID, as 01234567-89ab-cdef-0123-456789abcdef (uuidgen makes one)"
            ))
        })?;
        Ok(Some(uuid.into_uuid()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const UUID: &str = "01234567-89AB-cdef-0123-456789abcdef";

    fn config(text: &str) -> Result<VmConfig, String> {
        let text = format!("name = \"a\"\n{text}\n[kernel]\npath = \"k\"\n");
        let config = VmConfig::from_toml(&text).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string())?;
        Ok(config)
    }

    fn error(text: &str) -> String {
        config(text).unwrap_err()
    }

    #[test]
    fn the_guest_is_told_what_the_file_says() {
        let mut config = config(&format!("uuid = \"{UUID}\"")).unwrap();
        config.smbios.oem_strings = vec!["one".to_owned()];
        let smbios = config.smbios();
        assert_eq!(smbios.uuid.to_string(), UUID.to_lowercase());
        assert_eq!((smbios.serial.as_str(), smbios.oem_strings.len()), ("a", 1));
        // As it goes to the VMM process.
        let json = serde_json::to_string(&config).unwrap();
        let again: VmConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(again.smbios(), smbios);
    }

    #[test]
    fn what_is_no_uuid_is_an_error() {
        for text in [
            "",
            "x",
            &UUID.replace('-', ""),
            &format!("{{{UUID}}}"),
            &UUID[1..],
        ] {
            let said = error(&format!("uuid = \"{text}\""));
            assert!(said.starts_with("line 2: uuid: `"), "{said}");
            assert!(said.contains("uuidgen"), "{said}");
        }
        for digit in ["0", "f"] {
            let text = UUID.replace(|c: char| c != '-', digit);
            let said = error(&format!("uuid = \"{text}\""));
            assert!(said.starts_with("uuid: "), "{said}");
        }
    }

    #[test]
    fn strings_that_smbios_cannot_carry_are_errors_with_their_key() {
        let said = error("smbios.oem_strings = [\"a\", \"\"]");
        assert!(
            said.starts_with("smbios.oem_strings: string 2 is empty"),
            "{said}"
        );
        let said = error("smbios.oem_strings = [\"a\\u0000\"]");
        assert!(
            said.starts_with("smbios.oem_strings: string 1 has the control"),
            "{said}"
        );
        let long = "x".repeat(245_760);
        let said = error(&format!("smbios.oem_strings = [\"{long}\"]"));
        assert!(
            said.starts_with("smbios.oem_strings: the SMBIOS structures take 24"),
            "{said}"
        );
        assert!(said.contains("245760"), "{said}");
    }

    #[test]
    fn the_default_uuid_is_one_for_each_name_and_host() {
        let hosts = [None, Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2))];
        let mut uuids: Vec<Uuid> = hosts
            .iter()
            .flat_map(|host| ["a", "b"].map(|name| default_uuid(*host, name)))
            .collect();
        assert_eq!(uuids[0], default_uuid(None, "a"));
        assert!(uuids.iter().all(|uuid| uuid.get_version_num() == 5));
        uuids.sort();
        uuids.dedup();
        assert_eq!(uuids.len(), 6);
    }
}
