//! Signal names on the wire (RFC 4254, section 6.10) and in russh.

use occ_proto::text::sanitize;
use russh::Sig;

/// Returns a signal's name without `SIG`. A name of the server's own making is cut and sanitized.
pub fn name(signal: &Sig) -> String {
    match signal {
        Sig::ABRT => "ABRT".into(),
        Sig::ALRM => "ALRM".into(),
        Sig::FPE => "FPE".into(),
        Sig::HUP => "HUP".into(),
        Sig::ILL => "ILL".into(),
        Sig::INT => "INT".into(),
        Sig::KILL => "KILL".into(),
        Sig::PIPE => "PIPE".into(),
        Sig::QUIT => "QUIT".into(),
        Sig::SEGV => "SEGV".into(),
        Sig::TERM => "TERM".into(),
        Sig::USR1 => "USR1".into(),
        Sig::Custom(other) => sanitize(&other.chars().take(32).collect::<String>()),
    }
}

/// Returns the signal of a name without `SIG`, if it is one that a client may send.
pub fn parse(name: &str) -> Option<Sig> {
    Some(match name {
        "ABRT" => Sig::ABRT,
        "ALRM" => Sig::ALRM,
        "FPE" => Sig::FPE,
        "HUP" => Sig::HUP,
        "ILL" => Sig::ILL,
        "INT" => Sig::INT,
        "KILL" => Sig::KILL,
        "PIPE" => Sig::PIPE,
        "QUIT" => Sig::QUIT,
        "SEGV" => Sig::SEGV,
        "TERM" => Sig::TERM,
        "USR1" => Sig::USR1,
        // Not in the RFC's list, but OpenSSH takes it.
        "USR2" => Sig::Custom("USR2".into()),
        _ => return None,
    })
}
