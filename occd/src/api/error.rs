//! The one map from errors to problem documents.

use std::error::Error;
use std::io;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use occ_proto::error::PROBLEM_JSON;
use occ_proto::session::SessionHost;
use occ_proto::status::Phase;
use occ_proto::{Code, HostName, Problem};

use super::json::Json;
use super::shown::Shown as _;
use super::strict::Unfit;
use crate::container::{BadSettings, DockerError, InstallError, SandboxError};
use crate::exec::{BadCommand, ExecError, Executor};
use crate::forward::{AddError, BindError};
use crate::host::Unreachable;
use crate::host::machine::Retry;
use crate::hosts::{HostsFileError, UpdateError};
use crate::policy::Denied;
use crate::session::SessionError;
use crate::ssh::error::chain;
use crate::ssh::{ChannelError, ConnectError};
use crate::state_file::is_no_space;

/// When a server that has no session to spare is worth another try, in milliseconds: commands that last a moment make
/// room by themselves.
const SESSION_FREE_MS: u64 = 1000;

/// A problem on its way to a client.
#[derive(Debug)]
pub(super) struct ApiError(pub Box<Problem>);

/// The host that an answer is a problem of.
#[derive(Debug, Clone)]
pub(super) struct About(pub Option<HostName>);

/// The result of a handler.
pub(super) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// Returns a problem with a status, a code and a sentence.
    pub(super) fn new(status: StatusCode, code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(status.as_u16(), code, detail)))
    }

    /// Returns the problem of a malformed request.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::BadRequest, detail)
    }

    /// Returns the problem of a host that is not configured.
    pub(super) fn host_not_found(name: &HostName) -> Self {
        let detail = format!("Host '{name}' not found.");
        Self::new(StatusCode::NOT_FOUND, Code::HostNotFound, detail).host(name)
    }

    /// Returns the problem of a host that would have to be dialled first.
    pub(super) fn not_connected(place: &SessionHost) -> Self {
        let detail = format!("{place} is not connected.");
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::HostUnreachable, detail);
        let problem = problem.retryable(None);
        match place.host() {
            Some(name) => problem.host(name),
            None => problem,
        }
    }

    /// Returns the problem of a defect.
    pub(super) fn new_internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, detail)
    }

    /// Names the host concerned.
    pub(super) fn host(mut self, name: &HostName) -> Self {
        self.0.host = Some(name.clone());
        self
    }

    /// A request whose JSON is not what it is to be; `what` begins the sentence.
    pub(super) fn unfit(what: &str, Unfit { text, position }: Unfit) -> Self {
        let mut error = Self::bad_request(format!("{what} is not valid: {text}."));
        error.0.position = Some(position);
        error
    }

    /// Says that the hosts in force, the last good ones, have no such host.
    pub(super) fn not_among_the_last_good(mut self, name: &HostName) -> Self {
        let detail = &mut self.0.detail;
        detail.push_str(&format!(
            " The hosts that were read before stay; '{name}' is not one of them."
        ));
        self
    }

    /// Says that the same may go well later.
    pub(super) fn may_come_back(self) -> Self {
        self.retryable(None)
    }

    /// Says that the same may go well after that time.
    pub(super) fn after(self, time: std::time::Duration) -> Self {
        self.retryable(Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    fn retryable(mut self, after_ms: Option<u64>) -> Self {
        self.0.retryable = true;
        self.0.retry_after_ms = after_ms;
        self
    }

    fn causes(mut self, error: &dyn Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if self.0.causes.last() != Some(&text) {
                self.0.causes.push(text);
            }
            source = cause.source();
        }
        self
    }

    /// Returns the problem document.
    pub(super) fn into_problem(self) -> Box<Problem> {
        self.0
    }
}

/// The problem of a dial that failed, beside the answer that tells of it.
#[derive(Debug, Clone)]
pub(super) struct OfDial(Box<Problem>);

