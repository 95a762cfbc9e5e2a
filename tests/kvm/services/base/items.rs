//! What a guest said of itself, held against what the base promises. Every complaint names its item.

use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};

/// The values that the base sets, as its own file has them.
const SYSCTL: &str = include_str!("../../../../guest/base/files/usr/lib/sysctl.d/60-minivmm.conf");

/// Keys that must be there, whatever kernel it is: a line for a key that is missing has no effect.
const ALWAYS: [&str; 6] = [
    "kernel.kptr_restrict",
    "kernel.dmesg_restrict",
    "kernel.yama.ptrace_scope",
    "net.core.bpf_jit_harden",
    "net.ipv4.conf.CARD.rp_filter",
    "net.ipv4.conf.CARD.accept_redirects",
];

/// Modules that report.sh asks for.
const MODULES: usize = 18;

/// What `sshd -T` must say.
const SSHD: [&str; 16] = [
    "permitrootlogin no",
    "passwordauthentication no",
    "kbdinteractiveauthentication no",
    "hostbasedauthentication no",
    "permitemptypasswords no",
    "authenticationmethods publickey",
    "allowgroups admin",
    "authorizedkeysfile /run/minivmm-ssh/authorized_keys/%u",
    "usepam no",
    "disableforwarding yes",
    "x11forwarding no",
    "permittunnel no",
    "permituserenvironment no",
    "permituserrc no",
    "maxauthtries 3",
    "logingracetime 20",
];

/// The units that run or wait, and nothing else does. A test's own is `test.service`.
const RUNNING: [&str; 13] = [
    "minivmm-power-button.service",
    "minivmm-resolv-conf.path",
    "minivmm-ssh.socket",
    "ssh.service",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-tmpfiles-clean.timer",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
];

/// How exposed a unit may be, in tenths, as `systemd-analyze security` counts.
const EXPOSURE: [(&str, u32); 7] = [
    ("ssh.service", 60),
    ("minivmm-power-button.service", 20),
    ("minivmm-resolv-conf.service", 20),
    ("minivmm-ssh-keys.service", 25),
    ("systemd-journald.service", 50),
    ("systemd-networkd.service", 35),
    ("systemd-udevd.service", 75),
];

/// Fails with all that does not hold.
pub fn hold(report: &str) -> Result<()> {
    ensure!(
        report.contains("\n== end\n"),
        "the report has no end:\n{report}"
    );
    let mut wrong = String::new();
    for (name, check) in CHECKS {
        if let Err(error) = check(report) {
            writeln!(wrong, "{name}: {error:#}")?;
        }
    }
    ensure!(wrong.is_empty(), "what does not hold:\n{wrong}\n{report}");
    Ok(())
}

type Check = fn(&str) -> Result<()>;

/// The items, by the names that docs/base.md has for them.
const CHECKS: [(&str, Check); 16] = [
    ("kernel settings", sysctl),
    ("modules", modules),
    ("ssh", sshd),
    ("listening", |report| nothing(report, "listening-but-ssh")),
    ("failed units", |report| nothing(report, "failed")),
    ("services", running),
    ("core dumps", core),
    ("journal", journal),
    ("set-id programs", |report| nothing(report, "setid")),
    ("passwords", passwords),
    ("mounts", mounts),
    ("read-only root", written),
    ("system manager", pid1),
    ("users", |report| nothing(report, "user")),
    ("exposure", exposure),
    ("machine", machine),
];

/// The lines of a section.
fn section<'a>(report: &'a str, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let head = format!("== {name}");
    report
        .lines()
        .map(str::trim_end)
        .skip_while(move |line| *line != head)
        .skip(1)
        .take_while(|line| !line.starts_with("== "))
}

fn nothing(report: &str, name: &str) -> Result<()> {
    let lines: Vec<_> = match name {
        "listening-but-ssh" => section(report, "listening")
            .filter(|line| !line.contains(":22 "))
            .collect(),
        _ => section(report, name).collect(),
    };
    ensure!(lines.is_empty(), "{}", lines.join("; "));
    Ok(())
}

