//! What ends the launcher: an exit code that is a contract, and one line that says why.

use std::{
    error::Error,
    fmt::{self, Display},
    process::ExitCode,
};

use minivmm_vmm::{Blame, one_line};

/// Exit codes, as docs/exit-codes.md lists them.
pub mod code {
    /// The guest powered off.
    pub const POWER_OFF: u8 = 0;
    /// The guest asked for a reset.
    pub const RESET: u8 = 10;
    /// The guest ended in a triple fault.
    pub const TRIPLE_FAULT: u8 = 11;
    /// The guest's kernel panicked.
    pub const PANIC: u8 = 12;
    /// The VM was ended after the deadline, or at once by a second signal.
    pub const KILLED: u8 = 13;
    /// A back end was lost.
    pub const BACKEND_LOST: u8 = 14;
    /// The guest's watchdog has run out.
    pub const WATCHDOG: u8 = 15;
    /// The guest did not say that it is ready.
    pub const NOT_READY: u8 = 16;
    /// The host is not able.
    pub const HOST: u8 = 69;
    /// The VMM failed.
    pub const VMM: u8 = 70;
    /// The configuration is wrong, or what it names is.
    pub const CONFIG: u8 = 78;
    /// No VM of that name runs.
    pub const NOT_RUNNING: u8 = 3;
    /// This user may not ask the VM.
    pub const NO_PERMISSION: u8 = 4;
    /// The VM does not answer in time.
    pub const NO_ANSWER: u8 = 5;
    /// The VM refuses what it was asked for.
    pub const REFUSED: u8 = 6;
}

/// A reason not to go on.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A failure of `blame`'s making; `message` says it to a person.
    pub fn new(blame: Blame, message: impl ToString) -> Self {
        let code = match blame {
            Blame::Config => code::CONFIG,
            Blame::Host => code::HOST,
            Blame::Vmm => code::VMM,
        };
        Self::with_code(code, message)
    }

    /// A failure that ends with `code`.
    pub fn with_code(code: u8, message: impl ToString) -> Self {
        let message = one_line(&message.to_string());
        Self { code, message }
    }

    /// The configuration, or what it names.
    pub fn config(message: impl ToString) -> Self {
        Self::new(Blame::Config, message)
    }

    /// The host.
    pub fn host(message: impl ToString) -> Self {
        Self::new(Blame::Host, message)
    }

    /// Ourselves.
    pub fn vmm(message: impl ToString) -> Self {
        Self::new(Blame::Vmm, message)
    }

    /// The exit code that it makes.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Changes the message, if it is the configuration's matter.
    pub fn of_config(self, change: impl FnOnce(&str) -> String) -> Self {
        match self.code {
            code::CONFIG => Self::config(change(&self.message)),
            _ => self,
        }
    }

    /// Says it on standard error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        // Where nobody listens the exit code says it alone.
        crate::log::say(&format!("minivmm: {}", self.message));
        ExitCode::from(self.code)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An error with its causes, as far as it does not name them itself.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_is_said_with_its_cause_and_once() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let named = minivmm_vmm::kvm::Error::Open(missing());
        assert_eq!(with_causes(&named), named.to_string());
        let silent = minivmm_boot::kernel::Error::Read(missing());
        assert_eq!(with_causes(&silent), format!("{silent}: {}", missing()));
    }
}
