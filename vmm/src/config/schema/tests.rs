#![allow(clippy::unwrap_used)]
use std::{collections::BTreeSet, fs};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use crate::config::VmConfig;

const GOOD: &str = r#"
name = "a"
vcpu = 2
mem = 512
[kernel]
path = "bzImage"
[[interfaces]]
type = "tap"
id = "vm-a"
mac = "02:00:00:00:00:01"
address = "192.168.83.2/24"
dns = ["192.168.83.1"]
[[shares]]
tag = "data"
source = "/srv/data"
mount_point = "/data"
[[volumes]]
image = "a.img"
auto_create = true
size = 1
label = "state"
serial = "s-1"
mount_point = "/var"
fs_type = "ext4"
[lifecycle]
stop_timeout = "90s"
"#;

struct Validator(Schemas, SchemaIndex);

impl Validator {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler
            .add_resource("config.json", VmConfig::json_schema())
            .unwrap();
        let index = compiler.compile("config.json", &mut schemas).unwrap();
        Self(schemas, index)
    }

    fn validate(&self, toml: &str) -> Result<(), String> {
        let value: toml::Value = toml::from_str(toml).unwrap();
        let value = serde_json::to_value(value).unwrap();
        let valid = self.0.validate(&value, self.1);
        valid.map_err(|error| error.to_string())
    }
}

/// Serde's own list of the keys of a section, from its error about one that is not there.
fn keys_that_serde_takes(section: &str) -> BTreeSet<String> {
    let text = format!("{section}\nno_such_key = 1\n");
    let error = toml::from_str::<VmConfig>(&text).unwrap_err();
    let message = error.message();
    let (unknown, known) = message.split_once(", expected ").unwrap();
    assert_eq!(unknown, "unknown field `no_such_key`");
    known
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn compare_keys(path: &str, is_list: bool, schema: &Value) {
    let header = match (path, is_list) {
        ("", _) => String::new(),
        (path, true) => format!("[[{path}]]"),
        (path, false) => format!("[{path}]"),
    };
    let properties = schema["properties"].as_object().unwrap();
    let keys: BTreeSet<String> = properties.keys().cloned().collect();
    assert_eq!(keys, keys_that_serde_takes(&header), "section `{header}`");
    assert_eq!(schema["additionalProperties"], false, "section `{header}`");
    for (key, value) in properties {
        let path = format!("{path}.{key}");
        let path = path.trim_start_matches('.');
        assert!(
            value["description"].is_string(),
            "`{path}` says nothing of itself"
        );
        if value["properties"].is_object() {
            compare_keys(path, false, value);
        } else if value["items"]["properties"].is_object() {
            compare_keys(path, true, &value["items"]);
        }
    }
}

#[test]
fn the_schema_has_every_key_that_a_file_may_have_and_no_other() {
    compare_keys("", false, &VmConfig::json_schema());
}

#[test]
fn the_examples_are_valid() {
    let validator = Validator::new();
    validator.validate(GOOD).unwrap();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = fs::read_to_string(&path).unwrap();
            let valid = validator.validate(&text);
            assert_eq!(valid, Ok(()), "{}", path.display());
            VmConfig::from_toml(&text).unwrap().validate().unwrap();
            count += 1;
        }
    }
    assert!(count > 0);
}