fn card(report: &str) -> Result<&str> {
    let cards: Vec<_> = section(report, "cards")
        .filter(|card| *card != "lo")
        .collect();
    match cards[..] {
        [card] => Ok(card),
        _ => bail!("not one card but {cards:?}"),
    }
}

/// The value of a key, with one space where there is any.
fn value(report: &str, key: &str) -> Option<String> {
    let value =
        section(report, "sysctl").find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn sysctl(report: &str) -> Result<()> {
    let card = card(report)?;
    let mut wrong = Vec::new();
    let mut checked = 0;
    for line in SYSCTL.lines().filter(|line| !line.starts_with('#')) {
        let Some((key, wanted)) = line.split_once(" = ") else {
            continue;
        };
        let optional = key.starts_with('-');
        let key = key.trim_start_matches('-');
        for key in ["lo", card].map(|card| key.replace('*', card)) {
            match value(report, &key) {
                Some(is) if is == wanted => checked += 1,
                // The kernel that lacks a feature lacks its key.
                None if optional => {}
                is => wrong.push(format!("{key} is {is:?} and not {wanted}")),
            }
        }
    }
    for key in ALWAYS {
        let key = key.replace("CARD", card);
        if value(report, &key).is_none() {
            wrong.push(format!("there is no {key}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    ensure!(checked > 60, "only {checked} settings were read");
    Ok(())
}

fn modules(report: &str) -> Result<()> {
    let lines: Vec<_> = section(report, "modprobe").collect();
    let refused = |line: &&&str| line.ends_with(": install /bin/false");
    let wrong: Vec<_> = lines.iter().filter(|line| !refused(line)).collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    ensure!(lines.len() == MODULES, "{lines:?}");
    Ok(())
}

fn sshd(report: &str) -> Result<()> {
    for wanted in SSHD {
        ensure!(
            section(report, "sshd").any(|line| line == wanted),
            "not `{wanted}`"
        );
    }
    ensure!(
        section(report, "listening").any(|line| line.contains(":22 ")),
        "nobody listens on port 22"
    );
    Ok(())
}

fn running(report: &str) -> Result<()> {
    let units: Vec<_> = section(report, "running")
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let more: Vec<_> = units
        .iter()
        .filter(|unit| !RUNNING.contains(unit) && **unit != "test.service")
        .collect();
    ensure!(more.is_empty(), "{more:?} should not run");
    let missing: Vec<_> = RUNNING
        .iter()
        .filter(|unit| !units.contains(unit))
        .collect();
    ensure!(missing.is_empty(), "{missing:?} should run");
    for unit in ["getty@.service", "systemd-logind.service"] {
        ensure!(
            section(report, "masked").any(|line| line.starts_with(unit)),
            "{unit} is not masked"
        );
    }
    Ok(())
}

fn core(report: &str) -> Result<()> {
    let lines: Vec<_> = section(report, "core").collect();
    ensure!(lines.contains(&"admin: 0"), "admin may raise the limit");
    let crashes = lines
        .iter()
        .filter(|line| line.contains("Segmentation fault"))
        .count();
    ensure!(crashes == 2, "two programs were to crash: {lines:?}");
    let files: Vec<_> = lines.iter().filter(|line| line.starts_with('/')).collect();
    ensure!(files.is_empty(), "{files:?}");
    ensure!(
        lines
            .iter()
            .any(|line| line.split_whitespace().collect::<Vec<_>>()[..]
                == ["Max", "core", "file", "size", "0", "0", "bytes"]),
        "systemd's own limit: {lines:?}"
    );
    // A kernel without core dumps has no pattern.
    let pattern = value(report, "kernel.core_pattern");
    ensure!(
        pattern
            .as_deref()
            .is_none_or(|pattern| pattern == "|/bin/false"),
        "kernel.core_pattern is {pattern:?}"
    );
    Ok(())
}

fn journal(report: &str) -> Result<()> {
    let lines: Vec<_> = section(report, "journald").collect();
    ensure!(
        lines.iter().any(
            |line| line.starts_with("Runtime Journal (/run/log/journal/")
                && line.contains("max 16M")
        ),
        "journald has another limit: {lines:?}"
    );
    ensure!(
        lines.contains(&"flood: 1000"),
        "of 1500 lines at once 1000 were to be kept: {lines:?}"
    );
    ensure!(
        !lines.contains(&"/var/log/journal"),
        "the journal is not only in RAM"
    );
    Ok(())
}

fn passwords(report: &str) -> Result<()> {
    let open: Vec<_> = section(report, "passwords")
        .filter(|line| !matches!(line.split(':').nth(1), Some("*" | "!*" | "!")))
        .collect();
    ensure!(open.is_empty(), "{open:?}");
    ensure!(section(report, "passwords").any(|line| line.starts_with("admin:*:")));
    Ok(())
}

fn mounts(report: &str) -> Result<()> {
    for (target, kind, options) in [
        ("/", "overlay", &["rw", "nosuid", "nodev"][..]),
        ("/data", "virtiofs", &["rw", "nosuid", "nodev", "noexec"]),
        ("/tmp", "tmpfs", &["rw", "nosuid", "nodev", "noexec"]),
    ] {
        let line = section(report, "mounts").find(|line| line.split(' ').next() == Some(target));
        let line = line.unwrap_or_default();
        let mut words = line.split(' ').skip(1);
        let is_kind = words.next() == Some(kind);
        let has: Vec<_> = words.next().unwrap_or_default().split(',').collect();
        ensure!(
            is_kind && options.iter().all(|option| has.contains(option)),
            "{target} is to be {kind} with {options:?}: {line:?}"
        );
    }
    for absent in [
        "/sys/kernel/debug",
        "/sys/kernel/tracing",
        "/proc/sys/fs/binfmt_misc",
    ] {
        ensure!(
            !section(report, "mounts").any(|line| line.split(' ').next() == Some(absent)),
            "{absent} is mounted"
        );
    }
    Ok(())
}

fn written(report: &str) -> Result<()> {
    let lines: Vec<_> = section(report, "written").collect();
    ensure!(
        lines.contains(&"usr: written"),
        "nothing can be written: {lines:?}"
    );
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("Read-only file system"))
            && !lines.contains(&"image: written")
            && lines
                .iter()
                .any(|line| line.contains("No such file or directory")),
        "{lines:?}"
    );
    Ok(())
}

/// linux/capability.h
const SYS_RAWIO: u32 = 17;
const MAC_ADMIN: u32 = 33;

fn pid1(report: &str) -> Result<()> {
    let field = |name: &str| {
        section(report, "pid1")
            .find_map(|line| line.strip_prefix(name))
            .map_or("", str::trim)
    };
    let bounding = u64::from_str_radix(field("CapBnd:"), 16)?;
    for capability in [SYS_RAWIO, MAC_ADMIN] {
        ensure!(
            bounding & 1 << capability == 0,
            "it has capability {capability}: {bounding:x}"
        );
    }
    ensure!(field("NoNewPrivs:") == "1", "programs may gain privileges");
    Ok(())
}

fn exposure(report: &str) -> Result<()> {
    let mut wrong = Vec::new();
    for (unit, limit) in EXPOSURE {
        let line = section(report, "security").find(|line| {
            line.contains("Overall exposure level") && line.contains(&format!(" {unit}: "))
        });
        let level = line
            .and_then(|line| line.split(&format!(" {unit}: ")).nth(1))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|level| level.replace('.', "").parse::<u32>().ok());
        match level {
            Some(level) if level <= limit => {}
            level => wrong.push(format!("{unit} is {level:?} and may be {limit}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn machine(report: &str) -> Result<()> {
    let lines: Vec<_> = section(report, "machine").collect();
    ensure!(
        lines.first() == Some(&"test"),
        "the host name is not the VM's name: {lines:?}"
    );
    ensure!(
        lines.get(1).is_some_and(|id| id.len() == 32),
        "no machine id: {lines:?}"
    );
    ensure!(
        lines.iter().any(|line| line.contains("192.168.83.2/24")),
        "the card has not its address: {lines:?}"
    );
    Ok(())
}
