//! What the threads of a VM's processes have used, as `/proc` has it (proc(5)).

use std::{collections::BTreeMap, fs, time::Duration};

use rustix::param::clock_ticks_per_second;

/// Threads of a process that are looked at, at most.
const THREADS: usize = 1024;
/// How the kernel's own threads for io_uring begin, behind which is the thread that they work for: they come and go.
const URING: &str = "iou-wrk";

/// CPU time of a process' threads by their names: those of one name together.
pub fn threads(pid: u32) -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten().take(THREADS) {
        let stat = fs::read_to_string(task.path().join("stat"));
        if let Some((name, time)) = stat.ok().as_deref().and_then(name_and_time) {
            let name = match name.starts_with(URING) {
                true => URING.to_owned(),
                false => name,
            };
            *times.entry(name).or_default() += time;
        }
    }
    times
}

/// Of the text of a `stat`. A name may have anything in it, also what ends it.
pub fn name_and_time(stat: &str) -> Option<(String, Duration)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    // The state is field 3; utime and stime are 14 and 15.
    let mut fields = tail.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let milliseconds = ticks.saturating_mul(1000) / clock_ticks_per_second().max(1);
    Some((name.to_owned(), Duration::from_millis(milliseconds)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{thread, time::Instant};

    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 100 200 300";
        let (name, time) = name_and_time(stat).unwrap();
        assert_eq!(name, "a) R (b");
        assert_eq!(
            time,
            Duration::from_secs(200) / clock_ticks_per_second() as u32
        );
        for broken in ["", "7 (a", "7 (a) S", "7 a) S 1 2"] {
            assert_eq!(name_and_time(broken), None);
        }
    }

    #[test]
    fn a_busy_thread_is_seen_by_its_name() {
        let pid = std::process::id();
        let busy = thread::Builder::new().name("busy-one".to_owned());
        let busy = busy.spawn(move || {
            let start = Instant::now();
            while threads(pid)["busy-one"] < Duration::from_millis(50) {
                assert!(start.elapsed() < Duration::from_secs(60));
            }
        });
        busy.unwrap().join().unwrap();
        assert!(threads(0).is_empty());
    }
}
