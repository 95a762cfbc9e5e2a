//! The service: DNS on a tap, its data on the share, across two boots.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{Test, network::Network, vm::Vm};

pub const TESTS: &[Test] = &[Test {
    name: "dns::answers_over_udp_and_tcp_and_keeps_its_data_on_the_second_boot",
    run: service,
}];

fn service() -> Result<()> {
    let network = Network::new("dns")?;
    let vm = Vm::new()?
        .vcpus(2)
        .toml(&Network::toml())
        .by(["ip", "netns", "exec", &network.host]);

    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: dns ready")?;
    for tcp in [false, true] {
        let answer = network.dig("printer.home.test", tcp)?;
        ensure!(
            answer == "192.168.83.10",
            "allowed name, tcp {tcp}: `{answer}`"
        );
        let answer = network.dig("ads.blocked.test", tcp)?;
        ensure!(answer == "0.0.0.0", "blocked name, tcp {tcp}: `{answer}`");
    }
    // The power button: `ip netns exec` has become the supervisor, so the signal reaches it.
    running.signal(Signal::TERM)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(output.contains("the guest powered off"), "{output}");
    let first_boot =
        fs::read_to_string(vm.data().join("first-boot")).context("no marker in the share")?;
    let log =
        fs::read_to_string(vm.data().join("queries.log")).context("no query log in the share")?;
    ensure!(
        log.contains("ads.blocked.test") && log.contains("printer.home.test"),
        "{log}"
    );

    let hosts = vm.data().join("lists.d").join("second.hosts");
    fs::write(hosts, "192.168.83.77 second.home.test\n")?;
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: dns ready")?;
    let answer = network.dig("second.home.test", false)?;
    ensure!(
        answer == "192.168.83.77",
        "a name that the host added: `{answer}`"
    );
    running.signal(Signal::HUP)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "second boot, exit code {code}:\n{output}");
    ensure!(
        fs::read_to_string(vm.data().join("first-boot"))? == first_boot,
        "the second boot thought that it was the first"
    );
    let log = fs::read_to_string(vm.data().join("queries.log"))?;
    ensure!(
        log.contains("ads.blocked.test") && log.contains("second.home.test"),
        "{log}"
    );
    Ok(())
}
