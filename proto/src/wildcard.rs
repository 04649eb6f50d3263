//! Patterns of `*` and `?`, as in known_hosts (sshd(8)) and in the rules of policies; `occ host import` takes them, too.

/// Returns whether `text` matches a pattern of `*` (any run) and `?` (one byte). Takes at most the product
/// of the lengths, whatever the pattern: on a mismatch only the last `*` is widened.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
