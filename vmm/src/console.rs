//! The thread that takes the guest's console output where it goes.

use std::{
    io::{self, Write},
    thread::{self, JoinHandle},
};

use minivmm_devices::legacy::ConsoleSink;

/// Writes what comes out of `sink` to `output` until the sink is closed. An output that blocks holds up
/// this thread alone; the sink then drops its oldest bytes.
pub fn spawn(sink: ConsoleSink, mut output: Box<dyn Write + Send>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("console".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            let mut broken = false;
            while sink.wait(&mut bytes) {
                if broken {
                    continue;
                }
                let written = output.write_all(&bytes).and_then(|()| output.flush());
                if let Err(error) = written {
                    tracing::warn!("the console's output is lost from here on: {error}");
                    broken = true;
                }
            }
        })
}
