#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
};

use minivmm_vmm::VmConfig;
use proptest::prelude::*;
use rustix::net::sockopt;
use serde_json::Value;
use tempfile::TempDir;

use super::*;

const STATUS: &[u8] = b"{\"method\":\"org.minivmm.Machine.GetStatus\"}\0";
/// Only the loop can answer it, and here is none.
const PENDING: &[u8] = b"{\"method\":\"org.minivmm.Machine.PressPowerButton\"}\0";
/// A limit against hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of which nobody takes the requests.
struct Served {
    directory: TempDir,
    requests: Arc<Requests>,
    _control: Control,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("control")).unwrap();
        let config = VmConfig::from_toml("name = \"a\"\n[kernel]\npath = \"k\"\n").unwrap();
        let requests = Requests::new().unwrap();
        let context = Context {
            board: Arc::new(Board::new(&config, "a.toml".as_ref(), "")),
            requests: requests.clone(),
            console: Hub::start().unwrap().hub().clone(),
        };
        let _control = Control::start(listener, context).unwrap();
        Self {
            directory,
            requests,
            _control,
        }
    }

    fn client(&self) -> UnixStream {
        let path: PathBuf = self.directory.path().join("control");
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client whose call is pending.
    fn pending(&self) -> UnixStream {
        let mut client = self.client();
        client.write_all(PENDING).unwrap();
        client
    }

    fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let deadline = Instant::now() + PATIENCE;
        let mut taken = Vec::new();
        while taken.len() < count {
            assert!(Instant::now() < deadline, "{}", taken.len());
            taken.extend(self.requests.take());
            thread::sleep(Duration::from_millis(1));
        }
        taken
    }

    fn is_well(&self) {
        let mut client = self.client();
        client.write_all(STATUS).unwrap();
        assert_eq!(name_in(&reply(&mut client)), "a");
    }
}

fn frame(client: &mut UnixStream) -> Vec<u8> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    loop {
        client.read_exact(&mut byte).unwrap();
        match byte[0] {
            0 => return bytes,
            byte => bytes.push(byte),
        }
    }
}

fn reply(client: &mut UnixStream) -> Value {
    serde_json::from_slice(&frame(client)).unwrap()
}

fn name_in(reply: &Value) -> &str {
    reply["parameters"]["status"]["name"].as_str().unwrap()
}

