//! Streams between the guest and the host.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Test, depth,
    vm::{PATIENCE, Running, Vm, value},
};

pub const TESTS: &[Test] = &[Test {
    name: "vsock::streams_go_both_ways_through_half_closes_pauses_floods_and_a_reboot",
    run: streams,
}];

/// Bytes that both sides exchange, and how.
const EXCHANGE: &str = include_str!("vsock/exchange.py");
/// What the guest does; it prints `NAME=VALUE` lines.
const GUEST: &str = include_str!("vsock/guest.py");
/// The other end of its exchanges.
const HOST: &str = include_str!("vsock/host.py");

/// Streams at a time.
const STREAMS: u64 = 8;
/// How long the host may take to close a stream with which systemd tells of itself, in the lab.
const NOTIFY: f64 = 40.0;

fn streams() -> Result<()> {
    let count = depth(4, 100) << 20;
    let vm = Vm::debian_script(&format!(
        "if [ -e /data/again ]; then\n\
             python3 /data/guest.py again\n\
         else\n\
             python3 /data/guest.py {STREAMS} {count} 100\n\
             touch /data/again; sync; reboot -f\n\
         fi\n"
    ))?
    .toml(
        "[vsock]\ncid = 77\nsocket = \"streams\"\n\
         allow = [\"ssh\", \"guest:5000\", \"host:9000\", \"host:9001\", \"host:9002\", \"host:9005\"]\n\
         [lifecycle]\non_reboot = \"restart\"\n",
    );
    for (name, text) in [
        ("exchange.py", EXCHANGE),
        ("guest.py", GUEST),
        ("host.py", HOST),
    ] {
        fs::write(vm.data().join(name), text)?;
    }
    let socket = vm.directory().join("streams");
    let served = |port: u32| vm.directory().join(format!("streams_{port}"));
    let half = half_closer(&served(9000))?;
    let answerer = host(&vm, &["answer", &text(&served(9001)), &STREAMS.to_string()])?;
    hold_all(&served(9002))?;

    let mut running = vm.start()?;
    running.wait_for("allowed: listening")?;
    let said = answer_to(&socket, "CONNECT 5001\n")?;
    ensure!(said.starts_with("ERR not-allowed"), "{said}");
    let ask = |streams: u64, count: u64| {
        let (streams, count) = (streams.to_string(), count.to_string());
        host(&vm, &["ask", &text(&socket), "5000", &streams, &count])
    };
    let start = Instant::now();
    let asker = ask(STREAMS, count)?;
    pause(&vm)?;
    good(asker, STREAMS)?;
    println!(
        "vsock: {count} bytes each way on each of {STREAMS} streams in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    running.wait_for("from-host=")?;
    good(answerer, STREAMS)?;
    running.wait_for("to-host=")?;
    running.wait_for("half=")?;
    let heard = half.join().ok().context("the host's end panicked")??;
    ensure!(heard == ["guest ends", "after host ends"], "{heard:?}");

    running.wait_for("last: listening")?;
    flood(&socket)?;
    let said = through_vsock(&vm, "ping\n")?;
    ensure!(said == "hello\n", "{said:?}");
    errors(&vm)?;
    good(ask(1, 1 << 20)?, 1)?;

    // The VM has restarted, on the same socket.
    running.wait_for("again: listening")?;
    let said = through_vsock(&vm, "again\n")?;
    ensure!(said == "hello\n", "{said:?}");
    check(running)?;
    ensure!(!socket.exists(), "the socket is left");
    for port in [9000, 9001, 9002] {
        fs::remove_file(served(port))?;
    }
    vm.nothing_left()
}

/// Looks at what the guest has printed.
fn check(running: Running) -> Result<()> {
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    for (word, expected) in [
        ("cid=", "77"),
        ("from-host=", "8"),
        ("to-host=", "8"),
        ("half=", "host heard it"),
        ("refused=", "True"),
        ("nobody: refused=", "True"),
        ("after-flood=", "True"),
        ("line=", "ping"),
        ("after-all=", "1"),
    ] {
        ensure!(value(&output, word)? == expected, "{word}:\n{output}");
    }
    let streams: usize = value(&output, "flood=")?.parse()?;
    ensure!((32..=256).contains(&streams), "{streams} streams");
    let longest: f64 = value(&output, "notify-longest=")?.parse()?;
    let middle = value(&output, "notify-middle=")?;
    println!(
        "vsock: {streams} of 1000 streams; notify streams closed within {longest} ms, half of them within {middle} ms"
    );
    ensure!(longest <= NOTIFY, "{longest} ms:\n{output}");
    Ok(())
}

/// The guest stands still for a while in the middle of everything.
fn pause(vm: &Vm) -> Result<()> {
    for verb in ["pause", "resume"] {
        // Not to wait for anything: bytes are on their way, or are to be kept from it.
        thread::sleep(Duration::from_millis(500));
        let said = vm.ask([verb, "test"])?;
        ensure!(said.status.success(), "{verb}: {said:?}");
    }
    Ok(())
}

/// More clients than there may be that say nothing.
fn flood(socket: &Path) -> Result<()> {
    let silent: Vec<_> = (0..32)
        .map(|_| UnixStream::connect(socket))
        .collect::<Result<_, _>>()?;
    let said = answer_to(socket, "")?;
    ensure!(said.starts_with("ERR full"), "{said:?}");
    drop(silent);
    Ok(())
}

/// What a client is answered, until it is sent away.
fn answer_to(socket: &Path, line: &str) -> Result<String> {
    let mut client = UnixStream::connect(socket)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let _ = client.write_all(line.as_bytes());
    let mut said = String::new();
    client.read_to_string(&mut said)?;
    Ok(said)
}

/// What the guest's port 22 answers `line`.
fn through_vsock(vm: &Vm, line: &str) -> Result<String> {
    let mut child = vm
        .command(["vsock", "--port", "22", "test"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("it has an input")?;
    input.write_all(line.as_bytes())?;
    drop(input);
    wait(&mut child)
}

/// What is said where there is no way in.
fn errors(vm: &Vm) -> Result<()> {
    for (words, code, text) in [
        (
            vec!["vsock", "test", "--port", "5001"],
            6,
            "vsock.allow has no \"guest:5001\"",
        ),
        (vec!["ssh", "nobody"], 3, "no VM called `nobody` runs here"),
    ] {
        let said = vm.command([]).args(words).output()?;
        let log = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.code() == Some(code), "{said:?}");
        ensure!(log.contains(text), "{log}");
    }
    Ok(())
}

/// Serves two streams: one that the guest ends first, and one that the host does. Gives what the guest has sent.
fn half_closer(path: &Path) -> Result<JoinHandle<Result<[String; 2]>>> {
    let listener = UnixListener::bind(path)?;
    Ok(thread::spawn(move || {
        let mut heard = [String::new(), String::new()];
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_to_string(&mut heard[0])?;
        stream.write_all(b"host heard it")?;
        drop(stream);
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"host ends")?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_string(&mut heard[1])?;
        Ok(heard)
    }))
}

/// Accepts whatever comes, and says nothing.
fn hold_all(path: &Path) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    thread::spawn(move || {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            streams.push(stream);
        }
    });
    Ok(())
}

/// The host's end of exchanges.
fn host(vm: &Vm, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new("python3");
    command.arg("host.py").args(arguments);
    command.current_dir(vm.data()).stdout(Stdio::piped());
    command.spawn().context("python3")
}

fn good(mut child: Child, streams: u64) -> Result<()> {
    let said = wait(&mut child)?;
    ensure!(said.contains(&format!("good={streams}\n")), "{said}");
    Ok(())
}

/// Waits for a program's end, and gives what it said.
fn wait(child: &mut Child) -> Result<String> {
    let mut said = String::new();
    let mut output = child.stdout.take().context("it has an output")?;
    output.read_to_string(&mut said)?;
    let status = child.wait()?;
    ensure!(status.success(), "{status}: {said}");
    Ok(said)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
