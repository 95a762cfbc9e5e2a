//! The configuration's schema as JSON Schema, for editors, for docs/config.md and for other makers of files.
//!
//! Derived from the structs, so a key that serde takes is in it and no other. What a number or a text may be is said here
//! and by `#[schemars(…)]` at the fields, from [`Limits`]; what needs more than one value to be judged is left to
//! [`VmConfig::validate`](super::VmConfig::validate).

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::Value;
use uuid::Uuid;

use super::{Limits, VmConfig};

impl VmConfig {
    /// The JSON Schema (draft 2020-12) of a configuration file, without references: every section is spelled out where
    /// it is. `x-unit`, a keyword of ours because JSON Schema has none, is the unit of a number.
    pub fn json_schema() -> Value {
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<Self>();
        schema.insert("title".to_owned(), "minivmm: one VM".into());
        let mut schema = Value::from(schema);
        forget_null(&mut schema);
        schema
    }
}

/// TOML has no null: a key that may be left out is one that is not required.
fn forget_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(alternatives)) = object.get_mut("anyOf") {
                alternatives.retain(|schema| schema["type"] != "null");
                if let [Value::Object(only)] = alternatives.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    for (keyword, value) in only {
                        // What the field says of itself goes before what its type says.
                        object.entry(keyword).or_insert(value);
                    }
                }
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            object.values_mut().for_each(forget_null);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_null),
        _ => {}
    }
}

/// A VM's name.
pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": Limits::NAME,
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
    })
}

/// A UUID with hyphens.
pub(super) fn uuid(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "format": "uuid",
        "pattern": "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
        "not": { "enum": [Uuid::nil().to_string(), Uuid::max().to_string()] },
        "examples": ["01234567-89ab-cdef-0123-456789abcdef"],
    })
}

/// Strings that SMBIOS can carry.
pub(super) fn oem_strings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "type": "string", "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$" },
    })
}

/// The name of a [`Credential`](super::Credential).
pub(super) fn credential_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": Limits::CREDENTIAL_NAME,
        "pattern": "^[ -.0-9;<>-~]+$",
        "not": { "enum": [".", ".."] },
        "examples": ["sops-age-key"],
    })
}

/// The path of a file for node_exporter.
pub(super) fn textfile(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": r"[^/]\.prom$",
        "examples": ["/var/lib/prometheus/node-exporter/adguard.prom"],
    })
}

/// A [`MacAddr`](minivmm_net::MacAddr): the second digit is even.
pub(super) fn mac(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$",
        "not": { "const": "00:00:00:00:00:00" },
        "examples": ["02:00:00:00:00:01"],
    })
}

/// An [`Ipv4Cidr`](super::Ipv4Cidr).
pub(super) fn ipv4_cidr(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": concat!(
            r"^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
            r"/([0-9]|[12][0-9]|3[0-2])$",
        ),
        "examples": ["192.168.83.2/24"],
    })
}

/// The name of a host's interface.
pub(super) fn interface_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": Limits::INTERFACE_NAME,
        "pattern": r"^[^\s/:%]+$",
    })
}

/// A [`Tag`](minivmm_fs::Tag) that can stand in a kernel command line.
pub(super) fn tag(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": minivmm_fs::Tag::MAX,
        "pattern": r#"^[^\s\x00-\x1f\x7f-\x9f,:"'\\]+$"#,
    })
}

/// An absolute path in the guest that can stand in a kernel command line.
pub(super) fn mount_point(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": r#"^/[^\s\x00-\x1f\x7f-\x9f,:"'\\]+$"# })
}

/// The name of a file system.
pub(super) fn fs_type(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": Limits::FS_TYPE,
        "pattern": "^[a-z0-9._-]+$",
    })
}

/// The label of a file system.
pub(super) fn label(_: &mut SchemaGenerator) -> Schema {
    word(Limits::LABEL)
}

/// The serial number of a disk.
pub(super) fn serial(_: &mut SchemaGenerator) -> Schema {
    word(Limits::SERIAL)
}

/// Printable ASCII without what is special in udev rules, shells and command lines.
fn word(max: usize) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": max,
        "pattern": r##"^[!#%&()-.0-9:-@A-Z\[\]^_a-z{|}~+,*]+$"##,
    })
}

/// The path of a unix socket.
pub(super) fn socket_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": Limits::SOCKET_PATH })
}

/// Ports that may be connected to, as [`VsockPort`](super::VsockPort) reads them.
pub(super) fn vsock_ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": Limits::VSOCK_ALLOW,
        "uniqueItems": true,
        "items": { "type": "string", "pattern": "^(ssh|(guest|host):[0-9]{1,10})$" },
        "examples": [["ssh", "guest:8080", "host:9000"]],
    })
}

/// A duration: numbers with their units, as humantime reads them.
pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": concat!(
            r"^(\s*[0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|",
            r"hours?|hrs?|h|days?|d|weeks?|wks?|w|months?|M|years?|yrs?|y)\s*)+$",
        ),
        "examples": ["120s", "2m 30s"],
    })
}

#[cfg(test)]
mod tests;
