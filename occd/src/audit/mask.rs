//! What looks like a secret in a command, and is not written down: values of options and variables whose names say so,
//! credentials in URLs and headers, tokens that show by their beginnings. A guess: a secret that shows by nothing stays,
//! and what is masked may have been none.

mod shell;

use std::ops::Range;

use self::shell::{Shell, end_of_name, open_quote, value, value_of_assignment, word_of_shell};

/// How much of a word is shown, in bytes.
const SHOWN: usize = 1024;
/// Stands for a secret.
const MASK: &str = "***";

/// What names of secrets contain.
const PARTS: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "access-key",
    "private_key",
    "credential",
    "signature",
    "storepass",
    "keypass",
];
/// What they are, or end with behind a `-` or `_`.
const ENDS: [&str; 7] = ["pass", "pwd", "auth", "otp", "pw", "psk", "pat"];
/// What only looks like one: where it is, or how it is named.
const NOT: [&str; 8] = ["file", "path", "stdin", "dir", "name", "fd", "env", "pwd"];
/// Headers whose whole line is one.
const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];
/// How tokens begin.
const TOKENS: [&str; 22] = [
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xapp-",
    "sk-",
    "AKIA",
    "ASIA",
    "eyJ",
    "npm_",
    "pypi-",
    "dop_v1_",
    "hf_",
    "AIza",
    "ya29.",
    "AGE-SECRET-KEY-1",
];
/// The shortest rest of a token: what is shorter is a word.
const TOKEN_REST: usize = 16;
/// Programs with an option of one letter for a password, which may be the next word where that is said.
const SHORT: [(&str, &str, bool); 38] = [
    ("mysql", "-p", false),
    ("mysqldump", "-p", false),
    ("mysqladmin", "-p", false),
    ("mysqlimport", "-p", false),
    ("mariadb", "-p", false),
    ("mariadb-dump", "-p", false),
    ("mariadb-admin", "-p", false),
    ("7z", "-p", false),
    ("sshpass", "-p", true),
    ("redis-cli", "-a", true),
    ("curl", "-u", true),
    ("curl", "-U", true),
    ("curl", "--user", true),
    ("curl", "--proxy-user", true),
    ("curl", "--oauth2-bearer", true),
    ("curl", "-b", true),
    ("curl", "--cookie", true),
    ("smbclient", "-U", true),
    ("smbclient", "--user", true),
    ("http", "-a", true),
    ("https", "-a", true),
    ("twine", "-p", true),
    ("zip", "-P", true),
    ("unzip", "-P", true),
    ("mosquitto_pub", "-P", true),
    ("mosquitto_sub", "-P", true),
    ("sqlcmd", "-P", true),
    ("ipmitool", "-P", true),
    ("etcdctl", "--user", true),
    ("ssh-keygen", "-N", true),
    ("ssh-keygen", "-P", true),
    ("lftp", "-u", true),
    ("ncftpput", "-p", true),
    ("ncftpget", "-p", true),
    ("snmpget", "-A", true),
    ("snmpget", "-X", true),
    ("login", "-p", true),
    ("ldapsearch", "-w", true),
];

/// Returns a command's words for the log.
pub(super) fn argv(words: &[Vec<u8>]) -> Vec<String> {
    let mut shorts = Shorts::default();
    let mut hidden = false;
    let mut shell = Shell::default();
    let show = |word: &Vec<u8>| {
        let word = String::from_utf8_lossy(word);
        let is_line = shell.is_line(&word);
        if std::mem::take(&mut hidden) && !is_option(&word) {
            shorts.next = false;
            return MASK.to_owned();
        }
        let from = shorts.see(&word);
        hidden = is_option(&word) && !word.contains('=') && names_secret(&word);
        if let Some(from) = from {
            return format!("{}{MASK}", &word[..from]);
        }
        // A word that is one assignment ends where it ends, whatever is in it; a line goes on behind it.
        if !is_line
            && let Some((name, value)) = word.split_once('=')
            && name.bytes().all(is_name)
            && names_secret(name)
            && !value.is_empty()
        {
            return cut(format!("{name}={MASK}"));
        }
        cut(text(&word))
    };
    words.iter().map(show).collect()
}