/// Returns an answer as somebody may see it.
pub(super) fn shown_to(asker_hides: bool, response: Response) -> Response {
    match response.extensions().get::<OfDial>() {
        Some(OfDial(problem)) if asker_hides => {
            let mut problem = problem.clone();
            problem.hide();
            ApiError(problem).into_response()
        }
        _ => response,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.0.retry_after_ms.map(|ms| ms.div_ceil(1000));
        let (code, host) = (self.0.code, self.0.host.clone());
        // Not everybody may know all of it.
        let of_dial = self.0.phase.is_some().then(|| self.0.clone());
        let mut response = (status, Json(self.0)).into_response();
        // For the audit log.
        response.extensions_mut().insert(code);
        // For the warnings.
        response.extensions_mut().insert(About(host));
        if let Some(problem) = of_dial {
            response.extensions_mut().insert(OfDial(problem));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Returns the problem of what a policy refuses.
pub(super) fn denied(place: &SessionHost, why: &Denied) -> ApiError {
    let detail = match why {
        Denied::Policy(_) | Denied::Stopping(_) => format!("{place}: {why}."),
        _ => format!("{place}: refused: {why}."),
    };
    let (status, code) = match why {
        // Nobody has refused it.
        Denied::Stopping(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::ShuttingDown),
        _ => (StatusCode::FORBIDDEN, Code::PolicyDenied),
    };
    let problem = ApiError::new(status, code, occ_proto::text::sanitize(&detail));
    match place.host() {
        Some(host) => problem.host(host),
        None => problem,
    }
}

/// Returns the problem of a dial that failed, for the host of that name.
pub(super) fn connect_error(name: &HostName, error: &ConnectError) -> ApiError {
    let code = error.code();
    let (blamed, hop) = error.blame();
    let status = match blamed {
        ConnectError::Stopped => StatusCode::CONFLICT,
        ConnectError::Removed => StatusCode::NOT_FOUND,
        ConnectError::NotAllowed { .. } => StatusCode::FORBIDDEN,
        _ if blamed.retry() == Retry::Fatal && code != Code::ShuttingDown => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let detail = match error {
        ConnectError::Stopped => format!("{name} is disconnected on request."),
        ConnectError::Removed => format!("Host '{name}' was removed."),
        _ => format!("{name}: {}.", chain(error).trim_end_matches('.')),
    };
    let mut problem = ApiError::new(status, code, detail).host(name).causes(error);
    // What is not to be connected has come nowhere.
    let is_over =
        matches!(error, ConnectError::Stopped | ConnectError::Removed | ConnectError::ShuttingDown);
    problem.0.phase = (!is_over).then(|| error.phase());
    problem.0.hop = hop.cloned();
    problem.0.retryable = status == StatusCode::SERVICE_UNAVAILABLE;
    problem
}

/// Returns the problem of a host that could not be reached in time.
pub(super) fn unreachable(name: &HostName, unreachable: &Unreachable) -> ApiError {
    let mut problem = connect_error(name, &unreachable.error);
    if unreachable.attempts > 1 {
        problem.0.causes.push(format!(
            "{} attempts in {:.1} s",
            unreachable.attempts,
            unreachable.waited.as_secs_f32()
        ));
    }
    match unreachable.next_retry_at {
        Some(at) if problem.0.retryable => {
            let wait = at.duration_since(Timestamp::now()).as_millis();
            problem.retryable(Some(u64::try_from(wait).unwrap_or(0)))
        }
        _ => problem,
    }
}

/// Returns the problem of a command that did not run or whose end is not known.
pub(super) fn exec_at(executor: &Executor, error: &ExecError) -> ApiError {
    match executor.host() {
        Some(name) => exec(name, error),
        None => ApiError::new(
            exec_status(error).0,
            exec_status(error).1,
            format!("This machine: {}.", chain(error)),
        )
        .causes(error),
    }
}

/// Returns the problem of a command on a host.
pub(super) fn exec(name: &HostName, error: &ExecError) -> ApiError {
    if let ExecError::Unreachable(inner) = error {
        let mut problem = unreachable(name, inner);
        problem.0.detail.push_str(" The command was not started.");
        return problem;
    }
    let (status, code) = exec_status(error);
    let mut problem =
        ApiError::new(status, code, format!("{name}: {}.", chain(error))).host(name).causes(error);
    if matches!(error, ExecError::NoSession(_) | ExecError::NoShell(_)) {
        problem.0.phase = Some(Phase::ChannelOpen);
    }
    soon(problem)
}

/// Says of a problem that may be over soon that it is worth another try.
pub(super) fn soon(problem: ApiError) -> ApiError {
    let busy = (problem.0.code == Code::SessionRefused).then_some(SESSION_FREE_MS);
    match problem.0.status == StatusCode::SERVICE_UNAVAILABLE {
        true => problem.retryable(busy),
        false => problem,
    }
}

fn exec_status(error: &ExecError) -> (StatusCode, Code) {
    match error {
        ExecError::NoSession(ChannelError::Refused(_) | ChannelError::Full(_)) => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::SessionRefused)
        }
        ExecError::Unreachable(_) | ExecError::NoSession(_) | ExecError::NoShell(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::HostUnreachable)
        }
        ExecError::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::CommandTooLong),
        ExecError::Refused | ExecError::NotStarted | ExecError::NoTerminal => {
            (StatusCode::BAD_GATEWAY, Code::ExecRefused)
        }
        ExecError::Spawn(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::ExecRefused),
        ExecError::LinkLost { .. }
        | ExecError::OutputCut { .. }
        | ExecError::NoExit
        | ExecError::NoAnswer { .. } => (StatusCode::BAD_GATEWAY, Code::OutcomeUnknown),
        ExecError::Overflow | ExecError::Spill(_) => {
            (StatusCode::INSUFFICIENT_STORAGE, Code::OutputOverflow)
        }
    }
}

