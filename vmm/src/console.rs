//! The thread that takes the guest's console output where it goes.

use std::{
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use minivmm_devices::console::{ConsoleSink, Merge, Output};
use rustix::event::{PollFd, PollFlags, poll};

/// How long the beginning of a message of the kernel is held back until the rest of it comes.
const HELD: Duration = Duration::from_millis(500);
/// How long output is gathered: too short for a person to see.
const TOGETHER: Duration = Duration::from_millis(3);

/// Writes to a descriptor that somebody may have made non-blocking as if it were not: to standard output, say, which a
/// shell, ssh or a test harness shares with us and switches whenever it likes.
///
/// It waits without a limit, like any blocking output: the thread that writes has nothing else to do, what the guest
/// prints meanwhile is bounded, and the VM's end does not wait for it.
#[derive(Debug)]
pub struct WaitingWriter<W>(pub W);

impl<W: Write + AsFd> Write for WaitingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Interrupted or not, what is possible now is seen by trying.
                    let _ = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None);
                }
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The thread.
pub struct Console {
    /// Its sender is the thread's, and is dropped when the thread ends.
    ended: Receiver<()>,
}

impl Console {
    /// Writes what comes out of `sink` to `output` until the sink is closed; `merge` says what of two consoles. An
    /// output that blocks holds up this thread alone; the sink then drops its oldest bytes.
    pub fn spawn(
        sink: ConsoleSink,
        mut merge: Merge,
        mut output: Box<dyn Write + Send>,
    ) -> io::Result<Self> {
        let (sender, ended) = mpsc::channel();
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                let _sender: mpsc::Sender<()> = sender;
                let (mut taken, mut text) = (Output::default(), Vec::new());
                let mut broken = false;
                loop {
                    let goes_on = sink.wait(merge.holds().then_some(HELD), &mut taken);
                    if taken.bytes().is_empty() {
                        merge.flush(&mut text);
                    }
                    for (origin, piece) in taken.pieces() {
                        merge.push(origin, piece, &mut text);
                    }
                    if !text.is_empty()
                        && !broken
                        && let Err(error) = output.write_all(&text).and_then(|()| output.flush())
                    {
                        tracing::warn!("the console's output is lost from here on: {error}");
                        broken = true;
                    }
                    text.clear();
                    if !goes_on {
                        break;
                    }
                    // A serial port's bytes come one by one: those of this time go together, and the vCPU
                    // that sends them wakes nobody meanwhile.
                    thread::sleep(TOGETHER);
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
    use minivmm_devices::console::Origin;

    use super::*;

    #[test]
    fn what_is_written_last_is_taken_before_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = ConsoleSink::new().unwrap();
        let console = Console::spawn(sink.clone(), Merge::once(), Box::new(writer)).unwrap();
        sink.push(Origin::Serial, b"last words");
        sink.close();
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "last words");
        assert!(console.wait(Duration::from_secs(20)).is_ok());
    }

    #[test]
    fn what_was_held_back_comes_when_nothing_follows() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = ConsoleSink::new().unwrap();
        let _console = Console::spawn(sink.clone(), Merge::once(), Box::new(writer)).unwrap();
        sink.push(Origin::Serial, b"[   12");
        let mut text = [0; 6];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert_eq!(&text, b"[   12");
        sink.push(Origin::Virtio, b"[    1.000000] end");
        sink.close();
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "[    1.000000] end");
    }

    #[test]
    fn an_output_that_is_made_non_blocking_loses_nothing() {
        const SIZE: usize = 1 << 20;
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut reader, &mut bytes).map(|_| bytes)
        });
        let sent: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
        let mut writer = WaitingWriter(writer);
        writer.write_all(&sent).unwrap();
        drop(writer);
        assert!(reader.join().unwrap().unwrap() == sent);
    }

    #[test]
    fn a_reader_that_takes_nothing_does_not_hold_up_the_end() {
        let (_reader, writer) = io::pipe().unwrap();
        let sink = ConsoleSink::new().unwrap();
        let console = Console::spawn(sink.clone(), Merge::once(), Box::new(writer)).unwrap();
        // More than a pipe holds.
        sink.push(Origin::Serial, &[0; 128 * 1024]);
        sink.close();
        assert!(console.wait(Duration::from_millis(50)).is_err());
    }
}