/// Returns a text, such as a line for a shell, for the log.
fn text(text: &str) -> String {
    let mut hidden = Vec::new();
    urls(text, &mut hidden);
    tokens(text, &mut hidden);
    names(text, &mut hidden);
    options(text, &mut hidden);
    keys(text, &mut hidden);
    if hidden.is_empty() {
        return text.to_owned();
    }
    hidden.sort_by_key(|range: &Range<usize>| range.start);
    let (mut shown, mut at) = (String::with_capacity(text.len()), 0);
    for range in hidden {
        if range.end <= at {
            continue;
        }
        if range.start >= at {
            shown.push_str(&text[at..range.start]);
            shown.push_str(MASK);
        }
        at = range.end;
    }
    shown.push_str(&text[at..]);
    shown
}

/// Returns free words for the log.
pub(super) fn free(words: &str) -> String {
    cut(text(words))
}

fn cut(mut word: String) -> String {
    if word.len() > SHOWN {
        word.truncate(word.floor_char_boundary(SHOWN));
        word.push('…');
    }
    word
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

/// Returns whether a name says that its value is a secret.
fn names_secret(name: &str) -> bool {
    let name = name.trim_start_matches('-').to_ascii_lowercase();
    let last = name.rsplit(['-', '_', '.']).next().unwrap_or_default();
    if name == last && NOT.contains(&last) || name != last && last != "pwd" && NOT.contains(&last) {
        return false;
    }
    PARTS.iter().any(|part| name.contains(part)) || ENDS.contains(&last)
}

fn hide(hidden: &mut Vec<Range<usize>>, range: Range<usize>) {
    if !range.is_empty() {
        hidden.push(range);
    }
}

/// `scheme://user:secret@host`, and what stands alone before the `@` of a web address.
fn urls(text: &str, hidden: &mut Vec<Range<usize>>) {
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let ends = |c: char| c.is_whitespace() || "/?#\"'`<>".contains(c);
        let end = text[start..].find(ends).map_or(text.len(), |end| start + end);
        let Some(user) = text[start..end].rfind('@').map(|length| start..start + length) else {
            continue;
        };
        let is_web = text[..at].ends_with("http") || text[..at].ends_with("https");
        match text[user.clone()].find(':') {
            Some(colon) => hide(hidden, user.start + colon + 1..user.end),
            None if is_web => hide(hidden, user),
            None => {}
        }
    }
}

/// Tokens that show by their beginnings.
fn tokens(text: &str, hidden: &mut Vec<Range<usize>>) {
    for begins in TOKENS {
        for (at, _) in text.match_indices(begins) {
            let is_inside = text.as_bytes()[..at].last().copied().is_some_and(is_name);
            let start = at + begins.len();
            let rest = text[start..].bytes().position(|byte| !is_name(byte));
            let end = rest.map_or(text.len(), |length| start + length);
            if !is_inside && end - start >= TOKEN_REST {
                hide(hidden, start..end);
            }
        }
    }
}

/// Names with their values: `PASSWORD=…`, `--token …`, `"secret": "…"`, `Authorization: …`, `Bearer …`.
fn names(text: &str, hidden: &mut Vec<Range<usize>>) {
    let bytes = text.as_bytes();
    let skip = |mut at: usize, what: &[u8]| {
        while bytes.get(at).is_some_and(|byte| what.contains(byte)) {
            at += 1;
        }
        at
    };
    let mut at = 0;
    while at < bytes.len() {
        if !is_name(bytes[at]) {
            at += 1;
            continue;
        }
        let length = bytes[at..].iter().position(|byte| !is_name(*byte));
        let end = length.map_or(bytes.len(), |length| at + length);
        let (name, name_at) = (&text[at..end], at);
        let plain = name.to_ascii_lowercase();
        let is_header = HEADERS.contains(&plain.strip_prefix("-h").unwrap_or(&plain));
        at = end;
        // What begins behind a blank with a backslash is the rest of a word of a shell.
        let value = |start: usize, is_line| match bytes[start..].starts_with(b"\\ ") {
            true => word_of_shell(text, start),
            false => value(text, start, is_line),
        };
        if plain == "bearer" {
            hide(hidden, value(skip(end, b" "), false));
            continue;
        }
        if !is_header && !names_secret(name) {
            continue;
        }
        let behind = skip(skip(end_of_name(text, end), b"\\\"'"), b" \t");
        let sign = skip(behind, b":=");
        let start = skip(sign, b" \t");
        let has_value = match sign > behind {
            true => true,
            // An option has its value behind a space.
            false => is_option(name) && start > end && bytes.get(start) != Some(&b'-'),
        };
        if has_value && start < bytes.len() {
            let is_assigned = start == sign && bytes[sign - 1] == b'=' && !is_header;
            // Of a file in a line, such as YAML.
            let is_line = text[..name_at].ends_with('\n') && bytes[sign - 1] == b':';
            let range = match (is_assigned, is_option(name) && open_quote(&text[..end]).is_none()) {
                (true, _) => value_of_assignment(text, name_at, start),
                (false, true) => word_of_shell(text, start),
                (false, false) => value(start, is_header || is_line),
            };
            // What is hidden is not looked at again, nor taken for a name.
            at = range.end.max(end);
            hide(hidden, range);
        }
    }
}

