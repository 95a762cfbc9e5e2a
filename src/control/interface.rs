//! The interface `org.minivmm.Machine`: from a call to what it is about, and from an outcome to a reply.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use varlink::{Reply, Request};

use crate::requests::{Outcome, Refusal, Wish};

/// The interface's name.
pub const NAME: &str = "org.minivmm.Machine";
/// Its description in varlink's language.
pub const DESCRIPTION: &str = include_str!("org.minivmm.Machine.varlink");

/// The interface that every varlink service has (varlink.org/Service).
const SERVICE: &str = "org.varlink.service";
const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// What a call is about.
#[derive(Debug, PartialEq)]
pub enum Call {
    /// It is answered at once.
    Reply(Reply),
    /// What is on the board.
    GetStatus,
    /// The supervisor's loop is to do it.
    Wish(Wish),
    /// The connection becomes the console.
    AttachConsole(AttachParameters),
    /// Lines of the console.
    ReadConsole(ReadParameters),
}

/// Parameters of `AttachConsole`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachParameters {
    /// Nothing is typed.
    #[serde(default)]
    pub read_only: bool,
    /// Whoever types has to look on from now on.
    #[serde(default)]
    pub force: bool,
    /// Lines that are shown of what was printed before: all that are there, if there is no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<usize>,
}

/// Parameters of `ReadConsole`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadParameters {
    /// The last lines, so many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// And those that follow, until the VM ends.
    #[serde(default)]
    pub follow: bool,
}

/// Parameters of `Stop`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StopParameters {
    /// Replaces the configuration's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_msec: Option<u64>,
}

/// Parameters of `Reboot`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RebootParameters {
    /// Without the guest's doing; `false` if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

/// Parameters of `Balloon`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct BalloonParameters {
    /// MiB that are wanted in the balloon from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Asks the guest how much memory it uses; `false` if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<bool>,
}

/// What `request` asks for.
pub fn call(request: &Request<'_>) -> Call {
    let Some((interface, method)) = request.method.rsplit_once('.') else {
        return Call::Reply(not_found("InterfaceNotFound", "interface", &request.method));
    };
    let parameters = request.parameters.as_ref();
    match (interface, method) {
        (NAME, "GetStatus") => Call::GetStatus,
        (NAME, "Stop") => match parse::<StopParameters>(parameters) {
            Ok(parameters) => Call::Wish(Wish::Stop {
                timeout: parameters.timeout_msec.map(Duration::from_millis),
            }),
            Err(reply) => Call::Reply(*reply),
        },
        (NAME, "AttachConsole") => match parse(parameters) {
            Ok(parameters) => Call::AttachConsole(parameters),
            Err(reply) => Call::Reply(*reply),
        },
        (NAME, "ReadConsole") => match parse(parameters) {
            Ok(parameters) => Call::ReadConsole(parameters),
            Err(reply) => Call::Reply(*reply),
        },
        (NAME, "Kill") => Call::Wish(Wish::Kill),
        (NAME, "PressPowerButton") => Call::Wish(Wish::PowerButton),
        (NAME, "Pause") => Call::Wish(Wish::Pause),
        (NAME, "Resume") => Call::Wish(Wish::Resume),
        (NAME, "Reboot") => match parse::<RebootParameters>(parameters) {
            Ok(RebootParameters { force }) => Call::Wish(Wish::Reboot {
                force: force.unwrap_or(false),
            }),
            Err(reply) => Call::Reply(*reply),
        },
        (NAME, "Balloon") => match parse::<BalloonParameters>(parameters) {
            Ok(BalloonParameters { size, statistics }) => Call::Wish(Wish::Balloon {
                size,
                statistics: statistics.unwrap_or(false),
            }),
            Err(reply) => Call::Reply(*reply),
        },
        (NAME, "Metrics") => Call::Wish(Wish::Metrics),
        (NAME, "AwaitEnd") => Call::Wish(Wish::AwaitEnd),
        (SERVICE, "GetInfo") => Call::Reply(info()),
        (SERVICE, "GetInterfaceDescription") => Call::Reply(describe(parameters)),
        (NAME | SERVICE, _) => Call::Reply(not_found("MethodNotFound", "method", &request.method)),
        _ => Call::Reply(not_found("InterfaceNotFound", "interface", interface)),
    }
}

/// The reply that says what came of a request.
pub fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Ok(parameters) => Reply::parameters(Some(parameters)),
        Err(refusal) => refused(&refusal),
    }
}

/// The reply that says why not.
pub fn refused(refusal: &Refusal) -> Reply {
    let error = format!("{NAME}.{}", refusal.error);
    Reply::error(error, Some(json!({ "message": refusal.message })))
}

/// The parameters of a call; none are as good as empty ones.
fn parse<P: DeserializeOwned>(parameters: Option<&Value>) -> Result<P, Box<Reply>> {
    let parameters = match parameters {
        None | Some(Value::Null) => json!({}),
        Some(parameters) if parameters.is_object() => parameters.clone(),
        // serde would take an array for the fields in their order.
        Some(_) => {
            let name = "parameters";
            return Err(Box::new(not_found("InvalidParameter", "parameter", name)));
        }
    };
    serde_json::from_value(parameters).map_err(|error| {
        // serde says which key it is in its text; varlink wants a name.
        let text = error.to_string();
        let name = text.split('`').nth(1).unwrap_or("parameters").to_owned();
        Box::new(not_found("InvalidParameter", "parameter", &name))
    })
}

