//! Paths that stay below a directory of a host's, as the host itself resolves them.

use occ_proto::files::FileKind;

use crate::files::{FileError, FileSystem, join};

/// Returns whether a path without links is a directory or below it.
pub fn is_below(root: &[u8], path: &[u8]) -> bool {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    match path.strip_prefix(root) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}

/// Returns whether a path that begins with `/` names what is outside of a directory, whatever is there: at its end, or on its way
/// back by `..`, where only what is above the directory is known to be there.
pub fn names_outside(root: &[u8], path: &[u8]) -> bool {
    let mut at: Vec<u8> = Vec::new();
    for part in path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        if part == b".." {
            if !is_below(root, &at) && !is_below(&at, root) {
                return true;
            }
            at.truncate(at.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
        } else {
            at.push(b'/');
            at.extend_from_slice(part);
        }
    }
    !is_below(root, &at)
}

/// Returns whether the host stops on the way to a path below a directory, and not behind a link.
///
/// # Errors
/// When the host is not reached.
pub async fn stops_below(fs: &FileSystem, root: &[u8], path: &[u8]) -> Result<bool, FileError> {
    let mut rest = path;
    while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
        let (dir, name) = (&rest[..slash.max(1)], &rest[slash + 1..]);
        match fs.real_path(dir).await {
            Ok(real) if is_below(root, &real) => {
                let there = fs.stat(&join(&real, name), false).await;
                return Ok(!matches!(there, Ok(attrs) if attrs.kind == FileKind::Symlink));
            }
            Ok(_) => return Ok(false),
            Err(error) if error.is_about_link() => return Err(error),
            Err(_) if slash == 0 => return Ok(false),
            Err(_) => rest = &rest[..slash],
        }
    }
    Ok(false)
}

/// Returns a path as its host resolves it: without links, except that the last part may be one unless it is to be
/// followed, and may be missing with others before it. Nothing where it cannot be told.
pub async fn resolve(
    fs: &FileSystem,
    path: &[u8],
    follow: bool,
) -> Result<Option<Vec<u8>>, FileError> {
    if follow {
        match fs.real_path(path).await {
            // What is not there is where the server says it would be; a link to nowhere may be behind that.
            Ok(real) if fs.stat(&real, false).await.is_ok() => return Ok(Some(real)),
            Ok(_) | Err(FileError::NotFound(_)) => {}
            Err(FileError::NotDirectory(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let mut missing: Vec<&[u8]> = Vec::new();
    let mut rest = path;
    loop {
        let (dir, name) = match rest.iter().rposition(|byte| *byte == b'/') {
            Some(at) if at + 1 == rest.len() && at > 0 => {
                rest = &rest[..at];
                continue;
            }
            Some(at) => (if at == 0 { &b"/"[..] } else { &rest[..at] }, &rest[at + 1..]),
            None => (&b"."[..], rest),
        };
        // The parts that are not there lead nowhere but down.
        if name == b".." || name == b"." || name.is_empty() {
            if !missing.is_empty() {
                return Ok(None);
            }
            return match fs.real_path(rest).await {
                Ok(real) => Ok(Some(real)),
                Err(FileError::NotFound(_) | FileError::NotDirectory(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let real = fs.real_path(dir).await;
        let there = match real {
            Ok(real) if fs.stat(&real, false).await.is_ok() => Some(real),
            Ok(_) | Err(FileError::NotFound(_)) => None,
            Err(FileError::NotDirectory(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        missing.push(name);
        if let Some(mut real) = there {
            let first = join(&real, name);
            let is_there = fs.stat(&first, false).await.is_ok();
            // A link to nowhere, or one on the way.
            if is_there && (follow || missing.len() > 1) {
                return Ok(None);
            }
            while let Some(name) = missing.pop() {
                real = join(&real, name);
            }
            return Ok(Some(real));
        }
        rest = dir;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_by_whole_names() {
        for (root, path, is) in [
            ("/srv/app", "/srv/app", true),
            ("/srv/app", "/srv/app/x", true),
            ("/srv/app/", "/srv/app/x", true),
            ("/srv/app", "/srv/app2", false),
            ("/srv/app", "/srv", false),
            ("/", "/etc", true),
            ("/srv/app", "/", false),
        ] {
            assert_eq!(is_below(root.as_bytes(), path.as_bytes()), is, "{root} {path}");
        }
    }
    #[test]
    fn what_is_outside_shows_by_its_name() {
        for (path, is) in [
            ("/srv/app", false),
            ("//srv/./app//x/", false),
            ("/srv/app/../app/x", false),
            ("/srv/app/x/../y", false),
            ("/", true),
            ("/srv", true),
            ("/srv/app2/x", true),
            ("/srv/app/../x", true),
            ("/srv/other/../app/x", true),
            ("/srv/app/../other/../app/x", true),
            ("/../srv/app", false),
        ] {
            assert_eq!(names_outside(b"/srv/app", path.as_bytes()), is, "{path}");
        }
        assert!(!names_outside(b"/", b"/etc/../x"));
    }
}