/// Options of one letter, in a line for a shell.
fn options(text: &str, hidden: &mut Vec<Range<usize>>) {
    let mut shorts = Shorts::default();
    let mut at = 0;
    for piece in text.split_ascii_whitespace() {
        // Pieces come in their order.
        let start = text[at..].find(piece).map_or(at, |found| at + found);
        at = start + piece.len();
        let plain = piece.trim_start_matches(['"', '\'', '(', '`', '$']);
        let skipped = piece.len() - plain.len();
        if let Some(from) = shorts.see(plain) {
            let from = start + skipped + from;
            // The quotes of a whole word hold it together.
            let begin = if from == start + skipped { start } else { from };
            hide(
                hidden,
                match open_quote(&text[..start]) {
                    None => word_of_shell(text, begin),
                    Some(_) => value(text, begin, false),
                },
            );
        }
    }
}

/// Private keys as they are in files, and passwords as openssl(1) takes them.
fn keys(text: &str, hidden: &mut Vec<Range<usize>>) {
    if let Some(at) = text.find("PRIVATE KEY-----") {
        hide(hidden, at + 16..text.rfind("-----END").filter(|end| *end > at).unwrap_or(text.len()));
    }
    for (at, begins) in text.match_indices("pass:") {
        if !text.as_bytes()[..at].last().copied().is_some_and(is_name) {
            hide(hidden, value(text, at + begins.len(), false));
        }
    }
}

/// Looks for the options of one letter, word by word.
#[derive(Debug, Default)]
struct Shorts {
    /// The program that words are for now.
    program: String,
    /// The next word is a secret.
    next: bool,
    /// The next word is a name, as in `config set NAME VALUE`.
    names: bool,
}

