//! The card under load: every combination of offloads, queues and MTU, with a client behind the host's bridge.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{
    Test, depth,
    network::{GUEST, Network},
    vm::{self, Vm, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "net::tcp_and_every_size_of_udp_with_offloads_one_queue_and_mtu_9000",
        run: || {
            Card {
                offload: true,
                queues: 1,
                mtu: Some(9000),
                udp: 9000,
            }
            .passes("udp9k")
        },
    },
    Test {
        name: "net::tcp_without_offloads_over_one_queue_with_mtu_1500",
        run: || {
            Card {
                offload: false,
                queues: 1,
                mtu: None,
                udp: 0,
            }
            .passes("plain")
        },
    },
    Test {
        name: "net::tcp_with_offloads_over_two_queues_with_mtu_1500",
        run: || {
            Card {
                offload: true,
                queues: 2,
                mtu: None,
                udp: 0,
            }
            .passes("two")
        },
    },
    Test {
        name: "net::tcp_without_offloads_over_two_queues_with_mtu_9000",
        run: || {
            Card {
                offload: false,
                queues: 2,
                mtu: Some(9000),
                udp: 0,
            }
            .passes("two9k")
        },
    },
    Test {
        name: "net::two_interfaces_on_a_made_tap_and_on_one_that_is_handed_in_reach_two_networks",
        run: two_interfaces,
    },
    Test {
        name: "net::a_macvtap_that_a_shell_has_opened_is_a_card",
        run: || macvtap(1),
    },
    Test {
        name: "net::a_macvtap_that_a_shell_has_opened_twice_is_a_card_with_two_queues",
        run: || macvtap(2),
    },
    Test {
        name: "net::kill_9_of_the_supervisor_takes_the_tap_along_that_it_made",
        run: supervisor_killed,
    },
];

const CLIENT: &str = "192.168.83.3";
const PROGRAM: &str = include_str!("net.py");
/// Leaves two queues of the tap `vm2` open as 8 and 9 (TUNSETIFF; IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE), and
/// becomes the program that its arguments are.
const HAND_IN: &str = "import fcntl, os, struct, sys\n\
    for fd in 8, 9:\n\
    \x20   tun = os.open('/dev/net/tun', os.O_RDWR)\n\
    \x20   fcntl.ioctl(tun, 0x400454CA, struct.pack('16sH22x', b'vm2', 0x5102))\n\
    \x20   os.dup2(tun, fd)\n\
    os.execvp(sys.argv[1], sys.argv[1:])\n";
const MEGABYTE: u32 = 1_000_000;

/// How the guest sees its card, as `word=value` lines.
const SEEN: &str = "device=/sys/class/net/eth0\n\
    echo mtu=$(cat $device/mtu)\n\
    echo rx_queues=$(ls -d $device/queues/rx-* | wc -l)\n\
    echo combined=$(ethtool -l eth0 2>/dev/null | awk '/^Combined/ { c = $2 } END { print c }')\n\
    for feature in tx-checksumming tcp-segmentation-offload; do\n\
        echo $feature=$(ethtool -k eth0 | awk -v f=$feature: '$1 == f { print $2 }')\n\
    done\n";

struct Card {
    offload: bool,
    queues: u8,
    mtu: Option<u16>,
    /// The largest datagram; 0 for none.
    udp: u32,
}

impl Card {
    fn toml(&self) -> String {
        let mtu = self.mtu.map(|mtu| format!("mtu = {mtu}\n"));
        // The tap is minivmm's own.
        Network::toml().replace("vm0", "vm1")
            + &format!(
                "bridge = \"br0\"\noffload = {}\nqueues = {}\n{}",
                self.offload,
                self.queues,
                mtu.unwrap_or_default()
            )
    }

