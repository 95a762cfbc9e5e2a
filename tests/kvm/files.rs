//! Files through a share on a real file system: what databases and containers do with them, and what each option changes.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    Test, depth,
    vm::{self, PATIENCE, Running, Vm, checksum, value},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "files::both_sides_read_what_the_other_has_written_and_databases_work",
        run: both_sides,
    },
    Test {
        name: "files::a_read_only_share_and_every_other_option_has_its_effect",
        run: options,
    },
];

/// What the guest does, in Python; it prints `NAME=VALUE` lines.
const BOTH_SIDES: &str = include_str!("files/both_sides.py");
const OPTIONS: &str = include_str!("files/options.py");

fn debian(program: &str) -> Result<Vm> {
    let vm = Vm::debian_script("python3 /data/program.py\n")?;
    fs::write(vm.data().join("program.py"), program)?;
    Ok(vm)
}

fn both_sides() -> Result<()> {
    let (count, mib) = depth((200, 26), (2000, 256));
    let vm = debian(&format!("COUNT = {count}\nMIB = {mib}\n{BOTH_SIDES}"))?;
    let data = vm.data();
    fs::create_dir(data.join("host"))?;
    for n in 0..count {
        fs::write(data.join(format!("host/{n}")), format!("host {n}\n"))?;
    }
    let large = data.join("large-host");
    let large = large.to_string_lossy();
    let (output, blocks) = (format!("of={large}"), format!("count={mib}"));
    vm::run([
        "dd",
        "if=/dev/urandom",
        &output,
        "bs=1M",
        &blocks,
        "status=none",
    ])?;

    let mut running = vm.start()?;
    talk(&mut running, &data)?;
    let (code, output) = running.wait()?;
    ensure!(code == 0, "exit code {code}:\n{output}");
    ensure!(output.contains("test exit 0"), "{output}");
    let is = |name: &str, expected: &str| -> Result<()> {
        ensure!(
            value(&output, name)? == expected,
            "{name} is not {expected}:\n{output}"
        );
        Ok(())
    };
    is("small=", &count.to_string())?;
    is("large-host=", &checksum(&*large)?)?;
    is("large-guest=", &checksum(data.join("large-guest"))?)?;
    for check in ["renamed=", "linked=", "xattr=", "mmap=", "flock=", "fcntl="] {
        is(check, "ok")?;
    }
    is("sqlite=", &format!("{} ok wal", 4 * count / 4))?;

    // What the guest made, as the host sees it.
    for n in 0..count {
        let text = fs::read_to_string(data.join(format!("guest/{n}")))?;
        ensure!(text == format!("guest {n}\n"), "guest/{n}: {text:?}");
    }
    ensure!(fs::read_to_string(data.join("new"))? == "old\n");
    ensure!(!data.join("old").exists());
    let (one, other) = (
        fs::metadata(data.join("one"))?,
        fs::metadata(data.join("other"))?,
    );
    ensure!(one.ino() == other.ino() && one.nlink() == 2, "a hard link");
    ensure!(fs::read(data.join("mapped"))?.starts_with(b"from the child"));
    let script = "import os, sqlite3, sys\n\
                  os.chdir(sys.argv[1])\n\
                  print(os.getxattr('one', 'user.minivmm').decode())\n\
                  db = sqlite3.connect('db.sqlite')\n\
                  print(db.execute('PRAGMA integrity_check').fetchone()[0], db.execute('SELECT count(*) FROM t').fetchone()[0])\n";
    let said = vm::run(["python3", "-c", script, &data.to_string_lossy()])?;
    ensure!(said == format!("told\nok {}\n", 4 * count / 4), "{said}");
    vm.nothing_left()
}

/// Each side reads what the other has closed, in the same two files again and again.
fn talk(running: &mut Running, data: &Path) -> Result<()> {
    for round in 0..5 {
        running.wait_for(&format!("asked {round}"))?;
        let question = fs::read_to_string(data.join("question"))?;
        ensure!(question == format!("question {round}\n"), "{question:?}");
        let next = data.join("next");
        fs::write(&next, format!("answer {round}\n"))?;
        match round % 2 {
            // Another file under the same name, or the same file with other contents.
            0 => fs::rename(&next, data.join("answer"))?,
            _ => fs::copy(&next, data.join("answer")).map(drop)?,
        }
    }
    Ok(())
}

