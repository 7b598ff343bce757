//! Inline commands: a line of words, as typed into a terminal, with Redis's quoting rules.

use bytes::Bytes;

/// Splits a line into words. Double quotes allow `\n`, `\r`, `\t`, `\b`, `\a`, `\xHH` and an escaped byte;
/// single quotes allow `\'` only. `None` if quotes are unbalanced or a closing quote has no space behind it.
pub(super) fn split(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let (word, behind) = word(rest)?;
        words.push(Bytes::from(word));
        rest = behind.trim_ascii_start();
    }
    Some(words)
}

fn word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        rest = match rest {
            [] => return Some((word, rest)),
            [byte, ..] if byte.is_ascii_whitespace() => return Some((word, rest)),
            [b'"', behind @ ..] => double_quoted(behind, &mut word)?,
            [b'\'', behind @ ..] => single_quoted(behind, &mut word)?,
            [byte, behind @ ..] => {
                word.push(*byte);
                behind
            }
        };
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, behind) = match rest {
            [] => return None,
            [b'\\', b'x', high, low, behind @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_digit(*high) << 4 | hex_digit(*low), behind)
            }
            [b'\\', escaped, behind @ ..] => (unescape(*escaped), behind),
            [b'"', behind @ ..] => return ends_word(behind),
            [byte, behind @ ..] => (*byte, behind),
        };
        word.push(byte);
        rest = behind;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, behind) = match rest {
            [] => return None,
            [b'\\', b'\'', behind @ ..] => (b'\'', behind),
            [b'\'', behind @ ..] => return ends_word(behind),
            [byte, behind @ ..] => (*byte, behind),
        };
        word.push(byte);
        rest = behind;
    }
}

/// A closing quote must be followed by a space or by nothing.
fn ends_word(behind: &[u8]) -> Option<&[u8]> {
    behind.first().is_none_or(u8::is_ascii_whitespace).then_some(behind)
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<Vec<u8>>> {
        Some(split(line.as_bytes())?.iter().map(|word| word.to_vec()).collect())
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(words("  set a  b "), Some(vec![b"set".to_vec(), b"a".to_vec(), b"b".to_vec()]));
        assert_eq!(words(r#""a b" 'c d'"#), Some(vec![b"a b".to_vec(), b"c d".to_vec()]));
        assert_eq!(words(r#""\x00\xfF\n\"""#), Some(vec![vec![0, 0xff, b'\n', b'"']]));
        assert_eq!(words(r"'it\'s \n'"), Some(vec![br"it's \n".to_vec()]));
        assert_eq!(words(r#""""#), Some(vec![vec![]]));
        assert_eq!(words(r#"a"b""#), Some(vec![b"ab".to_vec()]));
        assert_eq!(words(""), Some(vec![]));
        assert_eq!(words("a\0 \0"), Some(vec![b"a\0".to_vec(), vec![0]]));
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [r#""a"#, "'a", r#""a"b"#, r"'a'b", r#""a\""#, "'\\'"] {
            assert_eq!(words(line), None, "{line}");
        }
    }
}