/// Returns the problem of a command that its client gave up before the host had said that it started.
pub(super) fn given_up(executor: &Executor, may_have_started: bool) -> ApiError {
    let name = executor.name();
    let about = |problem: ApiError| match executor.host() {
        Some(host) => problem.host(host),
        None => problem,
    };
    if may_have_started {
        let detail = format!(
            "{name}: the server has not said whether it started the command; it is ended if it did."
        );
        return about(ApiError::new(StatusCode::BAD_GATEWAY, Code::OutcomeUnknown, detail));
    }
    let detail = format!("{name}: given up. The command was not started.");
    about(ApiError::new(StatusCode::CONFLICT, Code::Cancelled, detail))
}

/// Returns the problem of Docker on a host.
pub(super) fn docker(name: &HostName, error: &DockerError) -> ApiError {
    let (status, code) = docker_status(error);
    let detail = docker_text(error);
    let problem = ApiError::new(status, code, format!("{name}: {detail}.")).host(name);
    soon(problem)
}

/// Returns the code of what is wrong with Docker.
pub(super) fn docker_code(error: &DockerError) -> Code {
    docker_status(error).1
}

fn docker_status(error: &DockerError) -> (StatusCode, Code) {
    match error {
        DockerError::Missing | DockerError::Forbidden(_) => {
            (StatusCode::CONFLICT, Code::DockerUnavailable)
        }
        DockerError::Untold => (StatusCode::CONFLICT, Code::DockerError),
        DockerError::Permission(_) => (StatusCode::CONFLICT, Code::DockerPermission),
        DockerError::Down { .. } | DockerError::NotThere(_) | DockerError::Hung => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::DockerUnavailable)
        }
        DockerError::Lost | DockerError::Moved => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::HostUnreachable)
        }
        DockerError::Crowded => (StatusCode::SERVICE_UNAVAILABLE, Code::SessionRefused),
        DockerError::TooOld(_) => (StatusCode::CONFLICT, Code::DockerTooOld),
        DockerError::Refused { .. } | DockerError::Api(_) => {
            (StatusCode::BAD_GATEWAY, Code::DockerError)
        }
    }
}

/// Returns what is wrong with Docker, safe for a terminal.
pub(super) fn docker_text(error: &DockerError) -> String {
    occ_proto::text::sanitize(&chain(error))
}

