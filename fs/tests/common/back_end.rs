//! Back ends that are programs of a test.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

/// A request of the front end.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub code: u32,
    pub wants_answer: bool,
    /// The first 32 bits of its body.
    pub first: u32,
}

/// The next request, until the connection ends.
pub fn next_request(socket: &mut UnixStream) -> Option<Request> {
    let mut header = [0; 12];
    socket.read_exact(&mut header).ok()?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; usize::try_from(word(8)).unwrap()];
    socket.read_exact(&mut body).ok()?;
    body.resize(4, 0);
    let first = u32::from_le_bytes(body.try_into().unwrap());
    Some(Request {
        code: word(0),
        wants_answer: word(4) & 8 != 0,
        first,
    })
}

/// Reads requests until one of `code` comes.
pub fn wait_for(socket: &mut UnixStream, code: u32) {
    while next_request(socket).unwrap().code != code {}
}

/// Answers a request of `code` with one 64-bit number.
pub fn answer(socket: &mut UnixStream, code: u32, value: u64) {
    // Version 1, and the flag of an answer.
    for word in [code, 1 | 4, 8] {
        socket.write_all(&word.to_le_bytes()).unwrap();
    }
    socket.write_all(&value.to_le_bytes()).unwrap();
}

// Codes of requests, as the vhost-user specification numbers them.
pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const RESET_DEVICE: u32 = 34;

/// Answers as an obedient back end with two queues.
pub fn answer_well(socket: &mut UnixStream, request: Request) {
    let Request { code, first, .. } = request;
    match code {
        GET_FEATURES => answer(socket, code, 1 << 30 | 1 << 32),
        GET_PROTOCOL_FEATURES => answer(socket, code, 1 | 1 << 3 | 1 << 13),
        GET_QUEUE_NUM => answer(socket, code, 2),
        GET_VRING_BASE => answer(socket, code, u64::from(first)),
        _ if request.wants_answer => answer(socket, code, 0),
        _ => {}
    }
}
