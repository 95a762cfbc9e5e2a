//! The balloon, and what the guest says of its memory.

use std::fmt;

use minivmm_vmm::BalloonReport;
use prometheus_client::registry::Unit;

use super::{Families, NO_LABELS};

/// The families of a VM with a balloon. The guest's words are numbers under names that are ours.
pub(super) fn encode(report: &BalloonReport, to: &mut Families<'_>) -> fmt::Result {
    let bytes = || Some(Unit::Bytes);
    let target = [(NO_LABELS, report.target_bytes)];
    to.gauges(
        "balloon_target",
        "Memory that the guest is to leave in the balloon",
        bytes(),
        target,
    )?;
    let size = [(NO_LABELS, report.size_bytes)];
    to.gauges("balloon", "Memory that is in the balloon", bytes(), size)?;
    let ways = [
        ("balloon", report.inflated_bytes),
        ("reported", report.reported_bytes),
    ];
    let ways = ways.map(|(way, bytes)| ([("way", way.to_owned())], bytes));
    let help = "Memory that went back to the host, by the way in which the guest gave it";
    to.counters("memory_given_back", help, bytes(), ways)?;

    let Some(age) = report.statistics_age_msec else {
        return Ok(());
    };
    let age = [(NO_LABELS, age as f64 / 1000.0)];
    let help = "Time since the guest has said what follows";
    to.gauges("guest_statistics_age", help, Some(Unit::Seconds), age)?;
    let labelled = |names: &[(&str, &str)], label: &'static str| -> Vec<_> {
        let values = names.iter().filter_map(|(name, word)| {
            let value = report.statistics.get(*name)?;
            Some(([(label, (*word).to_owned())], *value))
        });
        values.collect()
    };
    let memory = [
        ("total_bytes", "total"),
        ("free_bytes", "free"),
        ("available_bytes", "available"),
        ("caches_bytes", "caches"),
    ];
    to.gauges(
        "guest_memory",
        "Memory as the guest sees it",
        bytes(),
        labelled(&memory, "kind"),
    )?;
    let faults = [("major_faults", "major"), ("minor_faults", "minor")];
    let help = "Page faults in the guest";
    to.counters("guest_page_faults", help, None, labelled(&faults, "kind"))?;
    let swap = [("swap_in_bytes", "in"), ("swap_out_bytes", "out")];
    let help = "Memory that the guest has swapped";
    to.counters("guest_swap", help, bytes(), labelled(&swap, "direction"))?;
    let killed = report.statistics.get("oom_kills");
    let killed = killed.map(|killed| (NO_LABELS, *killed));
    let help = "Programs that the guest has killed for want of memory";
    to.counters("guest_oom_kills", help, None, killed)
}
