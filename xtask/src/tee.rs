//! One output for two readers.

use std::io::{self, Write};

/// Writes to both, and keeps nothing back.
pub struct Both<'a>(pub &'a mut dyn Write, pub &'a mut dyn Write);

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for to in [&mut *self.0, &mut *self.1] {
            to.write_all(bytes)?;
            to.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