    /// Boots a guest with it, and moves data both ways.
    fn passes(&self, name: &str) -> Result<()> {
        let bytes = (depth(20, 200) * MEGABYTE).to_string();
        let network = Network::new(name)?;
        let mtu = self.mtu.unwrap_or(1500);
        network.set_mtu(mtu)?;
        let vm = Vm::debian_script(&format!(
            "{SEEN}\
             ping -c 3 -i 0.2 -W 20 {CLIENT} >/dev/null && echo ping=good\n\
             python3 /data/net.py serve {bytes}\n"
        ))?
        .vcpus(2)
        .by(["ip", "netns", "exec", &network.host])
        .toml(&self.toml());
        let program = vm.data().join("net.py");
        fs::write(&program, PROGRAM)?;
        let mut running = vm.start()?;
        running.wait_for("net.py: ready")?;
        let link = vm::run(["ip", "-d", "-n", &network.host, "link", "show", "vm1"])?;
        let said = vm::run([
            "ip",
            "netns",
            "exec",
            &network.client,
            "python3",
            program.to_str().context("its path is text")?,
            "ask",
            GUEST,
            &bytes,
            &self.udp.to_string(),
        ])?;
        let (code, output) = running.wait()?;
        ensure!(code == 0, "exit code {code}:\n{output}");
        println!("{name}: {}", said.trim().replace('\n', ", "));
        for words in ["to-guest: good", "from-guest: good"] {
            ensure!(said.contains(words), "no `{words}` in:\n{said}\n{output}");
        }
        if self.udp > 0 {
            let all = format!("udp: {0} of {0}, ", self.udp + 1);
            ensure!(said.contains(&all), "no `{all}` in:\n{said}\n{output}");
        }
        ensure!(
            link.contains("master br0") && link.contains(&format!("mtu {mtu} ")),
            "{link}"
        );
        ensure!(link.contains("multi_queue") == (self.queues > 1), "{link}");
        let (queues, mtu) = (self.queues.to_string(), mtu.to_string());
        let offload = if self.offload { "on" } else { "off" };
        for (word, expected) in [
            ("ping=", "good"),
            ("mtu=", &mtu),
            ("rx_queues=", &queues),
            ("combined=", &queues),
            ("tx-checksumming=", offload),
            ("tcp-segmentation-offload=", offload),
        ] {
            let seen = value(&output, word)?;
            ensure!(seen == expected, "{word}{seen}, not {expected}:\n{output}");
        }
        network.has_no_link("vm1")
    }
}

/// The second one is on a tap that the program which starts minivmm hands in, by a descriptor for each of two queues.
fn two_interfaces() -> Result<()> {
    const HOST: &str = "192.168.84.1";
    let network = Network::new("nics")?;
    let host = network.host.as_str();
    let tap = format!(
        "ip tuntap add dev vm2 mode tap multi_queue && ip addr add {HOST}/24 dev vm2 && ip link set vm2 up"
    );
    vm::run(["ip", "netns", "exec", host, "sh", "-c", &tap])?;
    let vm = Vm::debian_script(&format!(
        "ip address add 192.168.84.2/24 dev eth1 && ip link set eth1 up\n\
         ping -c 3 -i 0.2 -W 20 {CLIENT} >/dev/null && echo first=good\n\
         ping -c 3 -i 0.2 -W 20 -I eth1 {HOST} >/dev/null && echo second=good\n\
         echo queues=$(ls -d /sys/class/net/eth1/queues/rx-* | wc -l)\n\
         for n in 0 1; do echo mac$n=$(cat /sys/class/net/eth$n/address); done\n"
    ))?
    .vcpus(2)
    .by(["ip", "netns", "exec", host, "python3", "-c", HAND_IN])
    .toml(&format!(
        "{}bridge = \"br0\"\n[[interfaces]]\ntype = \"tap\"\nid = \"second\"\nmac = \"02:00:00:00:00:02\"\n\
         fd = [8, 9]\n",
        Network::toml().replace("vm0", "vm1")
    ));
    let (code, output) = vm.run()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    for (word, expected) in [
        ("first=", "good"),
        ("second=", "good"),
        ("queues=", "2"),
        ("mac0=", "02:00:00:00:00:01"),
        ("mac1=", "02:00:00:00:00:02"),
    ] {
        ensure!(value(&output, word)? == expected, "{word}:\n{output}");
    }
    // What minivmm made is gone, what it found is there.
    network.has_no_link("vm1")?;
    vm::run(["ip", "-n", host, "link", "show", "vm2"])?;
    Ok(())
}

