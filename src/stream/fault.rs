//! What goes wrong between a client and its stream, and what it means for the job (router.md 14).
//!
//! Only what no later attempt can mend gives a job up: the configuration, a refused password, a payload that is not
//! taken. A broker that is down is none of these.

use std::io;

/// Code of what no other attempt can mend.
const FINAL: i32 = 400;
/// Code of what may be better next time.
const RETRYABLE: i32 = 500;

/// Why a payload was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The destination's configuration is missing something or cannot be read.
    #[error("{0}")]
    Configuration(String),
    /// The server refuses who we say we are.
    #[error("{0}")]
    Credentials(String),
    /// The payload is not what the client can send.
    #[error("{0}")]
    Payload(String),
    /// The server answered that it will never take the payload.
    #[error("{0}")]
    Refused(String),
    /// No connection came about: name, route, port, or handshake.
    #[error("{0}")]
    Unreachable(String),
    /// A connection stood and broke, or no answer came in time.
    #[error("{0}")]
    Interrupted(String),
    /// The server answered that it cannot take the payload now.
    #[error("{0}")]
    Server(String),
    /// The server answered with a code that judges the job by itself.
    #[error("{text}")]
    Answered {
        /// The code.
        code: i32,
        /// What it said.
        text: String,
    },
}

impl Fault {
    /// What an I/O error of a connection attempt means.
    pub fn of_connecting(error: &io::Error) -> Fault {
        Fault::Unreachable(error.to_string())
    }

    /// The code that judges the job.
    pub fn code(&self) -> i32 {
        match self {
            Fault::Configuration(_) | Fault::Credentials(_) | Fault::Payload(_) | Fault::Refused(_) => FINAL,
            Fault::Unreachable(_) | Fault::Interrupted(_) | Fault::Server(_) => RETRYABLE,
            Fault::Answered { code, .. } => *code,
        }
    }

    /// Whether nobody was reached (router.md 7.7).
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Fault::Unreachable(_))
    }

    /// Whether the server said something, whatever it was.
    pub fn is_answer(&self) -> bool {
        matches!(self, Fault::Credentials(_) | Fault::Refused(_) | Fault::Server(_) | Fault::Answered { .. })
    }

    /// Whether no later attempt can mend it.
    pub fn is_final(&self) -> bool {
        let code = self.code();
        (400..500).contains(&code) && code != 429
    }

    /// The text that is stored with the job of this destination.
    pub fn text(&self, type_name: &str, destination_id: &str) -> String {
        match self {
            Fault::Configuration(_) | Fault::Credentials(_) | Fault::Unreachable(_) => {
                format!("[CDM {type_name}] Unable to create client for {destination_id} {self}")
            }
            Fault::Payload(_)
            | Fault::Refused(_)
            | Fault::Interrupted(_)
            | Fault::Server(_)
            | Fault::Answered { .. } => self.to_string(),
        }
    }
}
