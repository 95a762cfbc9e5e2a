#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::OnFailure;

use crate::config::{Descriptors, InterfaceType, Ipv4Cidr};

const MINIMAL: &str = "name = \"a\"\n[kernel]\npath = \"k\"\n";

fn outcome(change: impl FnOnce(&mut VmConfig)) -> Result<(), String> {
    let mut config = VmConfig::from_toml(&format!(
        "{MINIMAL}[[interfaces]]\ntype = \"tap\"\nid = \"t0\"\nmac = \"02:00:00:00:00:01\"\n\
         [[shares]]\ntag = \"data\"\nsource = \"/srv\"\nmount_point = \"/data\"\n"
    ))
    .unwrap();
    change(&mut config);
    config.validate().map_err(|e| e.to_string())
}

#[test]
fn the_least_configuration_is_valid() {
    assert_eq!(outcome(|_| {}), Ok(()));
    assert!(VmConfig::from_toml(MINIMAL).unwrap().validate().is_ok());
}

#[test]
fn every_limit_is_an_error_when_passed() {
    let error = |change: fn(&mut VmConfig)| outcome(change).unwrap_err();
    assert_eq!(error(|c| c.vcpu = 0), "vcpu: 0 is not from 1 to 32");
    assert_eq!(error(|c| c.vcpu = 33), "vcpu: 33 is not from 1 to 32");
    assert_eq!(error(|c| c.mem = 63), "mem: 63 is not from 64 to 1048576");
    assert!(error(|c| c.name = "../etc".into()).starts_with("name: `../etc` is not"));
    assert!(error(|c| c.name = String::new()).starts_with("name: "));
    for tag in ["a b", "a:b", "a,b", "a\"b", "a'b", "a\\b"] {
        let said = outcome(|c| c.shares[0].tag = tag.parse().unwrap()).unwrap_err();
        assert!(said.starts_with("shares.tag: "), "{said}");
        let point = format!("/{tag}");
        let said = outcome(|c| c.shares[0].mount_point = Some(point.into())).unwrap_err();
        assert!(said.starts_with("shares.mount_point: "), "{said}");
    }
    assert!(error(|c| c.interfaces[0].id = "x".repeat(16)).starts_with("interfaces.id: "));
    assert!(error(|c| c.interfaces[0].id = "a/b".into()).starts_with("interfaces.id: "));
    assert!(error(|c| c.shares[0].mount_point = Some("data".into())).contains("absolute"));
    assert_eq!(
        error(|c| c.kernel.cmdline = "a\nb".into()),
        "kernel.cmdline: control characters are not possible in a kernel command line"
    );
    assert_eq!(
        error(|c| (0..9).for_each(|n| {
            let mut share = c.shares[0].clone();
            share.tag = format!("t{n}").parse().unwrap();
            share.mount_point = None;
            c.shares.push(share);
        })),
        "shares: 10 are given, at most 8 are possible"
    );
}

#[test]
fn what_must_be_unique_is() {
    let error = outcome(|c| c.interfaces.push(c.interfaces[0].clone())).unwrap_err();
    assert_eq!(error, "interfaces.id: `t0` is used twice");
    let error = outcome(|c| c.shares.push(c.shares[0].clone())).unwrap_err();
    assert_eq!(error, "shares.tag: `data` is used twice");
}

#[test]
fn a_share_is_served_by_one_virtiofsd_with_the_options_that_it_can_have() {
    let error = |change: fn(&mut Share)| outcome(|c| change(&mut c.shares[0])).unwrap_err();
    assert!(error(|s| s.socket = Some("s".into())).contains("say one of them"));
    assert!(error(|s| s.source = None).starts_with("shares.source: share `data`: it is missing"));
    let external = |change: fn(&mut Share)| {
        outcome(|c| {
            c.shares[0].source = None;
            c.shares[0].socket = Some("/run/fs.sock".into());
            change(&mut c.shares[0]);
        })
    };
    assert_eq!(external(|_| {}), Ok(()));
    assert_eq!(external(|s| s.on_failure = OnFailure::Stop), Ok(()));
    assert!(
        external(|s| s.read_only = Some(true))
            .unwrap_err()
            .starts_with("shares.read_only: ")
    );
    assert!(
        external(|s| s.threads = Some(2))
            .unwrap_err()
            .contains("has no effect with `socket`")
    );
    let long = external(|s| s.socket = Some("x".repeat(108).into())).unwrap_err();
    assert_eq!(long, "shares.socket's bytes: 108 is not from 1 to 107");

    let shifted = |base| {
        outcome(|c| {
            c.shares[0].ids = Some(Ids::Shifted);
            c.shares[0].ids_base = base;
        })
    };
    assert!(
        shifted(None)
            .unwrap_err()
            .starts_with("shares.ids_base: share `data`: it is missing")
    );
    assert_eq!(shifted(Some(65_536)), Ok(()));
    assert_eq!(shifted(Some(u32::MAX - 65_536)), Ok(()));
    for base in [65_535, u32::MAX - 65_535] {
        assert!(
            shifted(Some(base))
                .unwrap_err()
                .contains("is not from 65536 to"),
            "{base}"
        );
    }
    assert!(error(|s| s.ids_base = Some(1 << 20)).contains("belongs to"));
    assert!(error(|s| s.threads = Some(65)).contains("65 is not from 0 to 64"));
    assert!(error(|s| s.mmap = Some(true)).starts_with("shares.mmap: "));
    assert!(
        error(|s| (s.cache, s.writeback) = (Some(Cache::Never), Some(true))).contains("no effect")
    );
}

