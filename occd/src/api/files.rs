//! `/v1/hosts/{host}/files/{path}`: files of hosts, and of this machine. What reads them is in `file_reads`.

use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use occ_proto::files::{FileAction, FileDigest, FileKind};
use occ_proto::{Code, HostName};
use serde::Deserialize;
use tokio::time::Instant;

use super::App;
use super::document::{Binary, FileChanged, FileWritten};
use super::error::{ApiError, ApiResult, soon, unreachable};
use super::extract::{Body, Caller, FileAt, Query};
use super::json::Json;
use super::params::{FilePath, IfMatch, IfNoneMatch};
use super::problems::{OfFile, OfUpload};
use super::ways::{Ways, next_of_archive, next_piece, open, server_of, turn};
use crate::exec::Executor;
use crate::files::{
    Attrs, Condition, FileError, SET_ID, Shown, Unpack, Upload, UploadWish, checked, digest_of,
};
use crate::policy::Asker;
use crate::ssh::ChannelError;
use crate::ssh::error::chain;

/// Returns the problem of something with a file.
pub(super) fn problem(executor: &Executor, error: &FileError) -> ApiError {
    if let (FileError::Unreachable(inner), Some(host)) = (error, executor.host()) {
        return unreachable(host, inner);
    }
    let (status, code) = match error {
        FileError::Unreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::HostUnreachable),
        FileError::NoSession(ChannelError::Refused(_) | ChannelError::Full(_)) => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::SessionRefused)
        }
        FileError::NoSession(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::HostUnreachable),
        FileError::NoSftp => (StatusCode::BAD_GATEWAY, Code::NoSftp),
        FileError::Lost(..)
        | FileError::Ended(_)
        | FileError::Silent { .. }
        | FileError::NoAnswer(_) => (StatusCode::BAD_GATEWAY, Code::FileInterrupted),
        FileError::Outside(_) | FileError::SetId(_) => (StatusCode::FORBIDDEN, Code::PolicyDenied),
        FileError::NotFound(_) | FileError::NoDirectory(_) => {
            (StatusCode::NOT_FOUND, Code::FileNotFound)
        }
        FileError::Permission(_) => (StatusCode::FORBIDDEN, Code::PermissionDenied),
        FileError::IsDirectory(_) => (StatusCode::CONFLICT, Code::IsDirectory),
        FileError::NotDirectory(_) => (StatusCode::CONFLICT, Code::NotDirectory),
        FileError::Special(_) => (StatusCode::CONFLICT, Code::FileError),
        FileError::Exists(_) => (StatusCode::PRECONDITION_FAILED, Code::FileExists),
        FileError::NotEmpty(_) => (StatusCode::CONFLICT, Code::NotEmpty),
        FileError::NameTooLong(_) => (StatusCode::BAD_REQUEST, Code::NameTooLong),
        FileError::NoSpace(_) | FileError::Quota(_) => {
            (StatusCode::INSUFFICIENT_STORAGE, Code::NoSpace)
        }
        FileError::Changed(_) => (StatusCode::PRECONDITION_FAILED, Code::FileChanged),
        FileError::Range { .. } | FileError::NotKept(..) => {
            (StatusCode::RANGE_NOT_SATISFIABLE, Code::OutOfRange)
        }
        FileError::BadArchive(..) => (StatusCode::BAD_REQUEST, Code::ArchiveInvalid),
        FileError::Cut(_) | FileError::BadPath(_) | FileError::Nameless(_) => {
            (StatusCode::BAD_REQUEST, Code::BadRequest)
        }
        FileError::BadName(..) | FileError::Failed(..) => {
            (StatusCode::BAD_GATEWAY, Code::FileError)
        }
    };
    let place = executor.host().map_or_else(String::new, |name| format!("{name}: "));
    let text = occ_proto::text::sanitize(&chain(error));
    let error = ApiError::new(status, code, format!("{place}{}.", text.trim_end_matches('.')));
    about(soon(error), executor.host())
}

pub(super) fn about(error: ApiError, host: Option<&HostName>) -> ApiError {
    match host {
        Some(host) => error.host(host),
        None => error,
    }
}