/// Whether the server has closed the connection; what it still said is thrown away.
fn is_closed(client: &mut UnixStream) -> bool {
    let mut rest = Vec::new();
    match client.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_call_may_come_in_two_pieces_wherever_it_is_split() {
    let served = Served::new();
    let mut client = served.client();
    for split in 1..STATUS.len() {
        client.write_all(&STATUS[..split]).unwrap();
        thread::yield_now();
        client.write_all(&STATUS[split..]).unwrap();
        assert_eq!(name_in(&reply(&mut client)), "a", "{split}");
    }
}

#[test]
fn calls_that_come_together_are_answered_one_after_the_other() {
    let served = Served::new();
    let mut client = served.client();
    let info = b"{\"method\":\"org.varlink.service.GetInfo\"}\0";
    let calls = [STATUS, info, PENDING, STATUS].concat();
    client.write_all(&calls).unwrap();
    assert_eq!(name_in(&reply(&mut client)), "a");
    assert_eq!(reply(&mut client)["parameters"]["product"], "minivmm");
    // The fourth waits for the third.
    let request = served.wait_for_requests(1).remove(0);
    request.answer.done();
    assert_eq!(reply(&mut client)["error"], Value::Null);
    assert_eq!(name_in(&reply(&mut client)), "a");
}

#[test]
fn a_oneway_call_is_done_and_not_replied_to() {
    let served = Served::new();
    let mut client = served.client();
    let call = b"{\"method\":\"org.minivmm.Machine.Kill\",\"oneway\":true}\0";
    client.write_all(&[call, STATUS].concat()).unwrap();
    served.wait_for_requests(1).remove(0).answer.done();
    assert_eq!(name_in(&reply(&mut client)), "a");
}

#[test]
fn who_has_said_all_still_gets_the_reply() {
    let served = Served::new();
    for (call, pending) in [(STATUS, false), (PENDING, true)] {
        let mut client = served.client();
        client.write_all(call).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        if pending {
            served.wait_for_requests(1).remove(0).answer.done();
        }
        assert!(reply(&mut client)["parameters"].is_object());
        assert!(is_closed(&mut client));
    }
}

#[test]
fn what_is_no_varlink_ends_the_connection_and_nothing_else() {
    let served = Served::new();
    let long = |len: usize| {
        let call = "{\"method\":\"org.minivmm.Machine.GetStatus\",\"parameters\":{\"x\":\"";
        let fill = "x".repeat(len - call.len() - 3);
        format!("{call}{fill}\"}}}}\0").into_bytes()
    };
    for bytes in [
        &b"\0"[..],
        b"hello\0",
        b"{\"method\":\"\xff\xfe\"}\0",
        b"{\"method\":1}\0",
        b"[]\0",
        b"{\"parameters\":{}}\0",
        b"{\"method\":\"a.b\"\0",
        &vec![b'x'; 100 << 10],
        &vec![b'{'; 100 << 10],
        &[vec![b'['; 1 << 15], vec![0]].concat(),
        &long((64 << 10) + 2),
    ] {
        let mut client = served.client();
        // It may close before all is written.
        let _ = client.write_all(bytes);
        let said = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
        assert!(is_closed(&mut client), "{said}");
    }
    let mut client = served.client();
    client.write_all(&long((64 << 10) - 1)).unwrap();
    assert!(reply(&mut client).is_object());
    served.is_well();
}

#[test]
fn a_client_that_never_reads_takes_what_its_socket_holds_and_no_more() {
    let served = Served::new();
    let mut silent = served.client();
    silent.set_nonblocking(true).unwrap();
    let calls = STATUS.repeat(256);
    let mut sent = 0;
    let mut full = 0;
    // Full for a while: then the server takes nothing any more.
    while full < 50 {
        match silent.write(&calls) {
            Ok(n) => (sent, full) = (sent + n, 0),
            Err(_) => {
                full += 1;
                thread::sleep(Duration::from_millis(2));
            }
        }
        let room = 2 * sockopt::socket_send_buffer_size(&silent).unwrap();
        assert!(sent < room, "{sent} bytes of calls were taken");
    }
    served.is_well();
}

#[test]
fn the_one_that_is_silent_for_longest_goes_for_one_that_asks() {
    let served = Served::new();
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| served.client()).collect();
    // All are there, and the first one has said something last.
    for client in clients.iter_mut().rev() {
        client.write_all(STATUS).unwrap();
        reply(client);
    }
    served.is_well();
    let (first, others) = clients.split_first_mut().unwrap();
    assert!(is_closed(others.last_mut().unwrap()));
    first.write_all(STATUS).unwrap();
    assert_eq!(name_in(&reply(first)), "a");
}

#[test]
fn a_call_that_is_pending_keeps_its_connection_and_root_has_room_beside_them() {
    let served = Served::new();
    let most = match geteuid().is_root() {
        true => CONNECTIONS + ROOTS,
        false => CONNECTIONS,
    };
    let mut clients: Vec<_> = (0..most).map(|_| served.pending()).collect();
    let requests = served.wait_for_requests(most);
    let mut further = served.client();
    let refused = reply(&mut further);
    assert_eq!(refused["error"], "org.minivmm.Machine.Busy");
    assert!(is_closed(&mut further));
    for request in requests {
        request.answer.done();
    }
    for client in &mut clients {
        assert_eq!(reply(client)["error"], Value::Null);
    }
    served.is_well();
}

#[test]
fn an_answer_to_who_has_gone_is_nobodys() {
    let served = Served::new();
    drop(served.pending());
    let mut other = served.pending();
    for request in served.wait_for_requests(2) {
        request.answer.done();
    }
    assert_eq!(reply(&mut other)["error"], Value::Null);
    served.is_well();
}

#[test]
fn the_end_is_told_to_those_who_wait() {
    let served = Served::new();
    let mut client = served.pending();
    drop(served.wait_for_requests(1));
    assert_eq!(
        reply(&mut client)["parameters"]["message"],
        "the VM has ended"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_said_others_are_served(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                Just(STATUS.to_vec()),
                Just(STATUS[..20].to_vec()),
                Just(b"{\"method\":\"org.minivmm.Machine.\",\"more\":true}\0".to_vec()),
                Just(b"{\"method\":\"org.varlink.service.GetInfo\",\"upgrade\":true}\0".to_vec()),
            ],
            0..12,
        ),
    ) {
        let served = Served::new();
        let mut client = served.client();
        for piece in pieces {
            let _ = client.write_all(&piece);
        }
        served.is_well();
    }
}
