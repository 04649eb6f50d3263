//! Which problems the routes answer with, for the document. The codes of a status are those that `error.rs` and the
//! handlers give it.

use std::collections::BTreeMap;

use occ_proto::Code;
use serde_json::json;
use utoipa::IntoResponses;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::{RefOr, Response, ResponseBuilder};

/// The codes that come with a status.
pub(super) type Codes = (u16, &'static [Code]);

/// The member of a response that has its codes.
pub(super) const CODES: &str = "x-codes";

/// What any request may get: for what is malformed, from a browser, against the policy, or a defect.
#[cfg(test)]
pub(super) const ANY: &[Codes] = &[
    (400, &[Code::BadRequest]),
    (403, &[Code::Forbidden, Code::PolicyDenied, Code::ReadOnly]),
    (429, &[Code::TooManyRequests]),
    (500, &[Code::Internal]),
];
/// What a request with a JSON body may get.
#[cfg(test)]
pub(super) const JSON_BODY: &[Codes] = &[
    (408, &[Code::RequestTimeout]),
    (413, &[Code::TooLarge]),
    (415, &[Code::UnsupportedMediaType]),
    (503, &[Code::ShuttingDown]),
];
/// What a POST may get, which may have an Idempotency-Key.
#[cfg(test)]
pub(super) const KEYED: &[Codes] = &[
    (408, &[Code::RequestTimeout]),
    (413, &[Code::TooLarge]),
    (422, &[Code::KeyReused]),
    (500, &[Code::StateWrite]),
    (502, &[Code::OutcomeUnknown]),
    (503, &[Code::ShuttingDown]),
    (507, &[Code::StateWrite]),
];

const HOSTS_FILE: &[Codes] = &[(409, &[Code::HostsFileInvalid])];
const HOST: &[Codes] = &[(404, &[Code::HostNotFound]), (409, &[Code::HostsFileInvalid])];
const EDIT: &[Codes] = &[
    (404, &[Code::HostNotFound]),
    (409, &[Code::HostExists, Code::HostBusy]),
    (412, &[Code::EditConflict]),
    (500, &[Code::HostsFileWrite]),
    (507, &[Code::HostsFileWrite]),
];
const STATE: &[Codes] = &[(500, &[Code::StateWrite]), (507, &[Code::StateWrite])];
const SSH_CONFIG: &[Codes] = &[(409, &[Code::SshConfigInvalid])];
const WRITE: &[Codes] =
    &[(412, &[Code::EditConflict]), (500, &[Code::HostsFileWrite]), (507, &[Code::HostsFileWrite])];
const DIAL: &[Codes] = &[
    (
        409,
        &[
            Code::HostStopped,
            Code::AuthFailed,
            Code::AgentRefused,
            Code::AuthMethodNeeded,
            Code::LoginRefused,
            Code::NoIdentity,
            Code::IdentityInvalid,
            Code::IdentityTooOpen,
            Code::KeyLocked,
            Code::InputNeeded,
            Code::HostKeyChanged,
            Code::HostKeyUnknown,
            Code::HostKeyRevoked,
            Code::HostCertificate,
            Code::KnownHostsInvalid,
            Code::SshConfigInvalid,
            Code::NotSsh,
            Code::NoCommonAlgorithm,
        ],
    ),
    (503, &[Code::HostUnreachable, Code::SessionRefused, Code::ShuttingDown]),
];
const TRUST: &[Codes] = &[(409, &[Code::EditConflict])];
const EXEC: &[Codes] = &[
    (409, &[Code::Cancelled]),
    (413, &[Code::CommandTooLong]),
    (500, &[Code::ExecRefused]),
    (502, &[Code::ExecRefused, Code::OutcomeUnknown]),
    (507, &[Code::OutputOverflow]),
];
const DOCKER: &[Codes] = &[
    (
        409,
        &[Code::DockerUnavailable, Code::DockerPermission, Code::DockerTooOld, Code::DockerError],
    ),
    (502, &[Code::DockerError]),
    (503, &[Code::DockerUnavailable]),
];
const SANDBOX: &[Codes] = &[
    (400, &[Code::MountInvalid]),
    (404, &[Code::NoSandbox]),
    (
        409,
        &[
            Code::OperationRunning,
            Code::SandboxConfigInvalid,
            Code::SandboxForeign,
            Code::MountInvalid,
            Code::PortTaken,
            Code::ImageUnavailable,
            Code::ConfirmationNeeded,
            Code::InstallImpossible,
            Code::Cancelled,
        ],
    ),
    (412, &[Code::PlanChanged]),
    (500, &[Code::StateWrite]),
    (
        502,
        &[Code::ImageUnavailable, Code::SandboxNotReady, Code::InstallFailed, Code::OutcomeUnknown],
    ),
    (503, &[Code::ForwardFailed]),
    (507, &[Code::ImageUnavailable, Code::StateWrite]),
];
const FILE: &[Codes] = &[
    (400, &[Code::NameTooLong, Code::ArchiveInvalid]),
    (403, &[Code::PermissionDenied]),
    (404, &[Code::FileNotFound]),
    (409, &[Code::IsDirectory, Code::NotDirectory, Code::NotEmpty, Code::FileError]),
    (412, &[Code::FileChanged, Code::FileExists]),
    (416, &[Code::OutOfRange]),
    (502, &[Code::NoSftp, Code::FileInterrupted, Code::FileError]),
    (507, &[Code::NoSpace]),
];
const SESSION: &[Codes] = &[
    (404, &[Code::SessionNotFound]),
    (409, &[Code::SessionExists, Code::SessionRunning, Code::SessionEnded, Code::InputRefused]),
    (410, &[Code::SessionGone]),
    (502, &[Code::SessionFailed]),
    (507, &[Code::SessionFailed]),
];
const FORWARD: &[Codes] =
    &[(409, &[Code::LocalPortTaken, Code::ForwardRefused, Code::ForwardFailed])];

fn responses(parts: &[&[Codes]]) -> BTreeMap<String, RefOr<Response>> {
    let mut all: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for (status, codes) in parts.iter().copied().flatten() {
        all.entry(*status).or_default().extend(codes.iter().map(|code| code.as_str()));
    }
    let response = |(status, codes): (u16, Vec<&str>)| {
        let codes = ExtensionsBuilder::new().add(CODES, json!(codes)).build();
        let response = ResponseBuilder::new().extensions(Some(codes)).build();
        (status.to_string(), response.into())
    };
    all.into_iter().map(response).collect()
}

/// What reads hosts.json.
pub(super) struct OfHostsFile;
/// What concerns a host, and does not dial it.
pub(super) struct OfHost;
/// What changes hosts.json.
pub(super) struct OfHostEdit;
/// What takes a host out of it, and away what leads there.
pub(super) struct OfHostRemoval;
/// What reads ssh_config's hosts.
pub(super) struct OfSshConfig;
/// What takes them into hosts.json.
pub(super) struct OfImport;
/// What dials a host.
pub(super) struct OfDial;
/// What records a host key.
pub(super) struct OfTrust;
/// What is to be remembered, beside what else it does.
pub(super) struct OfState;
/// What runs commands.
pub(super) struct OfExec;
/// What asks Docker.
pub(super) struct OfSandbox;
/// What looks for the socket of this machine.
pub(super) struct OfDockerSocket;
/// What works on files.
pub(super) struct OfFile;
/// What writes a file, or an archive that others wait for.
pub(super) struct OfUpload;
/// What works on sessions.
pub(super) struct OfSession;
/// What adds a forward.
pub(super) struct OfForward;
/// What names a forward.
pub(super) struct OfForwardId;
/// What names an operation.
pub(super) struct OfOperation;
/// What names a prompt.
pub(super) struct OfPrompt;
/// What makes or names a grant.
pub(super) struct OfGrant;
/// What traces a host.
pub(super) struct OfTrace;

impl IntoResponses for OfHostsFile {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOSTS_FILE])
    }
}