fn info() -> Reply {
    Reply::parameters(Some(json!({
        "vendor": "The minivmm developers",
        "product": "minivmm",
        "version": env!("CARGO_PKG_VERSION"),
        "url": "",
        "interfaces": [SERVICE, NAME],
    })))
}

fn describe(parameters: Option<&Value>) -> Reply {
    #[derive(Deserialize)]
    struct Parameters {
        interface: String,
    }
    let interface = match parse::<Parameters>(parameters) {
        Ok(parameters) => parameters.interface,
        Err(reply) => return *reply,
    };
    let description = match interface.as_str() {
        NAME => DESCRIPTION,
        SERVICE => SERVICE_DESCRIPTION,
        _ => return not_found("InterfaceNotFound", "interface", &interface),
    };
    Reply::parameters(Some(json!({ "description": description })))
}

/// An error of `org.varlink.service`, with the one parameter that each of them has.
fn not_found(error: &str, parameter: &str, value: &str) -> Reply {
    Reply::error(
        format!("{SERVICE}.{error}"),
        Some(json!({ parameter: value })),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn called(method: &str, parameters: Value) -> Call {
        call(&Request::create(method.to_owned(), Some(parameters)))
    }

    fn error(method: &str, parameters: Value) -> String {
        match called(method, parameters) {
            Call::Reply(reply) => reply.error.unwrap().into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_descriptions_are_varlinks() {
        for (name, description) in [(NAME, DESCRIPTION), (SERVICE, SERVICE_DESCRIPTION)] {
            let idl = varlink_parser::IDL::try_from(description).unwrap();
            assert_eq!(idl.name, name);
        }
    }

    #[test]
    fn every_method_of_the_description_is_there() {
        let idl = varlink_parser::IDL::try_from(DESCRIPTION).unwrap();
        for method in idl.methods.keys() {
            let found = called(&format!("{NAME}.{method}"), json!({}));
            assert!(
                !matches!(&found, Call::Reply(reply) if reply.error.as_deref() == Some("org.varlink.service.MethodNotFound")),
                "{method}"
            );
        }
    }

    #[test]
    fn a_status_has_the_fields_of_its_description() {
        let config =
            minivmm_vmm::VmConfig::from_toml("name = \"a\"\n[kernel]\npath = \"k\"\n").unwrap();
        let status = crate::board::Board::new(&config, "a.toml".as_ref(), "").status();
        let fields = serde_json::to_value(status).unwrap();
        let idl = varlink_parser::IDL::try_from(DESCRIPTION).unwrap();
        let varlink_parser::VStructOrEnum::VStruct(described) = &idl.typedefs["Status"].elt else {
            panic!("a status has fields");
        };
        let mut described: Vec<_> = described.elts.iter().map(|field| field.name).collect();
        let mut found: Vec<_> = fields
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        found.sort_unstable();
        described.sort_unstable();
        assert_eq!(found, described);
    }

    #[test]
    fn a_call_is_known_or_answered_with_the_error_that_varlink_has_for_it() {
        assert_eq!(
            called("org.minivmm.Machine.Kill", json!({})),
            Call::Wish(Wish::Kill)
        );
        let stop = called("org.minivmm.Machine.Stop", json!({ "timeout_msec": 1500 }));
        let timeout = Some(Duration::from_millis(1500));
        assert_eq!(stop, Call::Wish(Wish::Stop { timeout }));
        assert_eq!(
            call(&Request::create("org.minivmm.Machine.Stop", None)),
            Call::Wish(Wish::Stop { timeout: None })
        );
        for (parameters, force) in [
            (json!({}), false),
            (json!({ "force": false }), false),
            (json!({ "force": true }), true),
        ] {
            let reboot = called("org.minivmm.Machine.Reboot", parameters);
            assert_eq!(reboot, Call::Wish(Wish::Reboot { force }));
        }
        for (method, parameters, expected) in [
            (
                "org.minivmm.Machine.Reboot",
                json!({ "force": 1 }),
                "InvalidParameter",
            ),
            (
                "org.minivmm.Machine.Balloon",
                json!({ "size": -1 }),
                "InvalidParameter",
            ),
            ("Stop", json!({}), "InterfaceNotFound"),
            ("org.example.Stop", json!({}), "InterfaceNotFound"),
            ("org.minivmm.Machine.Fly", json!({}), "MethodNotFound"),
            (
                "org.minivmm.Machine.Stop",
                json!({ "timeout_msec": -1 }),
                "InvalidParameter",
            ),
            ("org.minivmm.Machine.Stop", json!([]), "InvalidParameter"),
            (
                "org.varlink.service.GetInterfaceDescription",
                json!({}),
                "InvalidParameter",
            ),
            (
                "org.varlink.service.GetInterfaceDescription",
                json!({ "interface": "x" }),
                "InterfaceNotFound",
            ),
        ] {
            assert_eq!(
                error(method, parameters),
                format!("org.varlink.service.{expected}"),
                "{method}"
            );
        }
    }
}
