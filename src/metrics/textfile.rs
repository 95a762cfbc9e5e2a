//! Metrics in a file, for the textfile collector of Prometheus' node_exporter.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use minivmm_vmm::config;

/// When the file is to be written, and how it went.
#[derive(Debug)]
pub struct Textfile {
    path: PathBuf,
    interval: Duration,
    next: Instant,
    /// It could not be written the last time, which has been said.
    failed: bool,
}

impl Textfile {
    /// The one that `config` asks for, to be written from `now` on.
    pub fn new(config: &config::Metrics, now: Instant) -> Option<Self> {
        Some(Self {
            path: config.textfile.clone()?,
            interval: config.interval,
            next: now,
            failed: false,
        })
    }

    /// When it is to be written next.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Whether it is to be written at `now`; it is then due again after the interval.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.interval;
        }
        due
    }

    /// Writes OpenMetrics text to it. What fails is said once, and tried again the next time.
    pub fn write(&mut self, text: &str) {
        let path = self.path.display();
        match (replace(&self.path, &without_openmetrics(text)), self.failed) {
            (Ok(()), false) | (Err(_), true) => {}
            (Ok(()), true) => {
                tracing::info!("{path}: metrics are written again");
                self.failed = false;
            }
            (Err(error), false) => {
                tracing::warn!(
                    "metrics.textfile: {path}: {error}: tried again every {:?}",
                    self.interval
                );
                self.failed = true;
            }
        }
    }
}

/// Removes the file of a VM that has ended: what it says is not true any more.
pub fn remove(config: &config::Metrics) {
    if let Some(path) = &config.textfile
        && let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("metrics.textfile: {}: {error}", path.display());
    }
}

/// Puts a whole new file in the place of the old one, so that nobody reads half of either.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // Not `.prom` at its end, so the collector leaves it alone.
    let mut new = OsString::from(path);
    new.push(".new");
    let done = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        // It may be half of a file on a full disk, or not be there.
        let _ = fs::remove_file(&new);
    }
    done
}

/// The same metrics in Prometheus' own text format 0.0.4, which the collector reads: a counter's family has the name of its
/// samples there, and there are no units and no end.
fn without_openmetrics(text: &str) -> String {
    let lines = || {
        text.lines()
            .map(|line| (line, line.split(' ').collect::<Vec<_>>()))
    };
    let counters: BTreeSet<&str> = lines()
        .filter_map(|(_, words)| match words[..] {
            ["#", "TYPE", name, "counter"] => Some(name),
            _ => None,
        })
        .collect();
    let mut plain = String::with_capacity(text.len());
    for (line, words) in lines() {
        match words[..] {
            ["#", "EOF"] | ["#", "UNIT", ..] => continue,
            ["#", word, name, ..] if counters.contains(name) => {
                let rest = line.splitn(4, ' ').nth(3).unwrap_or_default();
                plain.push_str(&format!("# {word} {name}_total {rest}"));
            }
            _ => plain.push_str(line),
        }
        plain.push('\n');
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "# HELP minivmm_up One two.\n# TYPE minivmm_up gauge\nminivmm_up{vm=\"a\"} 1\n\
        # HELP minivmm_x_bytes What.\n# TYPE minivmm_x_bytes counter\n# UNIT minivmm_x_bytes bytes\n\
        minivmm_x_bytes_total{vm=\"a\"} 2\n# EOF\n";
    const PLAIN: &str = "# HELP minivmm_up One two.\n# TYPE minivmm_up gauge\nminivmm_up{vm=\"a\"} 1\n\
        # HELP minivmm_x_bytes_total What.\n# TYPE minivmm_x_bytes_total counter\nminivmm_x_bytes_total{vm=\"a\"} 2\n";

    fn config(path: &Path) -> config::Metrics {
        config::Metrics {
            textfile: Some(path.to_owned()),
            interval: Duration::from_secs(15),
        }
    }

    #[test]
    fn the_file_is_whole_and_goes_with_the_vm() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vm.prom");
        let now = Instant::now();
        let mut file = Textfile::new(&config(&path), now).unwrap();
        assert!(file.is_due(now));
        assert!(!file.is_due(now));
        assert_eq!(file.next(), now + Duration::from_secs(15));
        file.write("# EOF\n");
        file.write(TEXT);
        assert_eq!(fs::read_to_string(&path).unwrap(), PLAIN);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        remove(&config(&path));
        remove(&config(&path));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file_and_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vm.prom");
        let mut file = Textfile::new(&config(&path), Instant::now()).unwrap();
        file.write(TEXT);
        // As on a disk that is full: no new file can be made.
        let new = directory.path().join("vm.prom.new");
        fs::create_dir(&new).unwrap();
        file.write("# EOF\n");
        assert!(file.failed);
        assert_eq!(fs::read_to_string(&path).unwrap(), PLAIN);
        fs::remove_dir(&new).unwrap();
        file.write("# EOF\n");
        assert!(!file.failed);
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
