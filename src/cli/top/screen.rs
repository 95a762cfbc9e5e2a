//! The table that fills the terminal.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use super::{
    super::{list, list::Row, table::cut},
    Before, Key, sort,
    terminal::{Event, Terminal},
};
use crate::failure::Failure;

const HELP: &str = "q quit   n name  c cpu  m memory  u uptime   r reverse   ↑ ↓ scroll";
/// Lines beside those of VMs: summary, an empty one, headings, an empty one, help.
const FRAME: usize = 5;
const CONTROL_Z: u8 = 0x1a;

/// Shows the VMs until somebody wants no more.
pub fn run(key: Key, delay: Duration) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::host(format!("the terminal: {error}"));
    let (news, teller) = UnixStream::pair().map_err(failed)?;
    let rows = Arc::new(Mutex::new(None));
    look(rows.clone(), teller, delay).map_err(failed)?;
    let mut terminal = Terminal::take(news).map_err(failed)?;
    let mut screen = Screen {
        rows: Vec::new(),
        looked: false,
        key,
        reverse: false,
        first: 0,
    };
    loop {
        if let Some(rows) = rows.lock().unwrap_or_else(PoisonError::into_inner).take() {
            screen.rows = rows;
            screen.looked = true;
        }
        let (lines, columns) = terminal.size();
        let image = screen.image(lines, columns);
        let mut stdout = io::stdout();
        if stdout
            .write_all(image.as_bytes())
            .and_then(|()| stdout.flush())
            .is_err()
        {
            return Ok(ExitCode::SUCCESS);
        }
        for event in terminal.wait() {
            match event {
                Event::Quit | Event::Key(b'q' | b'Q') => return Ok(ExitCode::SUCCESS),
                Event::Key(CONTROL_Z) => terminal.suspend().map_err(failed)?,
                Event::Key(key) => screen.press(key),
                Event::Scroll(by) => screen.first = screen.first.saturating_add_signed(by.into()),
                Event::Redraw => {}
            }
        }
    }
}

/// Looks at the VMs on a thread of its own: one that does not answer does not hold up the keys.
fn look(rows: Arc<Mutex<Option<Vec<Row>>>>, teller: UnixStream, delay: Duration) -> io::Result<()> {
    teller.set_nonblocking(true)?;
    let mut before = Before::default();
    thread::Builder::new()
        .name("look".to_owned())
        .spawn(move || {
            loop {
                let new = before.look();
                *rows.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
                // A full socket is readable, which is all that counts.
                let _ = (&teller).write(&[0]);
                thread::sleep(delay);
            }
        })?;
    Ok(())
}

struct Screen {
    rows: Vec<Row>,
    looked: bool,
    key: Key,
    reverse: bool,
    /// The first VM that is shown.
    first: usize,
}

impl Screen {
    fn press(&mut self, key: u8) {
        match key {
            b'n' => self.key = Key::Name,
            b'c' => self.key = Key::Cpu,
            b'm' => self.key = Key::Memory,
            b'u' => self.key = Key::Uptime,
            b'r' => self.reverse = !self.reverse,
            b'j' => self.first = self.first.saturating_add(1),
            b'k' => self.first = self.first.saturating_sub(1),
            _ => {}
        }
    }

    /// All that is to be written.
    fn image(&mut self, lines: usize, columns: usize) -> String {
        // Those that are alike stay in the order of their names.
        sort(&mut self.rows, Key::Name);
        sort(&mut self.rows, self.key);
        if self.reverse {
            self.rows.reverse();
        }
        let room = lines.saturating_sub(FRAME).max(1);
        self.first = self.first.min(self.rows.len().saturating_sub(room));
        let end = (self.first + room).min(self.rows.len());
        let mut shown = vec![cut(&self.summary(), columns), String::new()];
        shown.extend(list::table(&self.rows[self.first..end], Some(columns)));
        shown.truncate(lines.saturating_sub(2).max(1));
        shown.resize(lines.saturating_sub(1).max(1), String::new());
        shown.push(cut(HELP, columns));
        shown.truncate(lines);
        let mut image = "\x1b[H".to_owned();
        for (n, line) in shown.iter().enumerate() {
            let line = match anstream::AutoStream::choice(&io::stdout()) {
                anstream::ColorChoice::Never => anstream::adapter::strip_str(line).to_string(),
                _ => line.clone(),
            };
            let end = if n + 1 == shown.len() { "" } else { "\r\n" };
            let _ = write!(image, "{line}\x1b[K{end}");
        }
        image.push_str("\x1b[J");
        image
    }

    fn summary(&self) -> String {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        if !self.looked {
            return format!("minivmm {now}");
        }
        let count = |state: &str| self.rows.iter().filter(|row| row.state == state).count();
        let mut text = format!("minivmm {now}  {} VMs", self.rows.len());
        for state in ["running", "paused", "no-answer"] {
            if let n @ 1.. = count(state) {
                let _ = write!(text, ", {n} {}", state.replace('-', " "));
            }
        }
        let cpu: f64 = self.rows.iter().filter_map(|row| row.cpu_percent).sum();
        let used: u64 = self
            .rows
            .iter()
            .filter_map(|row| row.memory_used_bytes)
            .sum();
        let given: u64 = self.rows.iter().filter_map(|row| row.memory_bytes).sum();
        let _ = write!(
            text,
            "  CPU {cpu:.1}%  memory {}/{}M",
            used >> 20,
            given >> 20
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::{Found, Vm};

    fn screen(vms: usize) -> Screen {
        let vm = |n| Vm {
            name: format!("vm{n:03}"),
            directory: "d".into(),
            found: Found::NoAnswer { pid: None },
        };
        Screen {
            rows: (0..vms).map(vm).map(Row::new).collect(),
            looked: true,
            key: Key::Name,
            reverse: false,
            first: 0,
        }
    }

    #[test]
    fn an_image_fits_any_terminal() {
        for (lines, columns) in [(1, 1), (2, 300), (3, 10), (5, 40), (24, 80), (100, 300)] {
            let image = screen(30).image(lines, columns);
            let text = anstream::adapter::strip_str(&image).to_string();
            let shown: Vec<&str> = text.split("\r\n").collect();
            assert_eq!(shown.len(), lines);
            assert!(
                shown.iter().all(|line| line.chars().count() <= columns),
                "{text}"
            );
        }
    }

    #[test]
    fn who_scrolls_gets_to_the_last_one_and_no_further() {
        let mut screen = screen(30);
        screen.first = 1000;
        let image = screen.image(24, 80);
        assert!(image.contains("vm029") && image.contains("vm011"));
        assert!(!image.contains("vm010"));
        screen.press(b'k');
        assert!(screen.image(24, 80).contains("vm010"));
        screen.press(b'r');
        screen.first = 0;
        assert!(screen.image(24, 80).contains("vm029"));
    }
}
