//! Redis glob patterns (`KEYS`, `SCAN MATCH`, `CONFIG GET`): `*`, `?`, `[a-z]`, `[^a-z]`, and a backslash in
//! front of what is meant literally.

/// Whether all of `text` matches `pattern`. Takes at most pattern × text steps, whatever the pattern.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern_rest, mut text_rest) = (pattern, text);
    // Where to go back to: the pattern behind the last star, and the text from which it was tried last.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', behind)) = pattern_rest.split_first() {
            if behind.is_empty() {
                return true;
            }
            retry = Some((behind, text_rest));
            pattern_rest = behind;
            continue;
        }
        if let Some((&byte, rest)) = text_rest.split_first() {
            if let Some(behind) = match_one(pattern_rest, byte) {
                (pattern_rest, text_rest) = (behind, rest);
                continue;
            }
        } else if pattern_rest.is_empty() {
            return true;
        }
        // The last star takes one byte more; with no star, or nothing left for it to take, nothing matches.
        let Some((behind, from)) = retry else { return false };
        let Some((_, from)) = from.split_first() else { return false };
        retry = Some((behind, from));
        (pattern_rest, text_rest) = (behind, from);
    }
}

/// The bytes with which every match of `pattern` begins.
pub(super) fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or(pattern)
}

/// Matches one byte against the first element of a pattern that does not begin with a star, and returns the
/// pattern behind that element.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => match_class(rest, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
    }
}

/// Matches one byte against a class; `pattern` begins behind the opening bracket. A class that is not
/// closed ends with the pattern, as in Redis.
fn match_class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut found = false;
    loop {
        match rest {
            [b'\\', literal, behind @ ..] => {
                found |= *literal == byte;
                rest = behind;
            }
            [b']', behind @ ..] => {
                rest = behind;
                break;
            }
            [from, b'-', to, behind @ ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest = behind;
            }
            [literal, behind @ ..] => {
                found |= *literal == byte;
                rest = behind;
            }
            [] => break,
        }
    }
    (found != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} on {text:?}");
    }

    #[test]
    fn redis_examples() {
        for text in ["hello", "hallo", "hxllo"] {
            check("h?llo", text, true);
        }
        check("h*llo", "hllo", true);
        check("h*llo", "heeeello", true);
        check("h[ae]llo", "hallo", true);
        check("h[ae]llo", "hillo", false);
        check("h[^e]llo", "hallo", true);
        check("h[^e]llo", "hello", false);
        check("h[a-b]llo", "hbllo", true);
        check("h[b-a]llo", "hallo", true);
        check("h\\*llo", "h*llo", true);
        check("h\\*llo", "hello", false);
    }

    #[test]
    fn edges() {
        check("", "", true);
        check("", "a", false);
        check("*", "", true);
        check("**", "abc", true);
        check("a*b*c", "axbxbxc", true);
        check("a*b*c", "axbxbx", false);
        check("[", "[", false);
        check("[a", "a", true);
        check("[]a", "a", false);
        check("[a\\]]", "]", true);
        check("a\\", "a\\", true);
        check("?", "", false);
        assert!(matches(b"\xff*\x00", b"\xffabc\x00"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(1000) + "b";
        check(&pattern, &"a".repeat(10_000), false);
    }

    #[test]
    fn the_literal_prefix_ends_at_the_first_special_byte() {
        assert_eq!(literal_prefix(b"user:*"), b"user:");
        assert_eq!(literal_prefix(b"user"), b"user");
        assert_eq!(literal_prefix(b"a\\*b"), b"a");
        assert_eq!(literal_prefix(b"[ab]"), b"");
    }
}
