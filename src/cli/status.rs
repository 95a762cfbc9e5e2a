//! `minivmm status`.

use std::{
    fs, io,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use anstyle::{AnsiColor, Style};
use minivmm_vmm::BalloonReport;
use serde::Serialize;

use super::{look, target::TargetArgs};
use crate::{
    board::{Status, fingerprint},
    client::{Client, PATIENCE, Target},
    failure::Failure,
    survey,
    usage::{Usage, percent, uptime},
};

/// The object of `--json`: what the VM says, and what is to be seen from outside.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    status: Status,
    uptime_sec: Option<u64>,
    /// Resident bytes of the VMM process.
    memory_used_bytes: Option<u64>,
    /// Processor time of all processes of the VM.
    cpu_usec: Option<u64>,
    /// What is known of its balloon; `null` if it has none or does not run.
    balloon: Option<BalloonReport>,
    /// Whether the configuration's text is another than when the VM started; `null` if it cannot be read.
    config_changed: Option<bool>,
}

/// Says what a VM is doing.
pub fn status(of: &TargetArgs, json: bool) -> Result<ExitCode, Failure> {
    let target = of.target();
    let (status, balloon) = Client::connect(&target)
        .and_then(|mut client| {
            let status = client.status(PATIENCE)?;
            Ok((status, survey::balloon(&mut client, PATIENCE)))
        })
        .map_err(|error| error.of(&target))?;
    let usage = Usage::of(&status);
    let config = Config::of(&status);
    if json {
        super::say_json(&Report {
            uptime_sec: uptime(&status).map(|uptime| uptime.as_secs()),
            memory_used_bytes: usage.memory,
            cpu_usec: usage.cpu.map(|cpu| cpu.as_micros() as u64),
            balloon,
            config_changed: match config {
                Config::Same => Some(false),
                Config::Changed => Some(true),
                Config::Unreadable(_) => None,
            },
            status,
        })?;
    } else {
        lines(&status, usage, balloon.as_ref(), &config, &target)
            .iter()
            .for_each(look::say);
    }
    Ok(ExitCode::SUCCESS)
}

/// What has become of the file that the VM was started with.
enum Config {
    Same,
    Changed,
    Unreadable(io::Error),
}

impl Config {
    fn of(status: &Status) -> Self {
        match fs::read_to_string(&status.config) {
            Ok(text) if fingerprint(&text) == status.config_fingerprint => Self::Same,
            Ok(_) => Self::Changed,
            Err(error) => Self::Unreadable(error),
        }
    }
}

fn lines(
    status: &Status,
    usage: Usage,
    balloon: Option<&BalloonReport>,
    config: &Config,
    target: &Target,
) -> Vec<String> {
    const WARNING: Style = AnsiColor::Yellow.on_default();
    let name = look::clean(&status.name);
    let style = look::state(status.state);
    let mut lines = vec![format!(
        "{style}●{style:#} {name}: {style}{}{style:#}{}",
        status.state,
        since(status)
    )];
    let mut say = |what: &str, text: &str| lines.push(format!("{what:>10}: {text}"));
    let state = status.state.to_string();
    if !status.detail.is_empty() && status.detail != state {
        say("Doing", &look::clean(&status.detail));
    }
    if !status.ready {
        say("Ready", "not yet");
    }
    say("Config", &look::clean(&status.config));
    match config {
        Config::Same => {}
        Config::Changed => {
            let how = match target {
                Target::Name(name) => format!("`minivmm restart {name}`"),
                Target::Socket(_) => "stop the VM and run it again".to_owned(),
            };
            let text = format!(
                "{WARNING}it has changed since the VM was started{WARNING:#}; to have it: {how}"
            );
            say("", &text);
        }
        Config::Unreadable(error) => {
            let text = format!("{WARNING}it cannot be read now{WARNING:#}: {error}");
            say("", &text);
        }
    }
    let mut pids = format!("{} (supervisor)", status.pid);
    if let Some(pid) = status.vmm_pid {
        pids.push_str(&format!(", {pid} (VMM)"));
    }
    for pid in &status.virtiofsd_pids {
        pids.push_str(&format!(", {pid} (virtiofsd)"));
    }
    say("PIDs", &pids);
    let used = usage.memory.map(look::bytes);
    let used = used.as_deref().unwrap_or("-");
    say("Memory", &format!("{used} of {}M", status.mem));
    if let Some(balloon) = balloon {
        if balloon.size_bytes > 0 || balloon.target_bytes > 0 {
            let [size, target] = [balloon.size_bytes, balloon.target_bytes].map(look::bytes);
            say("Balloon", &format!("{size}, {target} wanted"));
        }
        say("Given back", &super::balloon::given_back(balloon));
    }
    say("CPU", &cpu(status, usage));
    if !status.addresses.is_empty() {
        say("Addresses", &look::clean(&status.addresses.join(" ")));
    }
    for (n, volume) in status.volumes.iter().enumerate() {
        let what = if n == 0 { "Volumes" } else { "" };
        let mut text = format!(
            "{}: {}, {}{}",
            look::clean(&volume.disk),
            look::clean(&volume.image),
            look::bytes(volume.size),
            if volume.read_only { ", read-only" } else { "" }
        );
        if volume.full {
            text.push_str(&format!(
                "; {WARNING}the host has no room, writes wait for it{WARNING:#}"
            ));
        }
        say(what, &text);
    }
    match (status.restarts, &status.last_end) {
        (0, None) => {}
        (restarts, None) => say("Restarts", &restarts.to_string()),
        (restarts, Some(end)) => {
            let end = look::clean(end);
            say(
                "Restarts",
                &format!("{restarts}; the last run has ended: {end}"),
            );
        }
    }
    say("Version", &look::clean(&status.version));
    lines
}

