//! What a guest says of itself (sd_notify(3)), of which only a part may reach the host's service manager: with
//! `MAINPID=`, `FDSTORE=`, `WATCHDOG=`, `EXTEND_TIMEOUT_USEC=`, `NOTIFYACCESS=` and the like a guest would rule the unit
//! that runs it.

/// Lines of a message that are looked at.
const LINES: usize = 64;
/// Characters of a status.
const STATUS: usize = 256;
/// Bytes of a field of systemd's own.
const FIELD: usize = 256;

/// What a message says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// All that it starts is started.
    pub ready: bool,
    /// It shuts down.
    pub stopping: bool,
    /// What it is doing, fit to be shown.
    pub status: Option<String>,
    /// Fields that are passed on as they are: `X_SYSTEMD_…=` and `EXIT_STATUS=`.
    pub fields: Vec<String>,
}

impl Words {
    /// What `text` says, as far as it is the guest's to say.
    pub fn of(text: &str) -> Self {
        let mut words = Self::default();
        for line in text.lines().take(LINES) {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            match key {
                "READY" => words.ready |= value == "1",
                "STOPPING" => words.stopping |= value == "1",
                "STATUS" => words.status = Some(shown(value)),
                "EXIT_STATUS" if is_exit_status(value) => words.fields.push(line.to_owned()),
                _ if is_systemds(key) && is_plain(line) => words.fields.push(line.to_owned()),
                _ => {}
            }
        }
        words
    }
}

/// A status without what would move a terminal's cursor or turn its text around.
fn shown(value: &str) -> String {
    let harmless = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let text: String = value.chars().filter(harmless).take(STATUS).collect();
    text.trim().to_owned()
}

fn is_exit_status(value: &str) -> bool {
    value.len() <= 3 && value.parse::<u8>().is_ok_and(|n| n.to_string() == value)
}

fn is_systemds(key: &str) -> bool {
    key.starts_with("X_SYSTEMD_")
        && key
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn is_plain(line: &str) -> bool {
    line.len() <= FIELD && line.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_booted_systemd_says_is_understood() {
        let words = Words::of(
            "READY=1\nSTATUS=Started Multi-User System.\nX_SYSTEMD_UNIT_ACTIVE=multi-user.target\n\
             EXIT_STATUS=0\nSTOPPING=1",
        );
        assert!(words.ready && words.stopping);
        assert_eq!(words.status.as_deref(), Some("Started Multi-User System."));
        assert_eq!(
            words.fields,
            ["X_SYSTEMD_UNIT_ACTIVE=multi-user.target", "EXIT_STATUS=0"]
        );
    }

    #[test]
    fn what_would_rule_the_hosts_unit_is_dropped() {
        let words = Words::of(
            "MAINPID=1\nMAINPIDFDID=1\nFDSTORE=1\nFDNAME=x\nFDSTOREREMOVE=1\nFDPOLL=0\nWATCHDOG=1\nWATCHDOG=trigger\n\
             WATCHDOG_USEC=1\nEXTEND_TIMEOUT_USEC=1\nBARRIER=1\nNOTIFYACCESS=all\nRELOADING=1\nMONOTONIC_USEC=1\n\
             ERRNO=2\nBUSERROR=x\nREADY=0\nREADY=yes\nready=1\nSTOPPING=\nEXIT_STATUS=256\nEXIT_STATUS=-1\n\
             EXIT_STATUS=+1\nX_SYSTEMD_A b=1\nX_SYSTEMD_lower=1\nX_OTHER=1\nno field\n=\n",
        );
        assert_eq!(words, Words::default());
    }

    #[test]
    fn a_status_is_cut_and_cleaned() {
        let words = Words::of("STATUS= a\x1b[31mb\u{202e}c\td\u{feff} ");
        assert_eq!(words.status.as_deref(), Some("a[31mbcd"));
        let long = Words::of(&format!("STATUS={}", "ä".repeat(10_000)));
        assert_eq!(long.status.map(|s| s.chars().count()), Some(STATUS));
    }

    proptest! {
        #[test]
        fn nothing_but_the_allowed_comes_out_of_anything(text in "(?s)([A-Z_]{0,20}=)?.{0,300}(\nX_SYSTEMD_[A-Z]{0,9}=.{0,300}|\n(STATUS|MAINPID|EXIT_STATUS)=.{0,300}){0,5}") {
            let words = Words::of(&text);
            if let Some(status) = &words.status {
                prop_assert!(status.chars().count() <= STATUS);
                prop_assert!(!status.contains(|c: char| c.is_control()));
            }
            for field in &words.fields {
                prop_assert!(field.len() <= FIELD && !field.contains('\n'));
                prop_assert!(field.starts_with("X_SYSTEMD_") || field.starts_with("EXIT_STATUS="));
            }
        }
    }
}
