//! The hardened base: every item of docs/base.md, read out inside a guest.

mod items;

use std::{fs, process::Output};

use anyhow::{Context, Result, ensure};

use super::vm::{Root, Service, Started, Visitor};
use crate::{
    Test,
    network::{GUEST, Network},
    vm,
};

pub const TESTS: &[Test] = &[
    Test {
        name: "services::base::every_item_of_its_list_holds_and_ssh_opens_to_the_one_key_by_tcp_and_by_vsock",
        run: items_and_visits,
    },
    Test {
        name: "services::base::from_a_share_with_a_layer_over_it_what_is_written_is_in_ram_and_without_a_key_nobody_listens",
        run: share_and_layer,
    },
    Test {
        name: "services::base::a_layer_that_is_missing_is_named_on_the_console_and_the_guest_panics",
        run: layer_missing,
    },
    Test {
        name: "services::base::a_guest_whose_data_is_missing_says_so_and_powers_off",
        run: data_missing,
    },
];

/// The guest's part of a test.
const REPORT: &str = include_str!("base/report.sh");

/// The exit code of a VM whose guest panicked and is not started again.
const PANICKED: i32 = 12;

fn items_and_visits() -> Result<()> {
    let network = Network::new("base")?;
    let service = Service::new(Root::Volume)?
        .data("host")
        .network(&network)
        .script(REPORT);
    let directory = service.directory().to_owned();
    let (key, other) = (
        Visitor::new(&directory, "key")?,
        Visitor::new(&directory, "other")?,
    );
    let mut started = service
        .credential("ssh.authorized_keys.admin", key.public()?)
        .start()?;
    started.wait_ready()?;

    let report = fs::read_to_string(started.vm.data().join("report")).context("no report")?;
    items::hold(&report)?;
    visits(&started, &network, &key, &other)?;
    spoofed(&network, &key)?;

    let host_key = started.vm.data().join("ssh/host_ed25519.pub");
    ensure!(host_key.exists(), "sshd's key is not on /data");
    let (code, output) = started.stop()?;
    ensure!(code == 0, "the power button: exit code {code}:\n{output}");
    Ok(())
}

/// Who is let in, and who is not.
fn visits(started: &Started, network: &Network, key: &Visitor, other: &Visitor) -> Result<()> {
    let vm = &started.vm;
    let hello = "id -un; cat /run/minivmm-ssh/host_ed25519";
    for (way, said) in [
        ("tcp", key.by_tcp(network, "admin", hello)?),
        ("vsock", key.by_vsock(vm, "admin", hello)?),
    ] {
        ensure!(
            said.stdout == b"admin\n" && text(&said).contains("Permission denied"),
            "ssh by {way} with the key: {}",
            text(&said)
        );
    }
    for (what, said) in [
        ("root by tcp", key.by_tcp(network, "root", "true")?),
        ("root by vsock", key.by_vsock(vm, "root", "true")?),
        (
            "another key by tcp",
            other.by_tcp(network, "admin", "true")?,
        ),
        ("another key by vsock", other.by_vsock(vm, "admin", "true")?),
        (
            "a password",
            other.by_tcp_with(
                network,
                "admin",
                "true",
                &[
                    "-o",
                    "PreferredAuthentications=password,keyboard-interactive",
                ],
            )?,
        ),
    ] {
        ensure!(
            said.status.code() == Some(255)
                && text(&said).contains("Permission denied (publickey)."),
            "ssh let in {what}, or offers more than keys: {said:?}"
        );
    }

    // What admin leaves at home opens nothing.
    let added = key.by_vsock(
        vm,
        "admin",
        &format!(
            "mkdir -p -m 700 ~/.ssh && echo '{}' >~/.ssh/authorized_keys",
            other.public()?.trim()
        ),
    )?;
    ensure!(added.status.success(), "{}", text(&added));
    let said = other.by_vsock(vm, "admin", "true")?;
    ensure!(
        said.status.code() == Some(255),
        "ssh takes keys that admin has written"
    );
    Ok(())
}