fn cpu(status: &Status, usage: Usage) -> String {
    let plural = if status.vcpu == 1 { "" } else { "s" };
    let vcpus = format!("{} vCPU{plural}", status.vcpu);
    let Some(time) = usage.cpu else {
        return vcpus;
    };
    let percent = uptime(status).and_then(|uptime| percent(time, uptime));
    let percent = percent.map(|percent| format!(", {percent:.1}% of one"));
    let percent = percent.unwrap_or_default();
    format!("{} since the start{percent}; {vcpus}", look::cpu(time))
}

/// ` since 2026-11-23T05:00:00Z, 3h5m`.
fn since(status: &Status) -> String {
    let (usec, what) = match status.running_usec {
        Some(usec) => (usec, "since"),
        None => (status.started_usec, "started"),
    };
    let Some(time) = UNIX_EPOCH.checked_add(Duration::from_micros(usec)) else {
        return String::new();
    };
    let age = time.elapsed().unwrap_or_default().as_secs();
    let time = humantime::format_rfc3339_seconds(time);
    format!(" {what} {time} ({} ago)", look::age(age))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::board::{Board, State};

    fn said(change: impl FnOnce(&mut Status), usage: Usage) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        let text = "name = \"a\"\n[kernel]\npath = \"k\"\n";
        fs::write(&path, text).unwrap();
        let config = minivmm_vmm::VmConfig::from_toml(text).unwrap();
        let mut status = Board::new(&config, &path, text).status();
        change(&mut status);
        let target = Target::Name("a".to_owned());
        let balloon = BalloonReport {
            reported_bytes: 300 << 20,
            ..BalloonReport::default()
        };
        let config = Config::of(&status);
        let lines = lines(&status, usage, Some(&balloon), &config, &target).into_iter();
        lines
            .map(|line| anstream::adapter::strip_str(&line).to_string())
            .collect()
    }

    #[test]
    fn a_status_says_what_is_known() {
        let usage = Usage {
            memory: Some(100 << 20),
            cpu: Some(Duration::from_millis(1500)),
        };
        let lines = said(
            |status| {
                status.state = State::Running;
                status.running_usec = Some(crate::board::now_usec() - 60_500_000);
                status.vmm_pid = Some(7);
                status.pid = 6;
                status.restarts = 2;
                status.last_end = Some("the guest\x1b asked for a reset".to_owned());
            },
            usage,
        )
        .join("\n");
        for words in [
            "● a: running since 20",
            "Z (1m0s ago)\n",
            "      PIDs: 6 (supervisor), 7 (VMM)\n",
            "    Memory: 100.0M of 512M\n",
            "Given back: 300.0M since the start, 300.0M of them reported",
            "1.500s since the start, 2.5% of one; 1 vCPU\n",
            "  Restarts: 2; the last run has ended: the guest? asked for a reset\n",
        ] {
            assert!(lines.contains(words), "`{words}` in\n{lines}");
        }
        assert!(!lines.contains("changed"), "{lines}");
    }

    #[test]
    fn volumes_are_said_with_what_is_wrong_with_them() {
        let volume = |disk: &str, full: bool| crate::board::Volume {
            disk: disk.to_owned(),
            image: format!("/srv/{disk}.img"),
            size: 64 << 20,
            read_only: !full,
            full,
        };
        let volumes = vec![volume("vda", true), volume("vdb", false)];
        let lines = said(|status| status.volumes = volumes, Usage::default()).join("\n");
        for words in [
            "   Volumes: vda: /srv/vda.img, 64.0M; the host has no room, writes wait for it\n",
            "          : vdb: /srv/vdb.img, 64.0M, read-only\n",
        ] {
            assert!(lines.contains(words), "`{words}` in\n{lines}");
        }
    }

    #[test]
    fn a_configuration_that_is_another_one_now_is_said_with_what_to_do() {
        let other = |status: &mut Status| status.config_fingerprint = "x".to_owned();
        let lines = said(other, Usage::default()).join("\n");
        let words = "changed since the VM was started; to have it: `minivmm restart a`";
        assert!(lines.contains(words), "{lines}");
        assert!(lines.contains("    Memory: - of 512M\n"), "{lines}");
        let lines = said(
            |status| status.config = "/no/such".to_owned(),
            Usage::default(),
        );
        assert!(lines.join("\n").contains("it cannot be read now"));
    }
}