/// What a request may say behind its path.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct FileQuery {
    /// What is known of the file, not its bytes.
    #[serde(default)]
    pub(super) stat: bool,
    /// With that: of a link itself.
    #[serde(default)]
    pub(super) no_follow: bool,
    /// What is in the directory.
    #[serde(default)]
    pub(super) list: bool,
    /// The directory with everything in it, as an archive.
    #[serde(default)]
    pub(super) tar: bool,
    /// Keep permissions and times of the archive.
    #[serde(default)]
    preserve: bool,
    /// Permissions, in octal digits.
    mode: Option<String>,
    /// The same for a file that is not there yet.
    new_mode: Option<String>,
    /// When it was changed last, in seconds since 1970.
    mtime: Option<i64>,
    /// Keep what is written when it ends early, and go on at this offset.
    resume: Option<u64>,
    /// Only over a file with bytes of this SHA-256.
    if_sha256: Option<String>,
    /// With everything in it.
    #[serde(default)]
    pub(super) recursive: bool,
    /// What happens there from now on.
    #[serde(default)]
    pub(super) watch: bool,
    /// The lines of files there that match this.
    pub(super) search: Option<String>,
    /// With that: it is the text itself.
    #[serde(default)]
    pub(super) literal: bool,
    /// Letters match in either case.
    #[serde(default)]
    pub(super) ignore_case: bool,
    /// Names of files that are searched, one a line; those behind `!` are not.
    pub(super) globs: Option<String>,
    /// So many lines at most.
    pub(super) limit: Option<u64>,
    /// How many times to dial a host again that is down.
    pub(super) retries: Option<u32>,
}

/// Returns permissions that are written in octal digits.
fn octal(mode: Option<&str>) -> ApiResult<Option<u32>> {
    let Some(mode) = mode else { return Ok(None) };
    match u32::from_str_radix(mode, 8) {
        Ok(bits) if bits <= 0o7777 => Ok(Some(bits)),
        _ => Err(ApiError::bad_request("A mode has one to four octal digits.")),
    }
}

/// Returns a time in seconds since 1970, if all systems have it: SFTP counts up to the year 2106.
fn since_1970(mtime: i64) -> ApiResult<i64> {
    match u32::try_from(mtime) {
        Ok(_) => Ok(mtime),
        Err(_) => Err(ApiError::bad_request("mtime is a number from 0 to 4294967295.")),
    }
}

/// Refuses permissions below a root with which a program would run as its owner: whoever may only write there could give
/// the account to others on the host.
fn plain_mode(mode: u32, confined: bool, at: &FileAt) -> ApiResult<()> {
    match confined && mode & SET_ID != 0 {
        true => Err(problem(&at.executor, &FileError::SetId(Shown::of(&at.path)))),
        false => Ok(()),
    }
}

/// Sets a header.
pub(super) fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // All are digits and the like.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Returns the entity tags of a header.
pub(super) fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let text = headers.get(name)?.to_str().unwrap_or_default();
    Some(text.split(',').map(|tag| tag.trim().to_owned()).collect())
}

