#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use super::*;
use crate::board::Board;

fn status() -> Status {
    let config = minivmm_vmm::VmConfig::from_toml("name = \"a-vm\"\n[kernel]\npath = \"k\"\n");
    let mut status = Board::new(&config.unwrap(), "a.toml".as_ref(), "").status();
    status.vmm_pid = Some(std::process::id());
    status.running_usec = Some(1_000_000);
    status.restarts = 2;
    status
}

fn metrics() -> Metrics {
    Metrics {
        exits: vec![[1, 2, 3, 4, 5, 6], [0; 6]],
        queues: vec![Queue {
            // A tap may be called so.
            device: "vm\"0\\".to_owned(),
            queue: 1,
            requests: 10,
            read_bytes: 11,
            written_bytes: 12,
            notifications: 13,
            interrupts: u64::MAX,
        }],
        cards: vec![Card {
            device: "vm0".to_owned(),
            received: 20,
            sent: 21,
            receive_dropped: 22,
            send_dropped: 23,
        }],
        disks: vec![Disk {
            device: "vda".to_owned(),
            reads: 40,
            read_bytes: 41,
            writes: 42,
            written_bytes: 43,
            flushes: 44,
            discards: 45,
            errors: 46,
            waiting: 47,
        }],
        console_bytes: 30,
        console_dropped_bytes: 31,
        memory_bytes: Some(4096),
        balloon: Some(minivmm_vmm::BalloonReport {
            target_bytes: 40,
            size_bytes: 41,
            inflated_bytes: 42,
            reported_bytes: 43,
            statistics: [
                ("free_bytes", u64::MAX),
                ("major_faults", 44),
                ("swap_out_bytes", 45),
                // Nothing that a VMM says becomes a name.
                ("x{y=\"", 46),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
            statistics_age_msec: Some(1500),
            ..minivmm_vmm::BalloonReport::default()
        }),
    }
}

type Labels = Vec<(String, String)>;
/// Name, labels, value.
type Sample = (String, Labels, f64);

/// A metric family's name, type and unit; its samples.
#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: String,
    unit: String,
    samples: Vec<Sample>,
}

/// Reads a text by the rules of OpenMetrics 1.0 for counters and gauges (sections "Text Format" and "MetricFamily"), and
/// panics at the first that is broken.
fn parse(text: &str) -> Vec<Family> {
    let text = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    let mut families: Vec<Family> = Vec::new();
    let mut names = BTreeSet::new();
    for line in text.split_terminator('\n') {
        if let Some(line) = line.strip_prefix("# ") {
            let (word, rest) = line.split_once(' ').unwrap();
            let (name, value) = rest.split_once(' ').unwrap();
            assert!(is_name(name), "{line}");
            if families.last().is_none_or(|family| family.name != name) {
                assert!(names.insert(name.to_owned()), "{name} comes twice");
                families.push(Family {
                    name: name.to_owned(),
                    ..Family::default()
                });
            }
            let family = families.last_mut().unwrap();
            assert!(family.samples.is_empty(), "{line}: after a sample");
            match word {
                "HELP" => assert!(!value.is_empty(), "{line}"),
                "TYPE" => family.kind = value.to_owned(),
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{value}")), "{line}");
                    family.unit = value.to_owned();
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let family = families.last_mut().expect("a sample has a family");
        let (name, labels, value) = sample(line);
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            "gauge" => "",
            other => panic!("{other}: {line}"),
        };
        assert_eq!(name, format!("{}{suffix}", family.name), "{line}");
        assert!(
            value.is_finite() && (suffix.is_empty() || value >= 0.0),
            "{line}"
        );
        let same = |(_, other, _): &&Sample| *other == labels;
        assert!(family.samples.iter().find(same).is_none(), "{line}: twice");
        family.samples.push((name, labels, value));
    }
    families
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    name.chars().all(allowed) && name.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(key) && !key.contains(':'), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().expect("a label's value ends") {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().unwrap().1 {
                        'n' => value.push('\n'),
                        c @ ('"' | '\\') => value.push(c),
                        c => panic!("\\{c}: {line}"),
                    },
                    (_, c) => value.push(c),
                }
            };
            labels.push((key.to_owned(), value));
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let keys: BTreeSet<_> = labels.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), labels.len(), "{line}");
    let value = rest.strip_prefix(' ').unwrap();
    (name.to_owned(), labels, value.parse().unwrap())
}