/// Returns the problem of something with a sandbox; `host` is absent for this machine's.
pub(super) fn sandbox(host: Option<&HostName>, error: &SandboxError) -> ApiError {
    let (status, code) = match error {
        SandboxError::Unreachable(inner) => match host {
            Some(name) => return unreachable(name, inner),
            None => (StatusCode::SERVICE_UNAVAILABLE, Code::HostUnreachable),
        },
        SandboxError::Docker(inner) => docker_status(inner),
        SandboxError::Config(_) => (StatusCode::CONFLICT, Code::SandboxConfigInvalid),
        SandboxError::Settings(BadSettings::Mount(_)) => {
            (StatusCode::BAD_REQUEST, Code::MountInvalid)
        }
        SandboxError::Settings(BadSettings::Address(_)) => {
            (StatusCode::CONFLICT, Code::SandboxConfigInvalid)
        }
        SandboxError::Settings(_) => (StatusCode::BAD_REQUEST, Code::BadRequest),
        SandboxError::NoPath { .. } | SandboxError::BadMount { .. } => {
            (StatusCode::CONFLICT, Code::MountInvalid)
        }
        SandboxError::PortTaken { .. } => (StatusCode::CONFLICT, Code::PortTaken),
        SandboxError::NoImage { .. } => (StatusCode::BAD_GATEWAY, Code::ImageUnavailable),
        SandboxError::DiskFull { .. } => (StatusCode::INSUFFICIENT_STORAGE, Code::ImageUnavailable),
        SandboxError::NoPrevious { .. } | SandboxError::NoEarlier { .. } => {
            (StatusCode::CONFLICT, Code::ImageUnavailable)
        }
        // What is to be done is to be done there.
        SandboxError::NoModel(model) => return sandbox(model.as_ref(), &SandboxError::NoSandbox),
        SandboxError::NoSandbox => (StatusCode::NOT_FOUND, Code::NoSandbox),
        SandboxError::NotOurs { .. } => (StatusCode::CONFLICT, Code::SandboxForeign),
        SandboxError::Otherwise { .. } => (StatusCode::CONFLICT, Code::ConfirmationNeeded),
        SandboxError::NoCockpit { .. } => (StatusCode::CONFLICT, Code::SandboxNotReady),
        SandboxError::Ended { .. }
        | SandboxError::Silent { .. }
        | SandboxError::Unhealthy { .. }
        | SandboxError::RolledBack { .. }
        | SandboxError::Stuck { .. } => (StatusCode::BAD_GATEWAY, Code::SandboxNotReady),
        SandboxError::Cancelled { .. } => (StatusCode::CONFLICT, Code::Cancelled),
        SandboxError::Defect => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
        SandboxError::Forward(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::ForwardFailed),
        SandboxError::Unsaved(inner) => unsaved(inner),
        SandboxError::Install(inner) => install_status(inner),
    };
    let text = occ_proto::text::sanitize(&chain(error));
    let place = host.map_or_else(String::new, |name| format!("{name}: "));
    let problem = ApiError::new(status, code, format!("{place}{}.", text.trim_end_matches('.')));
    let mut problem = match host {
        Some(name) => problem.host(name),
        None => problem,
    };
    if let SandboxError::Install(InstallError::Failed { log, .. })
    | SandboxError::RolledBack { log, .. } = error
    {
        problem.0.causes = log.iter().map(|line| occ_proto::text::sanitize(line)).collect();
    }
    soon(problem)
}

fn install_status(error: &InstallError) -> (StatusCode, Code) {
    match error {
        InstallError::Unsupported { .. } | InstallError::NoRoot { .. } | InstallError::Look(_) => {
            (StatusCode::CONFLICT, Code::InstallImpossible)
        }
        InstallError::PlanChanged => (StatusCode::PRECONDITION_FAILED, Code::PlanChanged),
        InstallError::NoPassword { .. } => (StatusCode::CONFLICT, Code::InputNeeded),
        InstallError::NotStarted { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::SessionRefused),
        InstallError::Failed { .. } => (StatusCode::BAD_GATEWAY, Code::InstallFailed),
        InstallError::Unknown { .. } => (StatusCode::BAD_GATEWAY, Code::OutcomeUnknown),
        InstallError::Silent(inner) => docker_status(inner),
    }
}

/// Returns the problem of a daemon that stops while somebody is attached to a session.
pub(super) fn stopping() -> ApiError {
    let detail = "occd stops; the session's program goes on.";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Code::ShuttingDown, detail)
}

