//! Clients of the control socket that mean no good.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{Test, depth, fleet::Fleet};

pub const TESTS: &[Test] = &[Test {
    name: "hostile::whatever_clients_do_the_vm_runs_on_and_answers_others",
    run: fuzzed,
}];

const STATUS: &[u8] = b"{\"method\":\"org.minivmm.Machine.GetStatus\"}\0";
/// Connections that are only held.
const HELD: usize = 100;
/// Resident bytes that the supervisor may have more afterwards: buffers of 20 connections, and what malloc keeps.
const MORE: u64 = 4 << 20;
/// How long a good client may take with its start and its end; for the answer itself the program has a time-out of 5 s,
/// and fails then. The lab's two CPUs are the flood's as well.
const ANSWER: Duration = Duration::from_secs(20);

type Client = fn(&Path, &mut Random) -> std::io::Result<()>;

fn fuzzed() -> Result<()> {
    let time = Duration::from_secs(depth(6, 60));
    let fleet = Fleet::new()?;
    fleet.config("a", "")?;
    fleet.start("a")?;
    let before = fleet.status("a")?;
    let pid = before["pid"].as_u64().context("a pid")?;
    let (memory, files) = (resident(pid)?, open_files(pid)?);
    let socket = fleet.runtime_dir("a").join("control");

    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let clients: [Client; 6] = [
        random,
        mutated,
        flooding,
        half_closing,
        trickling,
        impatient,
    ];
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(n, client)| {
            let (stop, done, socket) = (stop.clone(), done.clone(), socket.clone());
            thread::spawn(move || {
                let mut random = Random(0x9e37_79b9_7f4a_7c15 + n as u64);
                while !stop.load(Ordering::Relaxed) {
                    // Refused, or thrown out: that is what it is for.
                    let _ = client(&socket, &mut random);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let held: Vec<_> = (0..HELD).map(|_| UnixStream::connect(&socket)).collect();
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    let mut answers = 0;
    let asked: Result<()> = loop {
        let asked = Instant::now();
        match fleet.status("a") {
            Ok(status) if status["state"] == "running" => {}
            Ok(status) => break Err(anyhow::anyhow!("{status}")),
            Err(error) => break Err(error),
        }
        longest = longest.max(asked.elapsed());
        answers += 1;
        if start.elapsed() > time {
            break Ok(());
        }
    };
    stop.store(true, Ordering::Relaxed);
    drop(held);
    for thread in threads {
        ensure!(thread.join().is_ok(), "a client has panicked");
    }
    asked?;
    let done = done.load(Ordering::Relaxed);
    println!(
        "hostile: {done} clients, {answers} answers to a good one, the last of them after {longest:?}"
    );
    ensure!(longest < ANSWER, "{longest:?}");
    ensure!(done > 100, "only {done} clients were there");

    let after = fleet.status("a")?;
    ensure!(
        after["state"] == "running" && after["vmm_pid"] == before["vmm_pid"],
        "{after}"
    );
    ensure!(after["restarts"] == 0, "{after}");
    let now = resident(pid)?;
    ensure!(now < memory + MORE, "{memory} bytes have become {now}");
    // The last of them has been noticed when a call is answered that came later.
    let left = open_files(pid)?;
    ensure!(left <= files + 1, "{files} open files have become {left}");
    fleet.says(0, &["stop", "a", "--force"])?;
    Ok(())
}

/// Anything at all.
fn random(socket: &Path, random: &mut Random) -> std::io::Result<()> {
    let mut stream = connect(socket)?;
    let bytes = random.bytes(4096);
    stream.write_all(&bytes)?;
    stream.write_all(&[0])
}

/// What is nearly a call, in pieces.
fn mutated(socket: &Path, random: &mut Random) -> std::io::Result<()> {
    let mut stream = connect(socket)?;
    for _ in 0..8 {
        let methods = [
            "GetStatus",
            "PressPowerButton",
            "Resume",
            "AwaitEnd",
            "Nothing",
        ];
        let method = methods[random.below(methods.len())];
        let mut call = format!(
            "{{\"method\":\"org.minivmm.Machine.{method}\",\"parameters\":{{\"timeout_msec\":{}}},\"more\":true}}\0",
            random.next()
        )
        .into_bytes();
        if random.below(2) == 0 {
            let at = random.below(call.len());
            call[at] = random.next() as u8;
        }
        let end = random.below(call.len() + 1);
        stream.write_all(&call[..end])?;
    }
    Ok(())
}

/// Calls without end, whose replies nobody reads.
fn flooding(socket: &Path, _: &mut Random) -> std::io::Result<()> {
    let mut stream = connect(socket)?;
    let calls = STATUS.repeat(100);
    for _ in 0..100 {
        stream.write_all(&calls)?;
    }
    Ok(())
}

/// A call and a half, and then nothing more, but the other half stays open.
fn half_closing(socket: &Path, _: &mut Random) -> std::io::Result<()> {
    let mut stream = connect(socket)?;
    stream.write_all(STATUS)?;
    stream.write_all(&STATUS[..30])?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// A byte now and then.
fn trickling(socket: &Path, _: &mut Random) -> std::io::Result<()> {
    let mut stream = connect(socket)?;
    for byte in STATUS {
        stream.write_all(&[*byte])?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Asks and is gone.
fn impatient(socket: &Path, _: &mut Random) -> std::io::Result<()> {
    let mut stream = connect(socket)?;
    stream.write_all(b"{\"method\":\"org.minivmm.Machine.AwaitEnd\"}\0")
}

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    let patience = Some(Duration::from_millis(500));
    stream.set_write_timeout(patience)?;
    stream.set_read_timeout(patience)?;
    Ok(stream)
}

fn resident(pid: u64) -> Result<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn open_files(pid: u64) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Xorshift: the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.next() as u8).collect()
    }
}