#[test]
fn the_text_is_openmetrics_and_every_sample_says_which_vm() {
    for text in [
        text(status(), Some(metrics())),
        text(status(), None),
        text(
            Status {
                vmm_pid: None,
                running_usec: None,
                ..status()
            },
            None,
        ),
    ] {
        let families = parse(&text);
        assert!(
            families.iter().all(|f| f.name.starts_with("minivmm_")),
            "{text}"
        );
        for (_, labels, _) in families.iter().flat_map(|family| &family.samples) {
            assert_eq!(labels[0], ("vm".to_owned(), "a-vm".to_owned()), "{text}");
        }
        let mut units: BTreeSet<_> = families.iter().map(|f| f.unit.as_str()).collect();
        units.remove("");
        assert!(
            units.iter().all(|unit| ["bytes", "seconds"].contains(unit)),
            "{text}"
        );
    }
}

#[test]
fn numbers_are_those_that_were_counted() {
    let text = text(status(), Some(metrics()));
    let families = parse(&text);
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let mut samples = families.iter().flat_map(|family| &family.samples);
        let found = samples.find(|(found, labels, _)| {
            let has = |(key, value): &(&str, &str)| {
                labels.contains(&((*key).to_owned(), (*value).to_owned()))
            };
            found == name && wanted.iter().all(has)
        });
        found
            .unwrap_or_else(|| panic!("no {name} {wanted:?} in {text}"))
            .2
    };
    let queue = [("device", "vm\"0\\"), ("queue", "1")];
    for (name, labels, expected) in [
        ("minivmm_state", &[("state", "starting")][..], 1.0),
        ("minivmm_state", &[("state", "running")], 0.0),
        ("minivmm_ready", &[], 0.0),
        ("minivmm_restarts_total", &[], 2.0),
        ("minivmm_vcpus", &[], 1.0),
        ("minivmm_memory_bytes", &[], f64::from(512 << 20)),
        ("minivmm_memory_resident_bytes", &[], 4096.0),
        (
            "minivmm_exits_total",
            &[("vcpu", "0"), ("kind", "io_in")],
            1.0,
        ),
        (
            "minivmm_exits_total",
            &[("vcpu", "0"), ("kind", "other")],
            6.0,
        ),
        (
            "minivmm_exits_total",
            &[("vcpu", "1"), ("kind", "io_in")],
            0.0,
        ),
        ("minivmm_balloon_target_bytes", &[], 40.0),
        ("minivmm_balloon_bytes", &[], 41.0),
        (
            "minivmm_memory_given_back_bytes_total",
            &[("way", "balloon")],
            42.0,
        ),
        (
            "minivmm_memory_given_back_bytes_total",
            &[("way", "reported")],
            43.0,
        ),
        ("minivmm_guest_statistics_age_seconds", &[], 1.5),
        (
            "minivmm_guest_memory_bytes",
            &[("kind", "free")],
            u64::MAX as f64,
        ),
        (
            "minivmm_guest_page_faults_total",
            &[("kind", "major")],
            44.0,
        ),
        (
            "minivmm_guest_swap_bytes_total",
            &[("direction", "out")],
            45.0,
        ),
        ("minivmm_queue_requests_total", &queue, 10.0),
        ("minivmm_queue_read_bytes_total", &queue, 11.0),
        ("minivmm_queue_written_bytes_total", &queue, 12.0),
        ("minivmm_queue_notifications_total", &queue, 13.0),
        ("minivmm_queue_interrupts_total", &queue, u64::MAX as f64),
        (
            "minivmm_net_frames_total",
            &[("direction", "receive")],
            20.0,
        ),
        (
            "minivmm_net_frames_total",
            &[("direction", "transmit")],
            21.0,
        ),
        (
            "minivmm_net_dropped_frames_total",
            &[("direction", "receive")],
            22.0,
        ),
        (
            "minivmm_net_dropped_frames_total",
            &[("direction", "transmit")],
            23.0,
        ),
        (
            "minivmm_disk_requests_total",
            &[("device", "vda"), ("operation", "read")],
            40.0,
        ),
        (
            "minivmm_disk_requests_total",
            &[("operation", "discard")],
            45.0,
        ),
        ("minivmm_disk_bytes_total", &[("operation", "write")], 43.0),
        ("minivmm_disk_errors_total", &[("device", "vda")], 46.0),
        ("minivmm_disk_waiting_requests", &[("device", "vda")], 47.0),
        ("minivmm_console_bytes_total", &[], 30.0),
        ("minivmm_console_dropped_bytes_total", &[], 31.0),
    ] {
        assert_eq!(value(name, labels), expected, "{name} {labels:?}");
    }
    assert!(value("minivmm_uptime_seconds", &[]) > 1e9);
    // This process stands for both.
    for process in ["vmm", "supervisor"] {
        value("minivmm_thread_cpu_seconds_total", &[("process", process)]);
    }
}