/// Writes a file, whose place the bytes take when all of them are there; with `tar` unpacks an archive into a directory.
#[utoipa::path(
    put,
    path = "/v1/hosts/{host}/files/{*path}",
    tag = "files",
    operation_id = "writeFile",
    params(FilePath, FileQuery, IfMatch, IfNoneMatch),
    request_body(content = Binary, content_type = "application/octet-stream"),
    responses((status = 200, description = "The file, or with `tar` how many were written", body = FileWritten, headers(("etag" = String, description = "That of the file as it is now; without `tar`"))), OfUpload)
)]
pub(super) async fn write(
    State(app): State<Arc<App>>,
    mut at: FileAt,
    Query(query): Query<FileQuery>,
    Caller(client): Caller,
    asker: Asker,
    headers: HeaderMap,
    body: HttpBody,
) -> ApiResult<Response> {
    if query.tar {
        asker.trail.set(|line| line.action = "files.unpack".to_owned());
    }
    asker.trail.begin();
    let ways = if query.tar { Ways::Moves } else { Ways::Keeps };
    let mode = (true, true);
    let opened = open(&app, (&asker, &client), &mut at, query.retries, mode, ways).await;
    let (fs, mut first_turn) = opened?;
    let failed = |error| problem(&at.executor, &error);
    if query.tar {
        let confined = first_turn.is_some();
        let how = (query.preserve, confined);
        let begun = Unpack::begin(&fs, &at.executor, &at.path, how, &client);
        let mut unpack = begun.await.map_err(failed)?;
        if !unpack.goes_by_paths() {
            // It comes to where nobody else gets to.
            first_turn = None;
        }
        let mut body = body.into_data_stream();
        let (begun, mut taken) = (Instant::now(), 0);
        while let Some(data) =
            next_of_archive(&app, &mut body, (begun, taken), first_turn.is_some()).await?
        {
            let data = data.map_err(|_| failed(FileError::Cut(Shown::of(&at.path))))?;
            taken += data.len() as u64;
            unpack.write(data).await.map_err(failed)?;
        }
        if first_turn.is_none() {
            unpack.received().await.map_err(failed)?;
            first_turn = turn(&app, &asker, &at.executor, Ways::Moves).await?;
            app.leads_there((&asker, &client), &at.executor, &fs, &at.path).await?;
        }
        let written = unpack.finish().await.map_err(failed)?;
        drop(first_turn);
        return Ok(Json(written).into_response());
    }
    // Whether a guess at what is in the file is right is for those who may read it.
    if let Some(hash) = &query.if_sha256 {
        if hash.len() != 64 || !hash.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            let why = "if_sha256 is no SHA-256: it has 64 hexadecimal digits.";
            return Err(ApiError::bad_request(why));
        }
        let reads = (false, true);
        app.permit_file((&asker, &client), &at.executor, &fs, &at.path, reads).await?;
    }
    let absent = tags(&headers, &header::IF_NONE_MATCH);
    if absent.as_ref().is_some_and(|tags| tags != &["*"]) {
        return Err(ApiError::bad_request("If-None-Match can only be * here."));
    }
    let condition = Condition {
        matches: tags(&headers, &header::IF_MATCH),
        absent: absent.is_some(),
        sha256: query.if_sha256.clone(),
    };
    let (mode, new_mode) = (octal(query.mode.as_deref())?, octal(query.new_mode.as_deref())?);
    for mode in [mode, new_mode].into_iter().flatten() {
        plain_mode(mode, first_turn.is_some(), &at)?;
    }
    let (mtime, resume) = (query.mtime.map(since_1970).transpose()?, query.resume);
    let no_set_id = first_turn.is_some();
    let wish = UploadWish { mode, new_mode, mtime, condition, resume, no_set_id, no_sync: false };
    let mut upload = Upload::begin(&fs, &at.path, wish).await.map_err(failed)?;
    // It is open: nobody has to wait for what is still to come.
    drop(first_turn);
    let mut body = body.into_data_stream();
    while let Some(data) = next_piece(&app, &mut body).await? {
        // The client has left, or its connection broke.
        let data = data.map_err(|_| failed(FileError::Cut(Shown::of(&at.path))))?;
        upload.write(&data).await.map_err(failed)?;
    }
    let _turn = turn(&app, &asker, &at.executor, Ways::Keeps).await?;
    app.leads_there((&asker, &client), &at.executor, &fs, &at.path).await?;
    // Of several that were to change the same file only one has the right one before it.
    let _changing = app.changing.alone(server_of(&at.executor), upload.target()).await;
    let attrs = upload.finish().await.map_err(failed)?;
    let mut answer = Json(attrs.info(&at.path, None)).into_response();
    put(answer.headers_mut(), header::ETAG, &attrs.etag());
    Ok(answer)
}

/// Removes a file, or an empty directory; with `recursive` everything in it.
#[utoipa::path(
    delete,
    path = "/v1/hosts/{host}/files/{*path}",
    tag = "files",
    operation_id = "removeFile",
    params(FilePath, FileQuery, IfMatch),
    responses((status = 204, description = "It is removed"), OfFile)
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    mut at: FileAt,
    Query(query): Query<FileQuery>,
    Caller(client): Caller,
    asker: Asker,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    // As it was asked for.
    let nameless = is_nameless(&at.path).then(|| Shown::of(&at.path));
    let mode = (true, false);
    let opened = open(&app, (&asker, &client), &mut at, query.retries, mode, Ways::Keeps).await;
    let (fs, _turn) = opened?;
    app.keep_roots((&asker, &client), &at.executor, &fs, &at.path).await?;
    let failed = |error| problem(&at.executor, &error);
    // Before anything in it is gone. A system refuses them as well, but only once they are empty.
    if let Some(path) = nameless {
        return Err(failed(FileError::Nameless(path)));
    }
    let _changing = app.changing.alone(server_of(&at.executor), &at.path).await;
    let attrs = match fs.stat(&at.path, false).await {
        // What is left of a copy to it goes with it, and may be all that is there.
        Err(FileError::NotFound(_)) if fs.forget_part(&at.path).await.map_err(failed)? => {
            return Ok(StatusCode::NO_CONTENT);
        }
        attrs => attrs.map_err(failed)?,
    };
    check_match(&headers, &at, &attrs)?;
    if attrs.kind == FileKind::File {
        fs.forget_part(&at.path).await.map_err(failed)?;
    }
    match attrs.kind {
        FileKind::Directory if query.recursive => fs.remove_all(&at.path).await,
        kind => fs.remove(&at.path, kind).await,
    }
    .map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Checks `If-Match` against a file as it is.
pub(super) fn check_match(headers: &HeaderMap, at: &FileAt, attrs: &Attrs) -> ApiResult<()> {
    match tags(headers, &header::IF_MATCH) {
        Some(tags) if !tags.iter().any(|tag| *tag == attrs.etag() || tag == "*") => {
            Err(problem(&at.executor, &FileError::Changed(Shown::of(&at.path))))
        }
        _ => Ok(()),
    }
}

