//! Taps that cannot be had, and what to do about it.

use std::{fs, process::Command};

use anyhow::Result;

use super::{Output, attempt};
use crate::{
    Test,
    network::Network,
    vm::{self, Vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "errors::a_tap_that_may_not_be_made_is_named_with_the_command_that_makes_it",
        run: || {
            as_user("create = true\n", "")?.says(
                78,
                &[
                    "test.toml:14: interfaces.id:",
                    "`vm1` does not exist and may not be made",
                    "`ip tuntap add dev vm1 mode tap`",
                ],
            )
        },
    },
    Test {
        name: "errors::a_bridge_that_does_not_exist_is_named_with_the_command_that_makes_it",
        run: || {
            in_namespace("bridge = \"br9\"\n", "")?.says(
                78,
                &[
                    "test.toml:17: interfaces.bridge:",
                    "`br9`",
                    "`ip link add br9 type bridge`",
                ],
            )
        },
    },
    Test {
        name: "errors::a_tap_with_one_queue_is_named_with_the_command_that_makes_another",
        run: || {
            in_namespace("queues = 2\n", "ip tuntap add dev vm1 mode tap;")?.says(
                78,
                &[
                    "test.toml:17: interfaces.queues:",
                    "`ip tuntap add dev vm1 mode tap multi_queue`",
                ],
            )
        },
    },
    Test {
        name: "errors::a_descriptor_that_is_closed_or_no_tap_is_named",
        run: || {
            in_namespace("fd = 9\n", "exec 9>&-;")?
                .says(78, &["test.toml:17: interfaces.fd:", "9 is not open"])?;
            in_namespace("fd = 9\n", "exec 9</dev/null;")?
                .says(78, &["test.toml:17: interfaces.fd:", "9 is no tap"])?;
            // Opened, and attached to nothing.
            in_namespace("fd = 9\n", "exec 9<>/dev/net/tun;")?
                .says(78, &["test.toml:17: interfaces.fd:", "9 is no tap"])
        },
    },
    Test {
        name: "errors::a_macvtap_that_is_handed_in_twice_or_was_removed_is_named",
        run: || {
            in_namespace("fd = [9, 8]\n", &format!("{} exec 8>&9;", macvtap(6011)))?
                .says(78, &["test.toml:17: interfaces.fd:", "8 is a copy"])?;
            in_namespace("fd = 9\n", &format!("{} ip link del mv0;", macvtap(6012)))?.says(
                78,
                &["test.toml:17: interfaces.fd:", "its macvtap was removed"],
            )
        },
    },
];

/// Makes a macvtap and opens its device as 9. The device of an index that was used a moment ago, in another namespace, may
/// still be removed.
fn macvtap(index: u32) -> String {
    format!(
        "ip link add low0 type veth peer name low1 && \
         ip link add link low0 name mv0 index {index} type macvtap && exec 9<>/dev/tap{index} &&"
    )
}

/// Runs a VM of two vCPUs with one interface, `vm1`, with `keys` of its own, in a network namespace of its own where
/// `before` has been run.
fn in_namespace(keys: &str, before: &str) -> Result<Output> {
    let vm = configured(Vm::new()?, keys)?;
    let script = format!("{before} exec {} run -c test.toml", vm::program().display());
    let words = ["--net", "sh", "-c", &script];
    attempt(&vm, Command::new("unshare").args(words))
}

fn as_user(keys: &str, before: &str) -> Result<Output> {
    const NOBODY: u32 = 65534;
    let vm = configured(Vm::new()?.owned_by(NOBODY)?, keys)?;
    let script = format!(
        "{before} chmod 666 /dev/net/tun; MINIVMM_VIRTIOFSD={dir}/virtiofsd exec setpriv --reuid {NOBODY} \
         --regid {NOBODY} --clear-groups {dir}/minivmm run -c test.toml",
        dir = vm.directory().display()
    );
    let words = ["--net", "sh", "-c", &script];
    attempt(&vm, Command::new("unshare").args(words))
}

fn configured(vm: Vm, keys: &str) -> Result<Vm> {
    let interface = Network::toml().replace("vm0", "vm1");
    let vm = vm.vcpus(2).toml(&interface).toml(keys);
    fs::write(vm.directory().join("test.toml"), vm.config()?)?;
    Ok(vm)
}