fn options() -> Result<()> {
    let mut vm = debian(OPTIONS)?;
    for (tag, keys) in [
        ("read-only", "read_only = true\n"),
        ("plain", "xattr = false\n"),
        ("uncached", "cache = \"never\"\n"),
        ("mapped", "cache = \"metadata\"\nmmap = true\n"),
        ("tuned", "direct_io = true\nthreads = 3\n"),
        ("late", "writeback = true\n"),
    ] {
        fs::create_dir(vm.directory().join(tag))?;
        vm = vm.toml(&format!(
            "[[shares]]\ntag = \"{tag}\"\nsource = \"{tag}\"\n{keys}"
        ));
    }
    let tree = vm.directory().join("read-only");
    fs::create_dir(tree.join("directory"))?;
    fs::write(tree.join("file"), "as it was\n")?;
    let before = tree_hash(&tree)?;

    let mut running = vm.start()?;
    running.wait_for("direct=open")?;
    for (tag, direct) in [("tuned", true), ("uncached", false)] {
        let worker = worker(&running, tag)?;
        ensure!(
            opens_directly(worker)? == direct,
            "O_DIRECT of `{tag}` on the host"
        );
        let threads = fs::read_dir(format!("/proc/{worker}/task"))?.count();
        ensure!((threads > 5) == direct, "`{tag}` has {threads} threads");
    }
    fs::write(vm.data().join("closed"), "")?;
    running.wait_for("late=written")?;
    let late = vm.directory().join("late/file");
    ensure!(
        fs::metadata(&late)?.len() == 0,
        "written back before it was asked for"
    );
    ensure!(
        fs::metadata(vm.data().join("soon"))?.len() == 5,
        "without writeback"
    );
    fs::write(vm.data().join("seen"), "")?;
    running.wait_for("late=synced")?;
    ensure!(fs::metadata(&late)?.len() == 5, "synced, and not there");
    fs::write(vm.data().join("done"), "")?;

    let (code, output) = running.wait()?;
    ensure!(
        code == 0 && output.contains("test exit 0"),
        "exit code {code}:\n{output}"
    );
    for (name, expected) in [
        (
            "read-only=",
            "file EROFS EROFS EROFS EROFS EROFS EROFS EROFS",
        ),
        ("plain=", "EOPNOTSUPP"),
        ("uncached=", "ENODEV"),
        ("mapped=", "ok"),
    ] {
        ensure!(value(&output, name)? == expected, "{name}:\n{output}");
    }
    ensure!(
        tree_hash(&tree)? == before,
        "the read-only tree has changed"
    );
    vm.nothing_left()
}

/// The process that serves the share whose source has the name of its tag.
fn worker(running: &Running, tag: &str) -> Result<u32> {
    let pids = vm::descendants(running.pid())?;
    let served = pids.into_iter().rfind(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains(&format!("/{tag}\0"))
    });
    served.with_context(|| format!("nobody serves `{tag}`"))
}

fn opens_directly(pid: u32) -> Result<bool> {
    let begin = Instant::now();
    // Descriptors come and go while we look.
    while begin.elapsed() < PATIENCE {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let name = entry?.file_name();
            let link = fs::read_link(format!("/proc/{pid}/fd/{}", name.display()));
            if !link.is_ok_and(|link| link.ends_with("direct")) {
                continue;
            }
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", name.display()))?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.unwrap_or_default().trim(), 8)?;
            // The handle of the inode beside it is O_PATH.
            if flags & 0o10000000 == 0 {
                return Ok(flags & 0o40000 != 0);
            }
        }
    }
    anyhow::bail!("the file is not open")
}

/// Names, contents and attributes of a tree.
fn tree_hash(tree: &Path) -> Result<String> {
    let tree = tree.to_string_lossy();
    vm::run([
        "sh",
        "-c",
        "cd \"$1\"; { find . -printf '%p %m %U:%G %s %T@ %C@ %n\\n' | sort; find . -type f | sort | xargs cat; } | sha256sum",
        "sh",
        &tree,
    ])
}
