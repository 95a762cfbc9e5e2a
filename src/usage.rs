//! What a VM takes of the host, as /proc says (proc(5)).

use std::{fs, time::Duration};

use rustix::param::page_size;

use crate::{
    board::{Status, now_usec},
    metrics::name_and_time,
};

/// What a VM takes; `None` is what /proc does not let us see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident bytes of the VMM process: guest memory that was touched and not given back, and about 3 MiB of its own.
    pub memory: Option<u64>,
    /// Processor time of all processes of the VM since they began.
    pub cpu: Option<Duration>,
}

impl Usage {
    /// Of a VM that runs.
    pub fn of(status: &Status) -> Self {
        let virtiofsds = status.virtiofsd_pids.iter().copied();
        // Each does its work in a child of its own.
        let workers = status.virtiofsd_pids.iter().flat_map(|pid| children(*pid));
        let others = virtiofsds.chain(workers).chain([status.pid]);
        Self {
            memory: status.vmm_pid.and_then(resident),
            cpu: status.vmm_pid.and_then(cpu_time).map(|vmm| {
                let others: Duration = others.filter_map(cpu_time).sum();
                vmm + others
            }),
        }
    }
}

/// How long the guest of this run has been running.
pub fn uptime(status: &Status) -> Option<Duration> {
    let since = status.running_usec?;
    Some(Duration::from_micros(now_usec().saturating_sub(since)))
}

/// Of a processor, in percent; 100 is one of them.
pub fn percent(cpu: Duration, time: Duration) -> Option<f64> {
    (!time.is_zero()).then(|| 100.0 * cpu.as_secs_f64() / time.as_secs_f64())
}

/// `statm`: sizes in pages, the second is what is resident.
pub fn resident(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    name_and_time(&stat).map(|(_, time)| time)
}

/// CPU time of a process and of those that it has started.
pub fn with_children(pid: u32) -> Duration {
    let all = children(pid).into_iter().chain([pid]);
    all.filter_map(cpu_time).sum()
}

fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn proc_says_what_a_process_takes() {
        let us = std::process::id();
        assert!(resident(us).unwrap() > 100 << 10);
        let before = cpu_time(us).unwrap();
        let mut n = 0_u64;
        while cpu_time(us).unwrap() < before + Duration::from_millis(30) {
            n = std::hint::black_box(n + 1);
        }
        assert_eq!(resident(u32::MAX), None);
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