#[test]
fn queues_mtu_and_descriptors_have_their_limits() {
    let outcome = |change: fn(&mut Interface)| {
        outcome(|c| {
            c.vcpu = 16;
            change(&mut c.interfaces[0]);
        })
    };
    let fd = |numbers: &[i32]| Some(Descriptors::Many(numbers.to_vec()));
    assert_eq!(outcome(|i| i.queues = Some(8)), Ok(()));
    assert_eq!(outcome(|i| i.mtu = Some(65521)), Ok(()));
    assert_eq!(outcome(|i| i.fd = Some(Descriptors::One(3))), Ok(()));
    for (change, error) in [
        (
            (|i| i.queues = Some(0)) as fn(&mut Interface),
            "interfaces.queues: 0 is not from 1 to 8",
        ),
        (
            |i| i.queues = Some(9),
            "interfaces.queues: 9 is not from 1 to 8",
        ),
        (
            |i| i.mtu = Some(67),
            "interfaces.mtu: 67 is not from 68 to 65521",
        ),
        (
            |i| i.mtu = Some(65522),
            "interfaces.mtu: 65522 is not from 68 to 65521",
        ),
        (
            |i| i.bridge = Some("br%d".into()),
            "interfaces.bridge: `br%d` is not 1 to 15 bytes without spaces, `/`, `:` or `%`",
        ),
        (
            |i| i.fd = Some(Descriptors::One(2)),
            "interfaces.fd: 2 is below 3: the first descriptors are the standard ones (interface `t0`)",
        ),
        (
            |i| i.fd = Some(Descriptors::Many(vec![])),
            "interfaces.queues: 0 is not from 1 to 8",
        ),
        (
            |i| i.fd = Some(Descriptors::Many(vec![4, 4])),
            "interfaces.fd: `4` is used twice",
        ),
        (
            |i| {
                i.fd = Some(Descriptors::One(3));
                i.bridge = Some("br0".into());
            },
            "interfaces.bridge: not possible with fd, whose tap is made by others (interface `t0`)",
        ),
        (
            |i| i.kind = InterfaceType::Macvtap,
            "interfaces.fd: a macvtap is handed in: open its /dev/tapN for minivmm and say the descriptor's number \
             (interface `t0`)",
        ),
    ] {
        assert_eq!(outcome(change), Err(error.to_owned()));
    }
    let both = super::tests::outcome(|c| {
        c.vcpu = 2;
        c.interfaces[0].fd = fd(&[3, 4]);
        c.interfaces[0].queues = Some(1);
    });
    let error = "interfaces.queues: 1 are wanted, and fd has 2 (interface `t0`)";
    assert_eq!(both, Err(error.to_owned()));
    let many = super::tests::outcome(|c| c.interfaces[0].queues = Some(2));
    let error = "interfaces.queues: 2 are more than the 1 of vcpu (interface `t0`)";
    assert_eq!(many, Err(error.to_owned()));
}

#[test]
fn every_interface_has_an_address_and_one_of_them_the_gateway() {
    let with = |gateways: [bool; 2]| {
        outcome(|c| {
            let [mut first, mut second] = [0, 0].map(|n: usize| c.interfaces[n].clone());
            (second.id, second.mac) = ("t1".into(), "02:00:00:00:00:99".parse().unwrap());
            for (interface, gateway) in [&mut first, &mut second].into_iter().zip(gateways) {
                interface.address = Ipv4Cidr::try_from("10.0.0.2/8".to_owned()).ok();
                interface.gateway = gateway.then_some([10, 0, 0, 1].into());
            }
            c.interfaces = vec![first, second];
        })
    };
    for gateways in [[false, false], [false, true], [true, false]] {
        assert_eq!(with(gateways), Ok(()), "{gateways:?}");
    }
    let said = with([true, true]).unwrap_err();
    assert!(
        said.starts_with("interfaces.gateway: `t1` is not"),
        "{said}"
    );
}

#[test]
fn the_9p_protocol_is_refused_with_a_hint() {
    assert_eq!(
        outcome(|c| c.shares[0].proto = ShareProto::NineP).unwrap_err(),
        "shares.proto: 9p is not supported (share `data`): say proto = \"virtiofs\""
    );
}
