//! `/v1/hosts/{host}/files/{path}`: files of hosts, and of this machine.

use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{FutureExt as _, stream};
use occ_proto::exec::NDJSON;
use occ_proto::files::{FileAction, FileDigest, FileKind, FileList, TAR};
use occ_proto::policy::Action;
use occ_proto::{Code, HostName};
use serde::Deserialize;
use tokio::time::Instant;

use super::App;
use super::document::{Binary, FileChanged, FileEvent, FileRead, FileWritten};
use super::error::{ApiError, ApiResult, soon, unreachable};
use super::extract::{Body, Caller, FileAt, Query};
use super::json::{self, Json};
use super::params::{FilePath, FileReadHeaders, IfMatch, IfNoneMatch};
use super::permit::place_of;
use super::problems::{OfFile, OfUpload};
use super::turns::Turn;
use super::ways::{Looking, Ways, in_turn, next_of_archive, next_piece, open, server_of, turn};
use crate::exec::Executor;
use crate::files::{
    Attrs, Condition, Download, FileError, FileSystem, Pack, SET_ID, Search, SearchWish, Shown,
    Unpack, Upload, UploadWish, Watch, checked, digest_of,
};
use crate::policy::{self, Asker};
use crate::prompts::Client;
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
    stat: bool,
    /// With that: of a link itself.
    #[serde(default)]
    no_follow: bool,
    /// What is in the directory.
    #[serde(default)]
    list: bool,
    /// The directory with everything in it, as an archive.
    #[serde(default)]
    tar: bool,
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
    recursive: bool,
    /// What happens there from now on.
    #[serde(default)]
    watch: bool,
    /// The lines of files there that match this.
    search: Option<String>,
    /// With that: it is the text itself.
    #[serde(default)]
    literal: bool,
    /// Letters match in either case.
    #[serde(default)]
    ignore_case: bool,
    /// Names of files that are searched, one a line; those behind `!` are not.
    globs: Option<String>,
    /// So many lines at most.
    limit: Option<u64>,
    /// How many times to dial a host again that is down.
    retries: Option<u32>,
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