/// As microvm.nix hands it in: a shell opens the device once for each queue, and becomes minivmm.
fn macvtap(queues: u8) -> Result<()> {
    let bytes = (depth(20, 200) * MEGABYTE).to_string();
    let network = Network::new(&format!("macvtap{queues}"))?;
    let host = network.host.as_str();
    let make = &format!(
        "ip link add low0 type veth peer name low1 && ip link set low1 master br0 up && \
                ip link set low0 up && \
                ip link add link low0 name mv0 index {} address 02:00:00:00:00:01 type macvtap mode bridge && \
                ip link set mv0 up",
        // Its device is of all namespaces: one of its own for each test.
        6020 + u32::from(queues)
    );
    vm::run(["ip", "netns", "exec", host, "sh", "-c", make])?;
    let fds: Vec<u8> = (3..3 + queues).collect();
    let opens = fds.iter().map(|fd| format!("exec {fd}<>\"$device\"\n"));
    let shell = format!(
        "device=/dev/tap$(cat /sys/class/net/mv0/ifindex)\n{}exec \"$@\"",
        opens.collect::<String>()
    );
    let vm = Vm::debian_script(&format!(
        "{SEEN}\
         ping -c 3 -i 0.2 -W 20 {CLIENT} >/dev/null && echo ping=good\n\
         python3 /data/net.py serve {bytes}\n"
    ))?
    .vcpus(2)
    .by(["ip", "netns", "exec", host, "sh", "-euc", &shell, "sh"])
    .toml(&format!(
        "{}fd = {fds:?}\n",
        Network::toml()
            .replace("\"tap\"", "\"macvtap\"")
            .replace("vm0", "mv0")
    ));
    let program = vm.data().join("net.py");
    fs::write(&program, PROGRAM)?;
    let mut running = vm.start()?;
    running.wait_for("net.py: ready")?;
    let said = vm::run([
        "ip",
        "netns",
        "exec",
        &network.client,
        "python3",
        program.to_str().context("its path is text")?,
        "ask",
        GUEST,
        &bytes,
        "1500",
    ])?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    println!("macvtap, {queues}: {}", said.trim().replace('\n', ", "));
    for words in ["to-guest: good", "from-guest: good", "udp: 1501 of 1501, "] {
        ensure!(said.contains(words), "no `{words}` in:\n{said}\n{output}");
    }
    for (word, expected) in [
        ("ping=", "good"),
        ("rx_queues=", queues.to_string().as_str()),
        ("tx-checksumming=", "on"),
        ("tcp-segmentation-offload=", "on"),
    ] {
        let seen = value(&output, word)?;
        ensure!(seen == expected, "{word}{seen}, not {expected}:\n{output}");
    }
    // It is its maker's.
    vm::run(["ip", "-n", host, "link", "show", "mv0"])?;
    Ok(())
}

fn supervisor_killed() -> Result<()> {
    let network = Network::new("kill")?;
    let vm = Vm::with_script("echo minivmm-guest: standing still\nsleep 100000\n")?
        .by(["ip", "netns", "exec", &network.host])
        .toml(&format!(
            "{}create = true\n",
            Network::toml().replace("vm0", "vm1")
        ));
    let mut running = vm.start()?;
    running.wait_for("minivmm-guest: standing still")?;
    vm::run(["ip", "-n", &network.host, "link", "show", "vm1"])?;
    let processes = vm::descendants(running.pid())?;
    running.signal(Signal::KILL)?;
    vm::wait_gone(&processes)?;
    running.wait()?;
    network.has_no_link("vm1")
}
