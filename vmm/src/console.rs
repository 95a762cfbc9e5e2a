//! The thread that takes the guest's console output where it goes.

use std::{
    io::{self, Write},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use minivmm_devices::legacy::ConsoleSink;

/// How long output is gathered: too short for a person to see.
const TOGETHER: Duration = Duration::from_millis(3);

/// The thread.
pub struct Console {
    /// Its sender is the thread's, and is dropped when the thread ends.
    ended: Receiver<()>,
}

impl Console {
    /// Writes what comes out of `sink` to `output` until the sink is closed. An output that blocks holds up
    /// this thread alone; the sink then drops its oldest bytes.
    pub fn spawn(sink: ConsoleSink, mut output: Box<dyn Write + Send>) -> io::Result<Self> {
        let (sender, ended) = mpsc::channel();
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                let _sender: mpsc::Sender<()> = sender;
                let mut bytes = Vec::new();
                let mut broken = false;
                while sink.wait(&mut bytes) {
                    if broken {
                        continue;
                    }
                    let written = output.write_all(&bytes).and_then(|()| output.flush());
                    // A serial port's bytes come one by one: those of this time go together, and the vCPU
                    // that sends them wakes nobody meanwhile.
                    thread::sleep(TOGETHER);
                    if let Err(error) = written {
                        tracing::warn!("the console's output is lost from here on: {error}");
                        broken = true;
                    }
                }
            })?;
        Ok(Self { ended })
    }

    /// Waits for the thread's end, which follows when the sink is closed and empty; an error if it takes
    /// longer than `patience`.
    pub fn wait(&self, patience: Duration) -> Result<(), RecvTimeoutError> {
        match self.ended.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => Err(RecvTimeoutError::Timeout),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_last_is_taken_before_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = ConsoleSink::new().unwrap();
        let console = Console::spawn(sink.clone(), Box::new(writer)).unwrap();
        sink.push(b"last words");
        sink.close();
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "last words");
        assert!(console.wait(Duration::from_secs(20)).is_ok());
    }

    #[test]
    fn a_reader_that_takes_nothing_does_not_hold_up_the_end() {
        let (_reader, writer) = io::pipe().unwrap();
        let sink = ConsoleSink::new().unwrap();
        let console = Console::spawn(sink.clone(), Box::new(writer)).unwrap();
        // More than a pipe holds.
        sink.push(&[0; 128 * 1024]);
        sink.close();
        assert!(console.wait(Duration::from_millis(50)).is_err());
    }
}
