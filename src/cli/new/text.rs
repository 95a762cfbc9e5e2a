//! The configuration that `minivmm new` writes.

use minivmm_vmm::VmConfig;
use serde::Serialize;

use crate::{cli::look, failure::Failure};

const TEMPLATE: &str = include_str!("template.toml");
/// What a place in the template begins and ends with.
const MARK: char = '@';
/// What the init of the base image needs to be told besides.
const ROOT: &str = "root=/dev/vda rootfstype=erofs ro init=/usr/lib/minivmm/init";

/// What the file is to say.
pub struct Wanted {
    pub name: String,
    pub vcpu: u8,
    pub mem: u32,
    pub kernel: String,
    pub image: String,
    pub layers: Vec<String>,
    pub tap: String,
    pub mac: String,
    pub bridge: Option<String>,
    pub address: Option<String>,
    pub gateway: Option<String>,
    pub dns: Vec<String>,
    pub share: String,
}

impl Wanted {
    /// The file's text, which is a configuration within all limits.
    pub fn text(&self) -> Result<String, Failure> {
        let text = fill(TEMPLATE, |place| self.value(place));
        let config = VmConfig::from_toml(&text).map_err(|error| Failure::config(error.message))?;
        config.validate().map_err(Failure::config)?;
        Ok(text)
    }

    fn value(&self, place: &str) -> Option<String> {
        Some(match place {
            "name" => toml(&self.name),
            // In comments, which it must not end: whether it is a name is seen later.
            "words:name" => look::clean(&self.name),
            "vcpu" => self.vcpu.to_string(),
            "mem" => self.mem.to_string(),
            "kernel" => toml(&self.kernel),
            "cmdline" => toml(self.cmdline()),
            "image" => toml(&self.image),
            "layers" => self.layers(),
            "tap" => toml(&self.tap),
            "mac" => toml(&self.mac),
            "bridge" => line("bridge", self.bridge.as_ref(), "vms"),
            "address" => line("address", self.address.as_ref(), "192.168.83.2/24"),
            "gateway" => line("gateway", self.gateway.as_ref(), "192.168.83.1"),
            "dns" => line("dns", some(&self.dns), ["192.168.83.1"]),
            "share" => toml(&self.share),
            _ => return None,
        })
    }

    fn cmdline(&self) -> String {
        let disks: Vec<_> = ('b'..='z')
            .zip(&self.layers)
            .map(|(letter, _)| format!("/dev/vd{letter}"))
            .collect();
        match disks.is_empty() {
            true => ROOT.to_owned(),
            false => format!("{ROOT} minivmm.layers={}", disks.join(",")),
        }
    }

    fn layers(&self) -> String {
        let layers = self.layers.iter();
        let layers: String = layers
            .map(|image| format!("\n[[volumes]]\nimage = {}\nread_only = true\n", toml(image)))
            .collect();
        match layers.is_empty() {
            true => String::new(),
            false => format!("\n# What makes it this service.{layers}"),
        }
    }
}

fn some(list: &[String]) -> Option<&[String]> {
    (!list.is_empty()).then_some(list)
}

/// A key with its value, or behind a `#` with an example.
fn line(key: &str, value: Option<impl Serialize>, example: impl Serialize) -> String {
    match value {
        Some(value) => format!("{key} = {}", toml(value)),
        None => format!("# {key} = {}", toml(example)),
    }
}

/// A text or a list of texts, as TOML has it: with the escapes of JSON. What TOML does not take even so, DEL, no key takes.
fn toml(value: impl Serialize) -> String {
    serde_json::json!(value).to_string()
}