#[test]
fn what_the_schema_refuses_is_refused_and_what_it_takes_is_taken() {
    let validator = Validator::new();
    for (from, to, good) in [
        ("vcpu = 2", "vcpu = 32", true),
        ("vcpu = 2", "vcpu = 33", false),
        ("vcpu = 2", "vcpu = 0", false),
        ("vcpu = 2", "vcpu = \"2\"", false),
        ("vcpu = 2", "vcpus = 2", false),
        ("mem = 512", "mem = 64", true),
        ("mem = 512", "mem = 63", false),
        ("mem = 512", "mem = 1048577", false),
        ("name = \"a\"", "name = \"a.b-c_d\"", true),
        ("name = \"a\"", "name = \"-a\"", false),
        ("name = \"a\"\n", "", false),
        ("\"tap\"", "\"bridge\"", false),
        ("\"tap\"", "\"macvtap\"\nfd = 3", true),
        ("[lifecycle]", "[console]\nslot = 31\n[lifecycle]", true),
        ("[lifecycle]", "[balloon]\nslot = 0\n[lifecycle]", false),
        ("[lifecycle]", "[vsock]\nslot = 32\n[lifecycle]", false),
        ("vm-a", "fifteen-bytes-a", true),
        ("vm-a", "sixteen-bytes-ab", false),
        ("vm-a", "a b", false),
        ("02:00:00", "52:54:AB", true),
        ("02:00:00", "01:00:00", false),
        ("02:00:00:00:00:01", "00:00:00:00:00:00", false),
        ("02:00:00", "2:0:0", false),
        ("83.2/24", "83.2/32", true),
        ("83.2/24", "83.255/0", true),
        ("83.2/24", "83.256/24", false),
        ("83.2/24", "83.2/33", false),
        ("83.2/24", "83.2", false),
        ("\"192.168.83.1\"]", "\"1.1.1.1\", \"9.9.9.9\"]", true),
        (
            "\"192.168.83.1\"]",
            "\"1.1.1.1\", \"8.8.8.8\", \"9.9.9.9\"]",
            false,
        ),
        ("mac =", "slot = 31\nmac =", true),
        ("mac =", "slot = 0\nmac =", false),
        ("mac =", "slot = 32\nmac =", false),
        ("\"data\"", "\"with space\"", false),
        ("\"data\"", "\"\"", false),
        ("tag = ", "proto = \"virtiofs\"\ntag = ", true),
        ("tag = ", "proto = \"9p\"\ntag = ", false),
        ("\"/data\"", "\"data\"", false),
        ("\"/data\"", "\"/\"", false),
        ("\"/data\"", "\"/it's\"", false),
        ("\"/data\"", "'/a\\b'", false),
        ("size = 1", "size = 16777216", true),
        ("size = 1", "size = 16777217", false),
        ("size = 1", "size = 1\nqueues = 2\ndirect = true", true),
        ("size = 1", "size = 1\nqueues = 9", false),
        ("size = 1", "size = 1\non_enospc = \"error\"", true),
        ("size = 1", "size = 1\non_enospc = \"stop\"", false),
        ("size = 1", "size = 1\nengine = \"io_uring\"", true),
        ("\"ext4\"", "\"mkfs ext4\"", false),
        ("\"ext4\"", "\"\"", false),
        ("\"state\"", "\"sixteen-bytes-ab\"", true),
        ("\"state\"", "\"seventeen-bytes-a\"", false),
        ("\"state\"", "\"a b\"", false),
        ("\"s-1\"", "\"twenty.bytes:[#%&]+~\"", true),
        ("\"s-1\"", "\"twenty-one-bytes-abcd\"", false),
        ("\"s-1\"", "\"a/b\"", false),
        ("\"s-1\"", "\"a$b\"", false),
        ("\"/var\"", "\"/\"", false),
        ("90s", "2m 30s", true),
        ("90s", "2m30s", true),
        ("90s", "5 minutes", true),
        ("90s", "1.5 hours", true),
        ("90s", "1week", true),
        ("90s", "5 parsecs", false),
        ("90s", "m", false),
        ("90s", "soon", false),
        ("90s", "90", false),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let by_schema = validator.validate(&text);
        assert_eq!(by_schema.is_ok(), good, "`{to}`: {by_schema:?}");
        let by_code = VmConfig::from_toml(&text)
            .map_err(|e| e.to_string())
            .and_then(|config| config.validate().map_err(|e| e.to_string()));
        assert_eq!(by_code.is_ok(), good, "`{to}`: {by_code:?}");
    }
}