impl Shorts {
    /// Returns from where on a word is a secret.
    fn see(&mut self, word: &str) -> Option<usize> {
        if std::mem::take(&mut self.next) {
            return Some(0);
        }
        if !is_option(word) {
            let base = word.rsplit('/').next().unwrap_or_default();
            if SHORT.iter().any(|(program, ..)| *program == base) {
                base.clone_into(&mut self.program);
            }
            self.next = self.names && !word.contains('=') && names_secret(word);
            self.names = word == "set";
            return None;
        }
        for (program, option, may_be_next) in SHORT {
            if program != self.program || !word.starts_with(option) {
                continue;
            }
            if word.len() == option.len() {
                self.next = may_be_next;
            } else if !option.starts_with("--") {
                return Some(option.len());
            } else if word[option.len()..].starts_with('=') {
                return Some(option.len() + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> String {
        let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        argv(&words).join(" ")
    }

    #[test]
    fn what_looks_like_a_secret_is_masked() {
        for (words, expected) in [
            (&["mysql", "-u", "root", "-phunter2"][..], "mysql -u root -p***"),
            (&["app", "--password", "hunter2", "x"], "app --password *** x"),
            (&["app", "--password=hun ter2"], "app --password=***"),
            (&["env", "DB_PASSWORD=hun ter2", "app"], "env DB_PASSWORD=*** app"),
            (&["docker", "run", "-e", "API_TOKEN=hunter2", "i"], "docker run -e API_TOKEN=*** i"),
            (&["docker", "run", "--env=API_TOKEN=hunter2"], "docker run --env=API_TOKEN=***"),
            (&["docker", "login", "-u", "me", "-p", "hunter2"], "docker login -u me -p ***"),
            (&["git", "clone", "https://me:hunter2@h/r"], "git clone https://me:***@h/r"),
            (&["git", "clone", "https://hunter2@h/r"], "git clone https://***@h/r"),
            (&["git", "clone", "ssh://git@h/r"], "git clone ssh://git@h/r"),
            (&["curl", "-u", "me:hunter2", "h"], "curl -u *** h"),
            (&["curl", "-H", "Authorization: Bearer hunter2"], "curl -H Authorization: ***"),
            (&["curl", "https://h/?a=1&token=hunter2&b=2"], "curl https://h/?a=1&token=***&b=2"),
            (
                &["curl", "-d", "{\"password\": \"hunter2\", \"a\": 1}"],
                "curl -d {\"password\": \"***\", \"a\": 1}",
            ),
            (&["sh", "-c", "PGPASSWORD=hunter2 psql"], "sh -c PGPASSWORD=*** psql"),
            (&["sh", "-c", "A_TOKEN=hunter2; rm -f /x"], "sh -c A_TOKEN=***; rm -f /x"),
            (&["bash", "-lc", "PASSWORD='hun ter2' id -u"], "bash -lc PASSWORD='***' id -u"),
            (&["sh", "-c", "PASS=a\"hun ter2\"'x y' id"], "sh -c PASS=*** id"),
            (&["sh", "-c", "PASS=hun\\ ter2 id; uname"], "sh -c PASS=*** id; uname"),
            (&["sh", "-c", "PASS='hunter2"], "sh -c PASS=***"),
            (&["bash", "-c", "--", "A_TOKEN=hunter2; id"], "bash -c -- A_TOKEN=***; id"),
            (&["bash", "-cx", "A_TOKEN=hunter2; id"], "bash -cx A_TOKEN=***; id"),
            (&["bash", "-c", "-x", "A_TOKEN=hunter2; id"], "bash -c -x A_TOKEN=***; id"),
            (&["su", "-c", "A_TOKEN=hunter2 id", "root"], "su -c A_TOKEN=*** id root"),
            (&["sh", "-c", "env 'A_TOKEN=hun ter2' id"], "sh -c env 'A_TOKEN=***' id"),
            (
                &["sh", "-c", "echo \"it's\"; PASS=hun\\ ter2 id"],
                "sh -c echo \"it's\"; PASS=*** id",
            ),
            (&["sh", "-c", "echo it\\'s; PASS=a\"hun ter2\" id"], "sh -c echo it\\'s; PASS=*** id"),
            (&["sh", "-c", "# don't\nPASS=\"hun\\\"ter2 x\" id"], "sh -c # don't\nPASS=\"***\" id"),
            (&["bash", "-c", "PASS=$'it\\'s hunter2' id"], "bash -c PASS=*** id"),
            (
                &["bash", "-c", "PASS+=hunter2; PASS[0]=hunter2; id"],
                "bash -c PASS+=***; PASS[0]=***; id",
            ),
            (&["bash", "-c", "PASS=(hunter2 ter2); id"], "bash -c PASS=***; id"),
            (&["bash", "-c", "PASS=$(echo hunter2) id"], "bash -c PASS=*** id"),
            (&["bash", "-c", "PASS=`echo hunter2` id"], "bash -c PASS=*** id"),
            (&["bash", "-c", "PASS=\"$(echo \"hun ter2\")\" id"], "bash -c PASS=*** id"),
            (&["bash", "-c", "PASS=${X:-hun ter2} id"], "bash -c PASS=*** id"),
            (&["sh", "-c", "app --password hun\\ ter2 id"], "sh -c app --password *** id"),
            (&["sh", "-c", "app --password ab'hun ter2' id"], "sh -c app --password *** id"),
            (&["sh", "-c", "mysql -phun\\ ter2 db"], "sh -c mysql -p*** db"),
            (&["echo", "{\"secret\": \"a\\\"b hunter2\"}"], "echo {\"secret\": \"***\"}"),
            (
                &["bash", "-c", "sh -c \"PASS=\\\"hun ter2\\\" id\""],
                "bash -c sh -c \"PASS=\\\"***\\\" id\"",
            ),
            (
                &["sh", "-c", "cat <<E\ndb_password: hun ter2\nE"],
                "sh -c cat <<E\ndb_password: ***\nE",
            ),
            (&["sh", "-c", "curl -u \"me:hun ter2\" h"], "sh -c curl -u \"***\" h"),
            (&["sh", "-c", "sh -c \"curl -u 'me:hun ter2' h\""], "sh -c sh -c \"curl -u '***' h\""),
            (&["sh", "-c", "curl --proxy-user 'me:hun ter2' h"], "sh -c curl --proxy-user '***' h"),
            (
                &["sh", "-c", "curl -HAuthorization:\\ Bearer\\ hunter2 h"],
                "sh -c curl -HAuthorization:*** h",
            ),
            (&["sh", "-c", "curl -H X:\\ Bearer\\ hunter2 h"], "sh -c curl -H X:\\ Bearer*** h"),
            (&["keytool", "-storepass", "hunter2", "-list"], "keytool -storepass *** -list"),
            (&["curl", "-b", "sid=hunter2", "h"], "curl -b *** h"),
            (&["sh", "-c", "unzip -P 'hun ter2' x"], "sh -c unzip -P '***' x"),
            (&["smbclient", "--user=u%hunter2", "h"], "smbclient --user=*** h"),
            (
                &["aws", "configure", "set", "aws_secret_access_key", "hunter2"],
                "aws configure set aws_secret_access_key ***",
            ),
            (
                &["sh", "-c", "npm config set //r/:_authToken hunter2; id"],
                "sh -c npm config set //r/:_authToken ***; id",
            ),
            (&["env", "GITHUB_PAT=hunter2", "id"], "env GITHUB_PAT=*** id"),
            (&["sh", "-c", "sh -c 'TOKEN=hunter2; id'"], "sh -c sh -c 'TOKEN=***; id'"),
            (
                &["sh", "-c", "cd /x; PGPASSWORD='hun ter2' psql"],
                "sh -c cd /x; PGPASSWORD='***' psql",
            ),
            (&["sh", "-c", "x && mysql -p'hun ter2' db"], "sh -c x && mysql -p'***' db"),
            (&["sh", "-c", "export TOKEN=hunter2; ls"], "sh -c export TOKEN=***; ls"),
            (&["sh", "-c", "app --token hunter2 --x"], "sh -c app --token *** --x"),
            (&["app", "ghp_0123456789abcdefhunter2"], "app ghp_***"),
            (&["openssl", "enc", "-pass", "pass:hunter2"], "openssl enc -pass ***"),
            (&["sshpass", "-p", "hunter2", "ssh", "h"], "sshpass -p *** ssh h"),
            (
                &["echo", "-----BEGIN X PRIVATE KEY-----\nhunter2\n-----END X"],
                "echo -----BEGIN X PRIVATE KEY-----***-----END X",
            ),
        ] {
            assert_eq!(shown(words), expected);
        }
    }

    #[test]
    fn the_rest_stays_as_it_is() {
        for words in [
            &["ls", "-la", "/srv/app"][..],
            &["app", "--password-file", "/run/secret", "--password-stdin", "x"],
            &["env", "PWD=/srv", "OLDPWD=/", "LANG=C", "printenv", "PATH"],
            &["sh", "-c", "pwd; echo $PASSWORD | wc -c; grep token: /x/*.c"],
            &["mysql", "-u", "root", "-p", "db"],
            &["mkdir", "-p", "a/b"],
            &["scp", "me@host:/a", "b"],
            &["docker", "pull", "h:5000/i@sha256:0123456789abcdef0123456789abcdef"],
            &["kill", "-9", "17", ""],
        ] {
            let expected = words.join(" ");
            let shown = shown(words);
            // A pattern behind "token:" may be one, who knows.
            if !words.iter().any(|word| word.contains("token:")) {
                assert_eq!(shown, expected);
            }
        }
    }

    #[test]
    fn whatever_a_line_is_made_of_it_is_shown() {
        const PIECES: [&str; 24] = [
            "PASS",
            "=",
            "+=",
            "[0]",
            "'",
            "\"",
            "\\",
            "$",
            "(",
            ")",
            "{",
            "}",
            "`",
            "#",
            " ",
            "\n",
            ";",
            "é",
            "\u{1f600}",
            "--token",
            ":",
            "-p",
            "mysql ",
            "x",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let line: String =
                (0..random.usize(0..16)).map(|_| PIECES[random.usize(0..24)]).collect();
            // It does not panic in the middle of a letter.
            argv(&[b"sh".to_vec(), b"-c".to_vec(), line.into_bytes()]);
        }
    }

    #[test]
    fn a_long_word_is_cut_once_it_is_masked() {
        let long = format!("{}é", "x".repeat(SHOWN - 1));
        assert_eq!(argv(&[long.into_bytes()]), [format!("{}…", "x".repeat(SHOWN - 1))]);
        let long = format!("a=1&token={}&b", "s".repeat(3000));
        assert_eq!(argv(&[long.into_bytes()]), ["a=1&token=***&b"]);
        // Not text, and no end of a quote.
        assert_eq!(argv(&[b"\xff password='x".to_vec()]), ["\u{fffd} password=***"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_looked_at(text in ".{0,200}", words in proptest::collection::vec("[ -=:'\"a-z/@]{0,20}", 0..6)) {
            super::text(&text);
            argv(&words.iter().map(|word| format!("--token{word}password {word}").into_bytes()).collect::<Vec<_>>());
        }
    }
}