impl IntoResponses for OfHost {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST])
    }
}

impl IntoResponses for OfHostEdit {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOSTS_FILE, EDIT, DIAL])
    }
}

impl IntoResponses for OfHostRemoval {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOSTS_FILE, EDIT, STATE])
    }
}

impl IntoResponses for OfSshConfig {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOSTS_FILE, SSH_CONFIG])
    }
}

impl IntoResponses for OfImport {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOSTS_FILE, SSH_CONFIG, WRITE])
    }
}

impl IntoResponses for OfDial {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, DIAL])
    }
}

impl IntoResponses for OfState {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[STATE])
    }
}

impl IntoResponses for OfTrust {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, DIAL, TRUST])
    }
}

impl IntoResponses for OfExec {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, DIAL, EXEC])
    }
}

impl IntoResponses for OfSandbox {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, DIAL, DOCKER, SANDBOX])
    }
}

impl IntoResponses for OfDockerSocket {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, STATE, &[(404, &[Code::NotFound])]])
    }
}

impl IntoResponses for OfFile {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, DIAL, FILE])
    }
}

impl IntoResponses for OfUpload {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, DIAL, FILE, &[(408, &[Code::RequestTimeout])]])
    }
}

impl IntoResponses for OfSession {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, DIAL, EXEC, SESSION, STATE])
    }
}

impl IntoResponses for OfForward {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[HOST, DIAL, FORWARD, STATE])
    }
}

impl IntoResponses for OfForwardId {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[&[(404, &[Code::ForwardNotFound])], STATE])
    }
}

impl IntoResponses for OfOperation {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[&[(404, &[Code::OperationNotFound])]])
    }
}

impl IntoResponses for OfPrompt {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[&[(404, &[Code::PromptNotFound])]])
    }
}

impl IntoResponses for OfTrace {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let file: &[Codes] = &[
            (403, &[Code::PermissionDenied]),
            (404, &[Code::FileNotFound]),
            (409, &[Code::TraceRunning, Code::FileError]),
            (412, &[Code::FileExists]),
            (507, &[Code::NoSpace]),
        ];
        responses(&[HOST, file])
    }
}

impl IntoResponses for OfGrant {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[
            HOST,
            DIAL,
            FILE,
            STATE,
            &[(404, &[Code::GrantNotFound]), (409, &[Code::GrantExists])],
        ])
    }
}
