#![allow(clippy::unwrap_used)]
use std::os::unix::net::UnixDatagram;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A service manager, and one who talks to it.
fn with_manager(toml: &str, test: impl FnOnce(Notify, Receiver)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let receiver = UnixDatagram::bind(&path).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let config =
        VmConfig::from_toml(&format!("name = \"a\"\n[kernel]\npath = \"k\"\n{toml}")).unwrap();
    let mut notify = Notify::new(&config, Instant::now());
    notify.manager = Some(Socket::new(path.as_os_str()).unwrap());
    test(notify, Receiver(receiver));
}

struct Receiver(UnixDatagram);

impl Receiver {
    /// The messages that have come, each with its lines apart.
    fn take(&self) -> Vec<Vec<String>> {
        let mut messages = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(n) = self.0.recv(&mut bytes) {
            let text = std::str::from_utf8(&bytes[..n]).unwrap();
            messages.push(text.lines().map(str::to_owned).collect());
        }
        messages
    }
}

const GUEST: &str =
    "[lifecycle]\nready = \"guest\"\nready_timeout = \"10s\"\nstop_timeout = \"5s\"\n";

#[test]
fn by_vcpus_readiness_is_said_once_and_a_restart_in_place_keeps_it() {
    with_manager("", |mut notify, manager| {
        let now = Instant::now();
        notify.status("starting\nMAINPID=1");
        assert!(notify.vcpus_run(now));
        assert!(!notify.vcpus_run(now));
        assert_eq!(
            manager.take(),
            [
                vec!["STATUS=starting MAINPID=1"],
                vec!["READY=1", "STATUS=the guest runs"],
                vec!["STATUS=the guest runs again"]
            ]
        );
    });
}

#[test]
fn a_guest_is_waited_for_and_its_words_are_passed_on_in_order() {
    with_manager(GUEST, |mut notify, manager| {
        let now = Instant::now();
        notify.vcpus_run(now);
        assert_eq!(
            notify.guest_says("STATUS=Starting D-Bus…\nMAINPID=1", now),
            None
        );
        notify.guest_says("X_SYSTEMD_UNIT_ACTIVE=basic.target", now);
        assert_eq!(
            notify.guest_says("READY=1\nSTATUS=Ready.", now),
            Some(Turn::Runs)
        );
        // 10 s of silence, 5 s of a shutdown, 30 s to tidy up.
        let extend = "EXTEND_TIMEOUT_USEC=45000000";
        assert_eq!(
            manager.take(),
            [
                vec!["STATUS=the guest's kernel is booting", extend],
                vec!["STATUS=guest: Starting D-Bus…", extend],
                vec!["X_SYSTEMD_UNIT_ACTIVE=basic.target", extend],
                vec!["READY=1", "STATUS=guest: Ready."],
            ]
        );
        assert_eq!(notify.due(now + 1000 * SECOND), Wanted::default());
    });
}

#[test]
fn a_guests_shutdown_is_no_stop_of_the_unit_because_it_may_come_back() {
    with_manager("", |mut notify, manager| {
        assert_eq!(
            notify.guest_says("STOPPING=1", Instant::now()),
            Some(Turn::Stops)
        );
        assert_eq!(manager.take(), [vec!["STATUS=the guest is shutting down"]]);
    });
}

#[test]
fn a_stop_is_said_once_with_the_time_that_it_takes_and_the_end_is_the_last_status() {
    with_manager(GUEST, |mut notify, manager| {
        let now = Instant::now();
        notify.vcpus_run(now);
        notify.stopping("asking the guest to shut down", None);
        notify.stopping("ending the VM", None);
        notify.stopping("longer", Some(60 * SECOND));
        notify.guest_says("READY=1", now);
        notify.ended("the guest powered off");
        let said = manager.take();
        assert_eq!(
            said[1],
            [
                "STOPPING=1",
                "STATUS=asking the guest to shut down",
                "EXTEND_TIMEOUT_USEC=35000000"
            ]
        );
        assert_eq!(said[2], ["STATUS=ending the VM"]);
        assert_eq!(said[3], ["STATUS=longer", "EXTEND_TIMEOUT_USEC=90000000"]);
        let last = said.last().unwrap();
        assert_eq!(*last, ["STATUS=the guest powered off"]);
        assert!(said.iter().flatten().all(|line| line != "READY=1"));
        assert_eq!(notify.due(now + 1000 * SECOND), Wanted::default());
    });
}

#[test]
fn a_flood_of_words_reaches_the_service_manager_in_drops_and_readiness_all_the_same() {
    with_manager(GUEST, |mut notify, manager| {
        let start = Instant::now();
        notify.vcpus_run(start);
        let mut passed = 0;
        for n in 0..1000 {
            notify.guest_says(&format!("STATUS={n}"), start);
            passed += manager.take().len();
        }
        assert_eq!(passed, 1 + BURST as usize);
        notify.guest_says("STATUS=later", start + REFILL);
        notify.guest_says("STATUS=too much", start + REFILL);
        assert_eq!(manager.take()[0][0], "STATUS=guest: later");
        notify.guest_says("READY=1", start + REFILL);
        assert_eq!(manager.take(), [["READY=1", "STATUS=the guest is ready"]]);
    });
}

#[test]
fn a_silent_guest_fails_the_start_also_without_a_service_manager() {
    with_manager(GUEST, |mut notify, _| {
        notify.manager = None;
        let start = Instant::now();
        notify.vcpus_run(start);
        assert_eq!(notify.due(start).next, Some(start + 10 * SECOND));
        let failed = notify.due(start + 10 * SECOND).failed.unwrap();
        assert!(failed.starts_with("the guest never spoke"), "{failed}");
    });
}

#[test]
fn the_watchdog_is_fed_by_answers_and_where_nobody_asks_for_it_nothing_wakes() {
    with_manager("", |mut notify, manager| {
        let start = Instant::now();
        assert_eq!(notify.due(start), Wanted::default());
        notify.watchdog = Some(Watchdog::new(10 * SECOND, start));
        notify.vcpus_run(start);
        manager.take();
        let wanted = notify.due(start);
        assert!(wanted.ping);
        assert_eq!(wanted.next, Some(start + 5 * SECOND));
        notify.due(start + 5 * SECOND);
        assert!(manager.take().is_empty(), "nobody has answered");
        notify.alive();
        assert_eq!(manager.take(), [["WATCHDOG=1"]]);
        notify.vmm_ends();
        assert!(!notify.due(start + 10 * SECOND).ping);
        assert_eq!(manager.take(), [["WATCHDOG=1"]]);
    });
}

#[test]
fn an_abstract_socket_is_reached_and_what_is_no_address_is_refused() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("minivmm-notify-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let receiver = UnixDatagram::bind_addr(&address).unwrap();
    let socket = Socket::new(format!("@{name}").as_ref()).unwrap();
    assert!(socket.send("READY=1"));
    let mut bytes = [0; 16];
    assert_eq!(receiver.recv(&mut bytes).unwrap(), 7);
    drop(receiver);
    assert!(!socket.send("STOPPING=1"), "nobody is there");
    for address in ["", "run/notify", "vsock:2:8888"] {
        assert!(Socket::new(address.as_ref()).is_err(), "{address}");
    }
}
