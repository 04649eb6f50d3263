//! `GET /v1/hosts/{host}/files/{path}`: the bytes of a file and parts of them, what a directory holds, and what happens there.

use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{FutureExt as _, stream};
use occ_proto::Code;
use occ_proto::exec::NDJSON;
use occ_proto::files::{FileKind, FileList, TAR};
use occ_proto::files_follow::{SearchEvent, WatchEvent};
use occ_proto::policy::Action;

use super::App;
use super::document::{Binary, FileEvent, FileRead};
use super::error::ApiResult;
use super::extract::{Caller, FileAt, Query};
use super::files::{FileQuery, check_match, problem, put, tags};
use super::json::{self, Json};
use super::params::{FilePath, FileReadHeaders, IfMatch};
use super::permit::place_of;
use super::problems::OfFile;
use super::turns::Turn;
use super::ways::{Looking, Ways, in_turn, open};
use crate::files::{Download, FileError, FileSystem, Pack, Search, SearchWish, Shown, Watch};
use crate::policy::{self, Asker};
use crate::prompts::Client;
use crate::ssh::error::chain;

/// The header of an answer with a file's permissions, in octal digits.
const MODE_HEADER: &str = "occ-file-mode";
/// The header of an answer with the time a file was changed last, in seconds since 1970.
const MTIME_HEADER: &str = "occ-file-mtime";

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
    check_match(&headers, &at, &attrs)?;
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
    let lines = stream::unfold(Some((looking, watch)), |watching| async move {
        let (looking, mut watch) = watching?;
        let enter = |fs: &FileSystem| {
            let (looking, fs) = (Arc::clone(&looking), fs.clone());
            async move { looking.enter(&fs).await }.boxed()
        };
        let line = |event| Ok::<_, std::convert::Infallible>(json::line(&event));
        let event = tokio::select! {
            event = watch.next(&looking.app.files, enter) => event?,
            () = looking.app.end.cancelled() => {
                let (reason, code) = stopping();
                return Some((line(WatchEvent::Failed { reason, code }), None));
            }
        };
        Some((line(event), Some((looking, watch))))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], HttpBody::from_stream(lines)).into_response())
}

/// Returns why what follows a host ends when the daemon does.
fn stopping() -> (String, Option<Code>) {
    ("occd is stopping".to_owned(), Some(Code::ShuttingDown))
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
    let lines = stream::unfold(Some((search, app.end.clone())), |searching| async move {
        let (mut search, end) = searching?;
        let line = |event| Ok::<_, std::convert::Infallible>(json::line(&event));
        let event = tokio::select! {
            event = search.next() => event?,
            () = end.cancelled() => {
                let (reason, code) = stopping();
                return Some((line(SearchEvent::Failed { reason, code }), None));
            }
        };
        Some((line(event), Some((search, end))))
    });
    Ok(([(header::CONTENT_TYPE, NDJSON)], in_turn(app, turn, lines)).into_response())
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
