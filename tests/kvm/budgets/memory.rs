//! The memory that supervisor and VMM need for themselves.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};

/// KiB of the resident pages of `processes` (proc(5), `smaps`) without guest memory, of which pages of files that several of
/// them have count once.
pub fn own_kib(processes: [u32; 2]) -> Result<u64> {
    let mut own = Own::default();
    for process in processes {
        let path = format!("/proc/{process}/smaps");
        own.add(&fs::read_to_string(&path).context(path)?);
    }
    Ok(own.kib())
}

#[derive(Default)]
struct Own {
    private: u64,
    /// The part of each file that is shared; the same pages in all processes, as far as one has them.
    shared: BTreeMap<String, u64>,
}

impl Own {
    fn add(&mut self, smaps: &str) {
        let mut file = None;
        let mut resident = 0;
        for line in smaps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(first), Some(second)) = (words.next(), words.next()) else {
                continue;
            };
            let kib = second.parse().unwrap_or(0);
            match first {
                "Rss:" => resident = kib,
                "Private_Clean:" | "Private_Dirty:" if file.is_some() => {
                    self.private += kib;
                    resident -= kib;
                }
                // The last of a mapping's lines.
                "VmFlags:" => {
                    if let Some(file) = file.take() {
                        let shared = self.shared.entry(file).or_default();
                        *shared = resident.max(*shared);
                    }
                }
                // START-END PERMISSIONS OFFSET DEVICE INODE PATH
                range if range.contains('-') => {
                    let place: Vec<&str> = words.collect();
                    let is_guest = line.contains("memfd:guest-memory");
                    file = (!is_guest).then(|| place.join(" "));
                }
                _ => {}
            }
        }
    }

    fn kib(&self) -> u64 {
        self.private + self.shared.values().sum::<u64>()
    }
}

pub fn counts() -> Result<()> {
    let mapping = |place: &str, rss, private_clean, private_dirty| {
        format!(
            "7f0000000000-7f0000400000 r-xp {place}\nSize: 4096 kB\nRss: {rss} kB\nPss: 1 kB\n\
             Private_Clean: {private_clean} kB\nPrivate_Dirty: {private_dirty} kB\nVmFlags: rd ex\n"
        )
    };
    let text = "00001000 08:01 77 /usr/bin/minivmm";
    let guest = "00000000 00:01 99 /memfd:guest-memory (deleted)";
    let mut own = Own::default();
    own.add(
        &[
            mapping(text, 400, 40, 0),
            mapping("00000000 00:00 0", 100, 0, 100),
        ]
        .concat(),
    );
    own.add(&[mapping(text, 500, 20, 0), mapping(guest, 90_000, 0, 90_000)].concat());
    // 40 + 20 private and 480, the larger of 360 and 480, of the program, and 100 of the heap.
    ensure!(own.kib() == 640, "{}", own.kib());
    Ok(())
}
