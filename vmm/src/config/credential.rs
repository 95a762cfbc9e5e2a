//! A secret for the guest's systemd.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, Limits, VmConfig, schema, validate::unique};

/// A secret for the guest's systemd (systemd.system-credentials(7)): where it is, never what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// What it is called in the guest: printable ASCII without `/`, `:` and `=`.
    #[schemars(schema_with = "schema::credential_name")]
    pub name: String,
    /// The file that it is in, any bytes. Without one it is the file `name` in the directory of
    /// `$CREDENTIALS_DIRECTORY`, where systemd has what a unit loads (`LoadCredential=`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

impl Credential {
    /// systemd's rule (`credential_name_valid`: a file name that is also a descriptor's name), and no `=`, which ends the
    /// name in an SMBIOS string.
    fn has_valid_name(&self) -> bool {
        let name = self.name.as_str();
        (1..=Limits::CREDENTIAL_NAME).contains(&name.len())
            && !matches!(name, "." | "..")
            && name
                .bytes()
                .all(|b| matches!(b, b' '..=b'~') && !b"/:=".contains(&b))
    }
}

impl VmConfig {
    pub(super) fn validate_credentials(&self) -> Result<(), Error> {
        for credential in &self.credentials {
            if !credential.has_valid_name() {
                return Err(Error::CredentialName(credential.name.clone()));
            }
        }
        let names = self.credentials.iter().map(|c| c.name.clone());
        unique("credentials.name", names)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn validate(names: &[&str]) -> Result<(), Error> {
        let mut config = VmConfig::from_toml("name = \"a\"\n[kernel]\npath = \"k\"\n").unwrap();
        config.credentials = names
            .iter()
            .map(|name| Credential {
                name: (*name).to_owned(),
                path: None,
            })
            .collect();
        config.validate()
    }

    #[test]
    fn names_are_those_of_systemd() {
        let longest = "x".repeat(255);
        let good = [
            "a",
            "sops-age-key",
            "systemd.extra-unit.a.service",
            ".a",
            "a b~",
            &longest,
        ];
        assert_eq!(validate(&good), Ok(()));
        let too_long = "x".repeat(256);
        for name in [
            "", ".", "..", "a/b", "a:b", "a=b", "a\n", "ä", "a\u{7f}", &too_long,
        ] {
            assert_eq!(
                validate(&[name]),
                Err(Error::CredentialName(name.to_owned())),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_name_is_used_once() {
        let said = validate(&["a", "b", "a"]).unwrap_err().to_string();
        assert_eq!(said, "credentials.name: `a` is used twice");
    }

    #[test]
    fn the_file_says_where_they_are() {
        let config = VmConfig::from_toml(
            "name = \"a\"\n[kernel]\npath = \"k\"\n\
             [[credentials]]\nname = \"one\"\npath = \"/run/secrets/one\"\n\
             [[credentials]]\nname = \"two\"\n",
        )
        .unwrap();
        let paths: Vec<_> = config
            .credentials
            .iter()
            .map(|c| c.path.as_deref())
            .collect();
        assert_eq!(paths, [Some("/run/secrets/one".as_ref()), None]);
        let value = VmConfig::from_toml(
            "name = \"a\"\n[kernel]\npath = \"k\"\n[[credentials]]\nname = \"one\"\nvalue = \"x\"\n",
        );
        let said = value.unwrap_err().to_string();
        assert!(said.contains("unknown key `value`"), "{said}");
    }
}
