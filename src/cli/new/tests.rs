#![allow(clippy::unwrap_used)]
use clap::Parser;
use minivmm_vmm::VmConfig;
use std::os::unix::fs::symlink;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: NewArgs,
}

fn args(words: &[&str]) -> NewArgs {
    Line::parse_from(std::iter::once(&"new").chain(words)).args
}

fn config(words: &[&str]) -> VmConfig {
    let text = args(words).wanted().unwrap().text().unwrap();
    VmConfig::from_toml(&text).unwrap()
}

/// Names of every length and with every character that a name may have.
fn names() -> Vec<String> {
    let mut names: Vec<String> = (1..=64).map(|n| "a".repeat(n)).collect();
    names.extend((1..=64).map(|n| {
        format!(
            "9{}",
            ".-_Z".chars().cycle().take(n - 1).collect::<String>()
        )
    }));
    names.extend(
        [
            "adguard",
            "actual",
            "a.b",
            "home-assistant",
            "home-assistant-2",
            "true",
            "1e3",
        ]
        .map(str::to_owned),
    );
    names
}

#[test]
fn the_file_of_every_name_is_a_configuration() {
    let mut macs = Vec::new();
    let mut taps = Vec::new();
    for name in names() {
        let config = config(&[&name]);
        config.validate().unwrap();
        assert_eq!(config.name, name);
        let card = &config.interfaces[0];
        assert_eq!(card.mac.bytes()[0], 2, "{}", card.mac);
        assert!(
            card.id.starts_with("vm-") && !card.id.contains('.'),
            "{}",
            card.id
        );
        assert_eq!(card.bridge.as_deref(), Some("vms"));
        macs.push(card.mac.to_string());
        taps.push(card.id.clone());
    }
    for list in [&mut macs, &mut taps] {
        let all = list.len();
        list.sort();
        list.dedup();
        // Twice among them is the one of a single 9 or of a single letter alone.
        assert_eq!(list.len(), all, "{list:?}");
    }
}

#[test]
fn a_name_has_the_same_card_again_and_another_on_another_host() {
    let mac_of = |host: u128| mac(default_uuid(Some(Uuid::from_u128(host)), "adguard"));
    assert_eq!(mac_of(1), mac_of(1));
    assert_ne!(mac_of(1), mac_of(2));
    assert_eq!(
        mac(default_uuid(None, "adguard")),
        mac(default_uuid(None, "adguard"))
    );
    let [one, two] = [(), ()].map(|()| config(&["adguard"]).interfaces[0].mac);
    assert_eq!(one, two);
}

#[test]
fn options_are_in_the_file() {
    let config = config(&[
        "dns",
        "--vcpu",
        "1",
        "--mem",
        "256",
        "--kernel",
        "/k",
        "--image",
        "/b",
        "--layer",
        "/c",
        "--layer",
        "d",
        "--share",
        "e",
        "--tap",
        "t0",
        "--mac",
        "02:00:00:00:00:09",
        "--address",
        "10.0.0.2/8",
        "--gateway",
        "10.0.0.1",
        "--dns",
        "1.1.1.1",
        "--dns",
        "9.9.9.9",
    ]);
    let card = &config.interfaces[0];
    assert_eq!((config.vcpu, config.mem), (1, 256));
    assert_eq!(card.id, "t0");
    assert_eq!(card.bridge, None, "a tap of the host's own");
    assert_eq!(card.mac.to_string(), "02:00:00:00:00:09");
    assert_eq!(card.dns.len(), 2);
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.volumes[2].image, here.join("d"));
    assert_eq!(config.shares[0].source, Some(here.join("e")));
    let alone = self::config(&["dns", "--no-layer", "--tap", "t0", "--bridge", "b0"]);
    assert_eq!(alone.volumes.len(), 1);
    assert_eq!(alone.interfaces[0].bridge.as_deref(), Some("b0"));
}

#[test]
fn a_file_is_replaced_only_by_force_and_never_half() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.toml");
    let read = || fs::read_to_string(&path).unwrap();
    write(&path, "one", false).unwrap();
    let said = write(&path, "two", false).unwrap_err().to_string();
    assert!(said.contains("a.toml exists: say --force"), "{said}");
    assert_eq!(read(), "one");
    write(&path, "two", true).unwrap();
    assert_eq!(read(), "two");
    // What a link leads to is somebody else's.
    let link = directory.path().join("link");
    symlink(directory.path().join("nowhere"), &link).unwrap();
    assert!(write(&link, "three", false).is_err());
    write(&link, "three", true).unwrap();
    assert!(!directory.path().join("nowhere").exists());
    for force in [false, true] {
        assert!(write(directory.path(), "four", force).is_err());
        let said = write(&path.join("b"), "four", force)
            .unwrap_err()
            .to_string();
        assert!(said.contains("cannot be written"), "{said}");
    }
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        2,
        "left behind"
    );
}

#[test]
fn what_is_said_next_can_be_pasted() {
    for (word, said) in [
        ("a.toml", "a.toml"),
        ("/a b", "'/a b'"),
        ("it's", r"'it'\''s'"),
        ("", "''"),
    ] {
        assert_eq!(shell(word), said);
    }
    let mut wanted = args(&["dns"]).wanted().unwrap();
    wanted.share = "/srv/two words".to_owned();
    let steps = steps(&wanted, Path::new("dns.toml"));
    assert_eq!(steps[0].0, "mkdir -p '/srv/two words'");
    assert!(steps[1].0.ends_with("--config dns.toml"), "{}", steps[1].0);
}
