//! The supervisor's standard output, on which the guest's console appears.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use minivmm_devices::console::{ConsoleSink, Merge, Origin};
use minivmm_vmm::{ConsoleThread, WaitingWriter};

use super::journal::{self, Filter};

/// How long the last words may take to be written.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Standard output, written by a thread of its own: one that blocks holds up nobody.
pub struct Stdout {
    sink: ConsoleSink,
    thread: ConsoleThread,
}

impl Stdout {
    /// The process's own.
    pub fn start() -> io::Result<Self> {
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let filter = journal::is_journal(&output).then(|| Filter::new(Instant::now()));
        Self::over(WaitingWriter(output), filter)
    }

    /// Another output, as it is.
    #[cfg(test)]
    pub fn to(output: impl Write + Send + 'static) -> io::Result<Self> {
        Self::over(output, None)
    }

    fn over(output: impl Write + Send + 'static, filter: Option<Filter>) -> io::Result<Self> {
        let sink = ConsoleSink::new()?;
        let writer = Writer {
            output,
            filter,
            text: Vec::new(),
            lost: 0,
        };
        Ok(Self {
            thread: ConsoleThread::spawn(sink.clone(), Merge::all(), Box::new(writer))?,
            sink,
        })
    }

    /// Writes `output`, sooner or later; never waits.
    pub fn push(&self, output: &[u8]) {
        self.sink.push(Origin::Virtio, output);
    }

    /// Nothing more comes: waits until everything is written, but no longer than [`PATIENCE`].
    pub fn finish(self) {
        self.sink.close();
        if self.thread.wait(PATIENCE).is_err() {
            tracing::warn!(
                "standard output takes nothing: the console's last output is lost there"
            );
        }
    }
}

/// Goes on where a file system is full: somebody may make room.
struct Writer<W: Write> {
    output: W,
    filter: Option<Filter>,
    text: Vec<u8>,
    /// Bytes for which there was no room since there last was some.
    lost: u64,
}

impl<W: Write> Writer<W> {
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    let lost = std::mem::take(&mut self.lost);
                    if lost > 0 {
                        tracing::info!(
                            "standard output has room again: {lost} bytes of the console are lost there"
                        );
                    }
                    bytes = &bytes[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) => {
                    if self.lost == 0 {
                        tracing::error!(
                            "standard output: {error}: the guest goes on, and its console's output is lost there until \
                             there is room (`minivmm logs` has the last of it)"
                        );
                    }
                    self.lost += bytes.len() as u64;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.filter {
            None => self.put(bytes)?,
            Some(filter) => {
                let mut text = std::mem::take(&mut self.text);
                filter.push(Instant::now(), bytes, &mut text);
                let put = self.put(&text);
                text.clear();
                self.text = text;
                put?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl<W: Write> Drop for Writer<W> {
    fn drop(&mut self) {
        if let Some(filter) = &mut self.filter {
            let mut text = Vec::new();
            filter.finish(&mut text);
            // It is the end: what cannot be written is lost.
            let _ = self.put(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;

    use super::*;

    #[test]
    fn the_last_words_come_out_and_a_line_without_end_as_well() {
        for (filter, expected) in [
            (None, "\x1b[1mone\r\ntwo"),
            (Some(Filter::new(Instant::now())), "one\ntwo\n"),
        ] {
            let (mut reader, writer) = io::pipe().unwrap();
            let stdout = Stdout::over(writer, filter).unwrap();
            stdout.push(b"\x1b[1mone\r\n");
            stdout.push(b"two");
            stdout.finish();
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_full_disk_is_no_end_of_the_output() {
        let mut writer = Writer {
            output: File::options().write(true).open("/dev/full").unwrap(),
            filter: None,
            text: Vec::new(),
            lost: 0,
        };
        writer.write_all(b"lost").unwrap();
        assert_eq!(writer.lost, 4);
        writer.output = File::options().write(true).open("/dev/null").unwrap();
        writer.write_all(b"written").unwrap();
        assert_eq!(writer.lost, 0);
    }

    #[test]
    fn an_output_that_takes_nothing_holds_up_nobody_for_long() {
        let (_reader, writer) = io::pipe().unwrap();
        let stdout = Stdout::over(writer, None).unwrap();
        let start = Instant::now();
        stdout.push(&[0; 128 << 10]);
        stdout.finish();
        assert!(start.elapsed() < 10 * PATIENCE);
    }
}