/// Reads a file.
///
/// Its bytes; with `stat` a `FileInfo`, with `list` the `FileList` of a directory, with `tar` an archive of it, with `watch` a `WatchEvent` a
/// line, with `search` a `SearchEvent` a line.
#[utoipa::path(
    get,
    path = "/v1/hosts/{host}/files/{*path}",
    tag = "files",
    operation_id = "readFile",
    params(FilePath, FileQuery, IfMatch, FileReadHeaders),
    responses((status = 200, description = "The bytes, or what the query asks for", content((Binary = "application/octet-stream"), (FileRead = "application/json"), (Binary = "application/x-tar"), (FileEvent = "application/x-ndjson")), headers(("etag" = String, description = "Changes with the file; with its bytes"), ("accept-ranges" = String, description = "`bytes`; with its bytes"), ("occ-file-mode" = String, description = "Its permissions, in octal digits; with its bytes"), ("occ-file-mtime" = i64, description = "When it was changed last, in seconds since 1970; with its bytes"))), (status = 206, description = "The part that `Range` names", content_type = "application/octet-stream", body = Binary, headers(("etag" = String, description = "Changes with the file"), ("accept-ranges" = String, description = "`bytes`"), ("content-range" = String, description = "Which part it is: `bytes FIRST-LAST/SIZE`"), ("occ-file-mode" = String, description = "Its permissions, in octal digits"), ("occ-file-mtime" = i64, description = "When it was changed last, in seconds since 1970"))), (status = 304, description = "It is as `If-None-Match` has it", headers(("etag" = String, description = "That of the file"))), OfFile)
)]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    mut at: FileAt,
    Query(query): Query<FileQuery>,
    Caller(client): Caller,
    asker: Asker,
    headers: HeaderMap,
) -> ApiResult<Response> {
    // Whoever may write may see what is there to be replaced, though not what is in it.
    let place = place_of(&at.executor);
    let action = |request| app.guard.decide(&asker, &place, &request).action;
    let as_writer = query.stat
        && action(policy::Request::Read) == Action::Deny
        && action(policy::Request::Write) == Action::Allow;
    let mode = (as_writer, !(query.stat && query.no_follow));
    let opened = open(&app, (&asker, &client), &mut at, query.retries, mode, Ways::Keeps).await;
    let (fs, turn) = opened?;
    let failed = |error| problem(&at.executor, &error);
    if query.stat {
        let attrs = fs.stat(&at.path, !query.no_follow).await.map_err(failed)?;
        let target = match attrs.kind {
            FileKind::Symlink => Some(fs.read_link(&at.path).await.map_err(failed)?),
            _ => None,
        };
        return Ok(Json(attrs.info(&at.path, target)).into_response());
    }
    if query.list {
        let entries = fs.list(&at.path).await.map_err(failed)?;
        let path = fs.real_path(&at.path).await.map_err(failed)?;
        let entries = entries.iter().map(|entry| entry.attrs.info(&entry.name, None)).collect();
        return Ok(Json(FileList { path: path.into(), entries }).into_response());
    }
    if query.watch {
        let watching = watch(Arc::clone(&app), asker, &fs, &at, query.recursive, &client);
        return watching.await.map_err(failed);
    }
    if let Some(pattern) = query.search {
        let globs = query.globs.unwrap_or_default();
        let globs = globs.lines().filter(|glob| !glob.is_empty()).map(str::to_owned).collect();
        let (literal, ignore_case, limit) = (query.literal, query.ignore_case, query.limit);
        let wish = SearchWish { pattern, literal, ignore_case, globs, limit };
        return search(&app, &fs, &at, wish, &client, turn).await.map_err(failed);
    }
    if query.tar {
        let pack = Pack::begin(&fs, &at.executor, &at.path, &client).await.map_err(failed)?;
        // The host's tar is in its directory by now; what goes by paths has them to its end.
        let turn = turn.filter(|_| pack.goes_by_paths());
        let bytes = stream::unfold(Some(pack), |pack| async {
            let mut pack = pack?;
            match pack.next().await {
                Ok(None) => None,
                Ok(Some(data)) => Some((Ok(data), Some(pack))),
                Err(error) => {
                    // As below.
                    tracing::warn!(error = %chain(&error), "a directory could not be read to its end");
                    Some((Err(error), None))
                }
            }
        });
        let body = in_turn(&app, turn, bytes);
        return Ok(([(header::CONTENT_TYPE, TAR)], body).into_response());
    }
    let mut download = Download::open(&fs, &at.path).await.map_err(failed)?;
    let attrs = *download.attrs();
    let etag = attrs.etag();
    if let Some(tags) = tags(&headers, &header::IF_NONE_MATCH)
        && tags.iter().any(|tag| *tag == etag || tag == "*")
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    if let Some(tags) = tags(&headers, &header::IF_MATCH)
        && !tags.iter().any(|tag| *tag == etag || tag == "*")
    {
        return Err(failed(FileError::Changed(Shown::of(&at.path))));
    }
    let mut answer = HeaderMap::new();
    put(&mut answer, header::ETAG, &etag);
    put(&mut answer, header::ACCEPT_RANGES, "bytes");
    put(&mut answer, header::CONTENT_TYPE, "application/octet-stream");
    put(&mut answer, HeaderName::from_static(MODE_HEADER), &format!("{:o}", attrs.mode));
    put(&mut answer, HeaderName::from_static(MTIME_HEADER), &attrs.mtime.to_string());
    let mut status = StatusCode::OK;
    let mut length = (attrs.size > 0).then_some(attrs.size);
    // Another representation than the client has begins anew (RFC 9110, section 13.1.5).
    let fits = headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    if let Some(range) = headers.get(header::RANGE).filter(|_| fits && attrs.size > 0) {
        match range_of(range, attrs.size) {
            Range::Of(start, end) => {
                download.set_range(start, end).await.map_err(failed)?;
                status = StatusCode::PARTIAL_CONTENT;
                length = Some(end - start);
                let range = format!("bytes {start}-{}/{}", end - 1, attrs.size);
                put(&mut answer, header::CONTENT_RANGE, &range);
            }
            Range::All => {}
            Range::None => {
                let (path, size) = (Shown::of(&at.path), attrs.size);
                let mut answer = failed(FileError::Range { path, size }).into_response();
                put(answer.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{size}"));
                return Ok(answer);
            }
        }
    }
    if let Some(length) = length {
        answer.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let name = at.executor.name().to_owned();
    let bytes = stream::unfold(Some(download), move |download| {
        let name = name.clone();
        async move {
            let mut download = download?;
            match download.next().await {
                Ok(None) => None,
                Ok(Some(data)) => Some((Ok(data), Some(download))),
                Err(error) => {
                    // The answer is under way: that it ends too early is all that the client is told.
                    tracing::warn!(host = name, error = %chain(&error), "a file could not be read to its end");
                    Some((Err(error), None))
                }
            }
        }
    });
    Ok((status, answer, HttpBody::from_stream(bytes)).into_response())
}

/// Tells what happens in a directory, until the client leaves. Below a root each look has its turn, and the watch ends when
/// another directory has the name, or a link.
async fn watch(
    app: Arc<App>,
    asker: Asker,
    fs: &FileSystem,
    at: &FileAt,
    recursive: bool,
    client: &Client,
) -> Result<Response, FileError> {
    let confined = !app.guard.roots(&asker, &place_of(&at.executor)).is_empty();
    let watch = Watch::begin(fs, &at.executor, &at.path, (recursive, confined), client).await?;
    let (executor, dir) = (at.executor.clone(), watch.directory().to_vec());
    let looking = Arc::new(Looking { app, asker, executor, dir, confined });
    let lines = stream::unfold((looking, watch), |(looking, mut watch)| async move {
        let enter = |fs: &FileSystem| {
            let (looking, fs) = (Arc::clone(&looking), fs.clone());
            async move { looking.enter(&fs).await }.boxed()
        };
        let event = watch.next(&looking.app.files, enter).await?;
        Some((Ok::<_, std::convert::Infallible>(json::line(&event)), (looking, watch)))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], HttpBody::from_stream(lines)).into_response())
}

/// Tells what a search finds.
async fn search(
    app: &App,
    fs: &FileSystem,
    at: &FileAt,
    wish: SearchWish,
    client: &Client,
    turn: Option<Turn>,
) -> Result<Response, FileError> {
    let search = Search::begin(fs, &at.executor, &at.path, wish, client).await?;
    // As with an archive.
    let turn = turn.filter(|_| search.goes_by_paths());
    let lines = stream::unfold(search, |mut search| async move {
        let event = search.next().await?;
        Some((Ok::<_, std::convert::Infallible>(json::line(&event)), search))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], in_turn(app, turn, lines)).into_response())
}