/// Returns whether a path ends in no name of its own: in `.`, `..` or `/`, whatever slashes follow.
fn is_nameless(path: &[u8]) -> bool {
    let name = path.split(|byte| *byte == b'/').rfind(|name| !name.is_empty());
    matches!(name, None | Some(b"." | b".."))
}

/// Makes a directory, renames, sets permissions or times, or tells the SHA-256 of a file.
#[utoipa::path(
    post,
    path = "/v1/hosts/{host}/files/{*path}",
    tag = "files",
    operation_id = "changeFile",
    params(FilePath, FileQuery, IfMatch),
    request_body = FileAction,
    responses((status = 200, description = "The file, or its digest", body = FileChanged), OfFile)
)]
pub(super) async fn act(
    State(app): State<Arc<App>>,
    mut at: FileAt,
    Query(query): Query<FileQuery>,
    Caller(client): Caller,
    asker: Asker,
    headers: HeaderMap,
    Body(action): Body<FileAction>,
) -> ApiResult<Response> {
    match &action {
        FileAction::Chmod { mode } | FileAction::Mkdir { mode: Some(mode), .. }
            if *mode > 0o7777 =>
        {
            return Err(ApiError::bad_request("mode has twelve bits."));
        }
        FileAction::Touch { mtime } => _ = since_1970(*mtime)?,
        _ => {}
    }
    let mode = match &action {
        FileAction::Digest { .. } => (false, true),
        FileAction::Chmod { .. } | FileAction::Touch { .. } => (true, true),
        FileAction::Mkdir { .. } | FileAction::Rename { .. } => (true, false),
    };
    asker.trail.set(|line| {
        let (word, detail) = match &action {
            FileAction::Digest { .. } => ("digest", None),
            FileAction::Chmod { mode } => ("chmod", Some(format!("{mode:o}"))),
            FileAction::Touch { .. } => ("touch", None),
            FileAction::Mkdir { .. } => ("mkdir", None),
            FileAction::Rename { to, .. } => ("rename", Some(format!("to {}", Shown::of(&to.0)))),
        };
        line.action = format!("files.{word}");
        line.detail = detail;
    });
    match &action {
        // It only reads.
        FileAction::Digest { .. } => asker.trail.forget(),
        _ => asker.trail.begin(),
    }
    let ways = match &action {
        FileAction::Rename { .. } => Ways::Moves,
        _ => Ways::Keeps,
    };
    let opened = open(&app, (&asker, &client), &mut at, query.retries, mode, ways).await;
    let (fs, turn) = opened?;
    let failed = |error| problem(&at.executor, &error);
    let path = &at.path;
    // That a directory is to be there is true of a root.
    if !matches!(action, FileAction::Digest { .. } | FileAction::Mkdir { .. }) {
        app.keep_roots((&asker, &client), &at.executor, &fs, path).await?;
    }
    if let FileAction::Chmod { mode } | FileAction::Mkdir { mode: Some(mode), .. } = &action {
        plain_mode(*mode, turn.is_some(), &at)?;
    }
    // A digest only reads, and may take long.
    let _changing = match &action {
        FileAction::Digest { .. } => None,
        _ => Some(app.changing.alone(server_of(&at.executor), path).await),
    };
    if headers.contains_key(header::IF_MATCH) {
        check_match(&headers, &at, &fs.stat(path, false).await.map_err(failed)?)?;
    }
    match action {
        FileAction::Mkdir { mode, parents: true } => fs.mkdir_all(path, mode).await,
        FileAction::Mkdir { mode, parents: false } => fs.mkdir(path, mode).await,
        FileAction::Rename { to, replace } => {
            let to = checked(&to.0).map_err(failed)?;
            let to =
                app.permit_file((&asker, &client), &at.executor, &fs, &to, (true, false)).await?;
            fs.move_to(path, &to, replace).await.map_err(failed)?;
            let attrs = fs.stat(&to, false).await.map_err(failed)?;
            return Ok(Json(attrs.info(&to, None)).into_response());
        }
        FileAction::Chmod { mode } => fs.chmod(path, mode).await,
        FileAction::Touch { mtime } => fs.touch(path, mtime).await,
        FileAction::Digest { length } => {
            let digest = digest_of(&fs, &at.executor, path, length, &client).await;
            let (sha256, length) = digest.map_err(failed)?;
            return Ok(Json(FileDigest { sha256, length }).into_response());
        }
    }
    .map_err(failed)?;
    let attrs = fs.stat(path, true).await.map_err(failed)?;
    Ok(Json(attrs.info(path, None)).into_response())
}