/// A sender whose answers would not go back by the same card is not heard (rp_filter), on the card itself.
fn spoofed(network: &Network, key: &Visitor) -> Result<()> {
    let filtered = || -> Result<u64> {
        let said = key.by_tcp(network, "admin", "cat /proc/net/netstat")?;
        counter(&text(&said), "TcpExt:", "IPReversePathFilter")
    };
    let before = filtered()?;
    let client = network.client.as_str();
    vm::run([
        "ip",
        "-n",
        client,
        "address",
        "add",
        "10.99.0.1/32",
        "dev",
        "veth1",
    ])?;
    vm::run([
        "ip",
        "netns",
        "exec",
        client,
        "python3",
        "-c",
        &format!(
            "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('10.99.0.1', 0))\n\
             for _ in range(20): s.sendto(b'x', ('{GUEST}', 9))\n"
        ),
    ])?;
    let after = filtered()?;
    ensure!(
        after >= before + 20,
        "IP spoofing: of 20 datagrams from an address that is not this network's {} were dropped",
        after - before
    );
    Ok(())
}

/// A counter of /proc/net/netstat: a line of names and a line of numbers.
fn counter(netstat: &str, group: &str, name: &str) -> Result<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with(group));
    let (names, numbers) = (
        lines.next().context("no names")?,
        lines.next().context("no numbers")?,
    );
    let (_, number) = names
        .split(' ')
        .zip(numbers.split(' '))
        .find(|(is, _)| *is == name)
        .with_context(|| format!("no counter {name}"))?;
    Ok(number.parse()?)
}

fn share_and_layer() -> Result<()> {
    let script = "exec >/data/report.new 2>&1\n\
         echo \"root: $(findmnt --noheadings --output FSTYPE /)\"\n\
         echo \"layer: $(cat /etc/layer) $(cat /usr/share/layer/file)\"\n\
         echo \"covered: $(cat /etc/issue)\"\n\
         echo \"base: $(sh -c 'test -x /usr/bin/ls && echo there')\"\n\
         echo \"mode: $(stat -c '%a %u' / /etc | tr '\\n' ' ')\"\n\
         echo x >/etc/layer && mkdir /usr/share/layer/new && rm /etc/issue && echo written: yes\n\
         echo \"listening: $(ss --no-header --listening --tcp --udp --raw --numeric)\"\n\
         echo \"vsock: $(systemctl is-active minivmm-ssh.socket)\"\n\
         echo \"failed: $(systemctl list-units --failed --plain --no-legend)\"\n\
         sync; mv /data/report.new /data/report\n";
    let service = Service::new(Root::Share)?.data("host").script(script);
    let layer = service.directory().join("layer");
    for (name, content) in [
        ("etc/layer", "one"),
        ("etc/issue", "covered"),
        ("usr/share/layer/file", "two"),
    ] {
        let path = layer.join(name);
        fs::create_dir_all(path.parent().context("it has one")?)?;
        fs::write(path, content)?;
    }
    let image = service.directory().join("layer.erofs");
    let names = [&image, &layer].map(|path| path.display().to_string());
    vm::run(["mkfs.erofs", "--quiet", &names[0], &names[1]])?;
    let mut started = service.layer_of(&image).start()?;
    started.wait_ready()?;

    let report = fs::read_to_string(started.vm.data().join("report")).context("no report")?;
    for (word, expected) in [
        ("root:", "overlay"),
        ("layer:", "one two"),
        ("covered:", "covered"),
        ("base:", "there"),
        ("mode:", "755 0 755 0"),
        ("written:", "yes"),
        ("listening:", ""),
        ("vsock:", "inactive"),
        ("failed:", ""),
    ] {
        let is = vm::value(&report, word)?;
        ensure!(is == expected, "{word} {is}\n{report}");
    }
    let (code, output) = started.stop()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    Ok(())
}

fn layer_missing() -> Result<()> {
    let started = Service::new(Root::Volume)?
        .words("minivmm.layers=/dev/vdz")
        .start()?;
    let (code, output) = started.running.wait()?;
    ensure!(
        output.contains("minivmm-init: there is no /dev/vdz for a layer"),
        "{output}"
    );
    ensure!(code == PANICKED, "exit code {code}:\n{output}");
    Ok(())
}

fn data_missing() -> Result<()> {
    let started = Service::new(Root::Volume)?
        .words("systemd.mount-extra=nothing:/data:virtiofs")
        .start()?;
    let (code, output) = started.running.wait()?;
    ensure!(
        output.contains("minivmm-base: this VM cannot start; failed: data.mount"),
        "{output}"
    );
    ensure!(code == 0, "exit code {code}:\n{output}");
    Ok(())
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}