/// The header of an answer with a file's permissions, in octal digits.
const MODE_HEADER: &str = "occ-file-mode";
/// The header of an answer with the time a file was changed last, in seconds since 1970.
const MTIME_HEADER: &str = "occ-file-mtime";

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // All are digits and the like.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Returns the entity tags of a header.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let text = headers.get(name)?.to_str().unwrap_or_default();
    Some(text.split(',').map(|tag| tag.trim().to_owned()).collect())
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// From there up to before there.
    Of(u64, u64),
    /// What is not understood, or has several parts, is passed over (RFC 9110, section 14.2).
    All,
    /// Nothing of it is there.
    None,
}

fn range_of(value: &HeaderValue, size: u64) -> Range {
    let parts = value.to_str().ok().and_then(|text| text.strip_prefix("bytes="));
    let Some((first, last)) = parts.and_then(|range| range.trim().split_once('-')) else {
        return Range::All;
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.is_empty() => (first, size),
        (Err(_), Ok(last)) if first.is_empty() && last > 0 => (size.saturating_sub(last), size),
        (Err(_), Ok(0)) if first.is_empty() => return Range::None,
        _ => return Range::All,
    };
    if start < size { Range::Of(start, end) } else { Range::None }
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
fn check_match(headers: &HeaderMap, at: &FileAt, attrs: &Attrs) -> ApiResult<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        let range = |text| range_of(&HeaderValue::from_static(text), 10);
        assert_eq!(range("bytes=0-0"), Range::Of(0, 1));
        assert_eq!(range("bytes=4-"), Range::Of(4, 10));
        assert_eq!(range("bytes=4-99"), Range::Of(4, 10));
        assert_eq!(range("bytes=-3"), Range::Of(7, 10));
        assert_eq!(range("bytes=-30"), Range::Of(0, 10));
        assert_eq!(range("bytes=10-"), Range::None);
        assert_eq!(range("bytes=-0"), Range::None);
        for odd in ["bytes=3-2", "bytes=a-", "lines=1-2", "bytes=0-1,3-4", "bytes=-"] {
            assert_eq!(range(odd), Range::All, "{odd}");
        }
    }
}
