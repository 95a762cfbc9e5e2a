//! `minivmm balloon`.

use std::process::ExitCode;

use minivmm_vmm::BalloonReport;

use super::{look, target::TargetArgs};
use crate::{
    client::{Client, PATIENCE},
    control::interface::BalloonParameters,
    failure::Failure,
};

/// Says what is in a VM's balloon, and what its guest says of its memory; first asks for `size` MiB to be in it.
pub fn balloon(of: &TargetArgs, size: Option<u32>, json: bool) -> Result<ExitCode, Failure> {
    let target = of.target();
    let parameters = BalloonParameters {
        size,
        statistics: Some(true),
    };
    let report = Client::connect(&target)
        .and_then(|mut client| client.balloon(&parameters, PATIENCE))
        .map_err(|error| error.of(&target))?;
    if json {
        super::say_json(&report)?;
    } else {
        lines(&report).iter().for_each(look::say);
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(report: &BalloonReport) -> Vec<String> {
    let bytes = look::bytes;
    let mut lines = Vec::new();
    let mut say = |what: &str, text: &str| lines.push(format!("{what:>10}: {text}"));
    let (size, target) = (report.size_bytes, report.target_bytes);
    let wanted = match size == target {
        true => String::new(),
        false => format!(", {} wanted", bytes(target)),
    };
    say("Balloon", &format!("{}{wanted}", bytes(size)));
    if let Some(resident) = report.resident_bytes {
        say("Resident", &bytes(resident));
    }
    say("Given back", &given_back(report));
    let known = [
        ("total_bytes", "in all"),
        ("free_bytes", "free"),
        ("available_bytes", "available"),
        ("caches_bytes", "in caches"),
    ];
    let known = known.into_iter().filter_map(|(name, word)| {
        let value = report.statistics.get(name)?;
        Some(format!("{} {word}", bytes(*value)))
    });
    let known: Vec<String> = known.collect();
    match report.statistics_age_msec {
        Some(age) => {
            let age = age as f64 / 1000.0;
            say("Guest", &format!("{} ({age:.1}s ago)", known.join(", ")));
        }
        None => say("Guest", "has said nothing of its memory"),
    }
    lines
}

/// `412.0M since the start, 400.0M of them reported as free by the guest`.
pub fn given_back(report: &BalloonReport) -> String {
    let [all, reported] = [report.given_back_bytes(), report.reported_bytes].map(look::bytes);
    format!("{all} since the start, {reported} of them reported as free by the guest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_said_in_a_few_lines() {
        let mut report = BalloonReport {
            target_bytes: 64 << 20,
            size_bytes: 32 << 20,
            inflated_bytes: 32 << 20,
            reported_bytes: 400 << 20,
            resident_bytes: Some(100 << 20),
            ..BalloonReport::default()
        };
        let expected = [
            "   Balloon: 32.0M, 64.0M wanted",
            "  Resident: 100.0M",
            "Given back: 432.0M since the start, 400.0M of them reported as free by the guest",
            "     Guest: has said nothing of its memory",
        ];
        assert_eq!(lines(&report), expected);
        report.target_bytes = report.size_bytes;
        report.statistics_age_msec = Some(1250);
        for (name, mib) in [("free_bytes", 300), ("total_bytes", 480), ("oom_kills", 1)] {
            report.statistics.insert(name.to_owned(), mib << 20);
        }
        let lines = lines(&report);
        assert_eq!(lines[0], "   Balloon: 32.0M");
        assert_eq!(
            lines[3],
            "     Guest: 480.0M in all, 300.0M free (1.2s ago)"
        );
    }
}