/// Returns the problem of something with a session, where one is concerned on its host.
pub(super) fn session(place: Option<&SessionHost>, error: &SessionError) -> ApiError {
    let host = place.and_then(SessionHost::host);
    let (status, code) = match error {
        SessionError::Exec(inner) => {
            match (host, inner) {
                (Some(name), ExecError::Unreachable(inner)) => return unreachable(name, inner),
                (Some(name), inner) => return exec(name, inner),
                (None, _) => {}
            }
            exec_status(inner)
        }
        SessionError::LinkLost => (StatusCode::BAD_GATEWAY, Code::OutcomeUnknown),
        SessionError::NotFound { .. } => (StatusCode::NOT_FOUND, Code::SessionNotFound),
        SessionError::NoHost(_) => (StatusCode::NOT_FOUND, Code::HostNotFound),
        SessionError::Gone => (StatusCode::GONE, Code::SessionGone),
        SessionError::Taken(_) => (StatusCode::CONFLICT, Code::SessionExists),
        SessionError::BadName(_) | SessionError::BadCommand(_) | SessionError::NoSignal(_) => {
            (StatusCode::BAD_REQUEST, Code::BadRequest)
        }
        SessionError::NoValues(_) => (StatusCode::BAD_REQUEST, Code::BadRequest),
        SessionError::Running(_) | SessionError::Busy(_) => {
            (StatusCode::CONFLICT, Code::SessionRunning)
        }
        SessionError::Ended | SessionError::Lost => (StatusCode::CONFLICT, Code::SessionEnded),
        SessionError::Hole { .. } | SessionError::Closed { .. } => {
            (StatusCode::CONFLICT, Code::InputRefused)
        }
        SessionError::Immortal
        | SessionError::NotStarted(_)
        | SessionError::Unlisted(_)
        | SessionError::Garbled(_) => (StatusCode::BAD_GATEWAY, Code::SessionFailed),
        SessionError::Unwritten | SessionError::NoRoom(_) => {
            (StatusCode::INSUFFICIENT_STORAGE, Code::SessionFailed)
        }
        SessionError::Store(error) => unsaved(error),
    };
    let text = chain(error);
    let place = host.map_or_else(String::new, |name| format!("{name}: "));
    let problem = ApiError::new(status, code, format!("{place}{}.", text.trim_end_matches('.')));
    let problem = match error {
        SessionError::Busy(_) => problem.may_come_back(),
        _ => problem,
    };
    match host {
        Some(name) => problem.host(name),
        None => problem,
    }
}

/// Returns the status and the code of what occd could not write to its state directory.
pub(super) fn unsaved(error: &io::Error) -> (StatusCode, Code) {
    let status = match is_no_space(error) {
        true => StatusCode::INSUFFICIENT_STORAGE,
        false => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Code::StateWrite)
}

/// Returns the problem of a forward that was not added.
pub(super) fn forward(name: &HostName, error: &AddError) -> ApiError {
    let (status, code) = match error {
        AddError::Unreachable(inner) => return unreachable(name, inner),
        AddError::Bind(BindError::Taken { .. }) | AddError::Own { .. } => {
            (StatusCode::CONFLICT, Code::LocalPortTaken)
        }
        AddError::Bind(_) => (StatusCode::CONFLICT, Code::ForwardFailed),
        AddError::Refused(_) => (StatusCode::CONFLICT, Code::ForwardRefused),
        AddError::Save(error) => unsaved(error),
    };
    let detail = format!("{}.", chain(error).trim_end_matches('.'));
    ApiError::new(status, code, detail).host(name)
}

impl From<BadCommand> for ApiError {
    fn from(error: BadCommand) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<&HostsFileError> for ApiError {
    fn from(error: &HostsFileError) -> Self {
        let mut problem =
            Self::new(StatusCode::CONFLICT, Code::HostsFileInvalid, format!("{}.", chain(error)));
        if let Some(bak) = &error.bak {
            problem
                .0
                .causes
                .push(format!("how it was before occd changed it last: {}", bak.display()));
        }
        problem
    }
}

impl From<UpdateError<ApiError>> for ApiError {
    fn from(error: UpdateError<ApiError>) -> Self {
        match &error {
            UpdateError::Change(_) => {}
            UpdateError::File(file) => return file.into(),
            UpdateError::Write(write) => {
                let status = if write.is_no_space() {
                    StatusCode::INSUFFICIENT_STORAGE
                } else {
                    StatusCode::INTERNAL_SERVER_ERROR
                };
                return Self::new(status, Code::HostsFileWrite, format!("{}.", chain(write)));
            }
            UpdateError::Contended { path } => {
                return Self::new(
                    StatusCode::PRECONDITION_FAILED,
                    Code::EditConflict,
                    format!("{} keeps changing under our hands.", path.display()),
                )
                .retryable(Some(1000));
            }
        }
        match error {
            UpdateError::Change(problem) => problem,
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "unreachable"),
        }
    }
}