/// A template with its places filled, of which each has a value: what stands in a value is no place.
fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once(MARK) {
        text.push_str(before);
        let place = after.split_once(MARK);
        match place.and_then(|(place, after)| Some((value(place)?, after))) {
            Some((value, after)) => {
                text.push_str(&value);
                rest = after;
            }
            None => {
                text.push(MARK);
                rest = after;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    fn wanted(name: &str) -> Wanted {
        Wanted {
            name: name.to_owned(),
            vcpu: 2,
            mem: 1024,
            kernel: "/k".to_owned(),
            image: "/base".to_owned(),
            layers: vec!["/one".to_owned()],
            tap: "vm-a".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            bridge: None,
            address: None,
            gateway: None,
            dns: Vec::new(),
            share: "/data".to_owned(),
        }
    }

    fn config(wanted: &Wanted) -> VmConfig {
        VmConfig::from_toml(&wanted.text().unwrap()).unwrap()
    }

    fn error(change: impl FnOnce(&mut Wanted)) -> String {
        let mut wanted = wanted("a");
        change(&mut wanted);
        wanted.text().unwrap_err().to_string()
    }

    #[test]
    fn what_is_said_stands_in_the_configuration() {
        let mut wanted = wanted("dns.home");
        wanted.bridge = Some("br0".to_owned());
        wanted.address = Some("10.0.0.2/24".to_owned());
        wanted.gateway = Some("10.0.0.1".to_owned());
        wanted.dns = vec!["10.0.0.1".to_owned(), "9.9.9.9".to_owned()];
        wanted.layers.push("/two".to_owned());
        let config = config(&wanted);
        assert_eq!(config.name, "dns.home");
        assert_eq!((config.vcpu, config.mem), (2, 1024));
        let images: Vec<_> = (config.volumes.iter())
            .map(|volume| (volume.image.as_path(), volume.read_only))
            .collect();
        let expected = ["/base", "/one", "/two"].map(|path| (Path::new(path), true));
        assert_eq!(images, expected);
        let line = minivmm_vmm::cmdline::build(&config);
        for words in [
            " ip=10.0.0.2::10.0.0.1:255.255.255.0:dns.home::off:10.0.0.1:9.9.9.9 ",
            " systemd.mount-extra=data:/data:virtiofs ",
            " systemd.set_credential=vmm.notify_socket:",
            " root=/dev/vda rootfstype=erofs ro init=/usr/lib/minivmm/init minivmm.layers=/dev/vdb,/dev/vdc",
        ] {
            assert!(line.contains(words), "no `{words}` in {line}");
        }
        assert_eq!(config.interfaces[0].bridge.as_deref(), Some("br0"));
        assert!(config.vsock.is_some());
    }

    #[test]
    fn what_is_not_said_stands_there_behind_a_mark_and_is_right_without_it() {
        let text = wanted("a").text().unwrap();
        assert!(!text.contains(MARK), "{text}");
        let is_key = |line: &str| {
            line.split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        };
        let with_all: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(line) if line.starts_with("[[") || is_key(line) => line,
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let config = VmConfig::from_toml(&with_all).unwrap();
        config.validate().unwrap();
        let all = serde_json::to_string(&config).unwrap();
        for said in [
            "vms",
            "192.168.83.2/24",
            "192.168.83.1",
            "shifted",
            "sops-age-key",
            "restart",
        ] {
            assert!(all.contains(said), "no `{said}` in {all}");
        }
        let mut plain = wanted("a");
        plain.layers.clear();
        assert!(!plain.text().unwrap().contains("minivmm.layers"));
    }

    #[test]
    fn no_value_becomes_anything_else_than_the_value() {
        for path in [
            "/a b", "/\"", "/\\n", "/ü", "/@name@", "/#", "/'''", "/\t\u{1}", "/\u{85}",
        ] {
            let mut wanted = wanted("a");
            wanted.share = path.to_owned();
            wanted.layers = vec![path.to_owned()];
            let config = config(&wanted);
            assert_eq!(config.shares[0].source.as_deref(), Some(Path::new(path)));
            assert_eq!(config.volumes[1].image, Path::new(path));
        }
    }

    #[test]
    fn what_no_configuration_can_say_is_refused_by_its_key() {
        let long = "a".repeat(65);
        for name in [
            "",
            "-a",
            ".a",
            "a b",
            "a/b",
            "a\nvcpu = 1",
            "@name@",
            "ä",
            &long,
        ] {
            let said = error(|w| w.name = name.to_owned());
            assert!(said.starts_with("name: `"), "{name:?}: {said}");
        }
        let text = str::to_owned;
        type Change<'a> = &'a dyn Fn(&mut Wanted);
        let cases: [(&str, Change); 9] = [
            ("vcpu: 33 ", &|w| w.vcpu = 33),
            ("mem: 1 ", &|w| w.mem = 1),
            ("interfaces.id: ", &|w| w.tap = text("a-name-that-is-long")),
            ("interfaces.bridge: ", &|w| w.bridge = Some(text("a/b"))),
            ("interfaces.address: ", &|w| {
                w.address = Some(text("192.168.83.2"));
            }),
            ("interfaces.gateway: `vm-a` has no address", &|w| {
                w.gateway = Some(text("192.168.83.1"));
            }),
            ("interfaces.mac: ", &|w| w.mac = text("03:00:00:00:00:01")),
            ("volumes: 11 ", &|w| w.layers = vec![text("/x"); 10]),
            ("", &|w| w.share = text("/\u{7f}")),
        ];
        for (expected, change) in cases {
            let said = error(change);
            assert!(said.starts_with(expected), "{expected}: {said}");
        }
    }
}
