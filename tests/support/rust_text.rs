//! Enough of Rust's syntax to read source files by rules: words without comments and literals, what is there
//! for tests only, paths, and functions with their lines. It is no parser: it takes for granted that the text compiles.

#![allow(
    clippy::indexing_slicing,
    clippy::unused_self,
    reason = "a test that reads past a file's words fails by panicking"
)]

use std::ops::Range;

/// An identifier, or one character of punctuation (but `::` and `!=` are one word each).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Word {
    fn is(&self, text: &str) -> bool {
        self.text == text
    }

    fn is_name(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// From the line of its `fn` to that of its closing brace.
    pub(crate) lines: usize,
}

/// One source file, taken apart.
pub(crate) struct CrateFile {
    text: String,
    words: Vec<Word>,
    production: Vec<Word>,
    /// The items that are there for tests only, as words of `words`.
    test_items: Vec<Range<usize>>,
}

impl CrateFile {
    pub(crate) fn new(text: &str) -> Self {
        let words = split(text);
        let test_items = test_items(&words);
        let is_production = |at: &usize| !test_items.iter().any(|item| item.contains(at));
        let production = (0..words.len()).filter(is_production).map(|at| words[at].clone()).collect();
        Self { text: text.to_owned(), words, production, test_items }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn words(&self) -> &[Word] {
        &self.words
    }

    /// The words that do not belong to an item under `#[cfg(test)]`.
    pub(crate) fn production_words(&self) -> &[Word] {
        &self.production
    }

    /// The number of lines but for those of items under `#[cfg(test)]`.
    pub(crate) fn production_lines(&self) -> usize {
        let line = |at: usize| self.words.get(at).map_or(0, |word| word.line);
        let test_lines = |item: &Range<usize>| line(item.end - 1) + 1 - line(item.start);
        self.text.lines().count() - self.test_items.iter().map(test_lines).sum::<usize>()
    }

    /// The modules without a body that are declared under `#[cfg(test)]`.
    pub(crate) fn test_modules(&self) -> impl Iterator<Item = &str> {
        self.test_items.iter().filter_map(|item| match &self.words[item.clone()] {
            [.., keyword, name, end] if keyword.is("mod") && end.is(";") => Some(name.text.as_str()),
            _ => None,
        })
    }

    /// Every function that has a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let starts =
            self.words.windows(2).enumerate().filter(|(_, pair)| pair[0].is("fn") && pair[1].is_name());
        starts
            .filter_map(|(at, pair)| {
                let body = self.end_of_signature(at)?;
                let end = matching(&self.words, body);
                let lines = self.words[end].line + 1 - pair[0].line;
                Some(Function { name: pair[1].text.clone(), line: pair[0].line, lines })
            })
            .collect()
    }

    /// The opening brace of the body of the function whose `fn` stands at `at`; none if it has no body.
    fn end_of_signature(&self, at: usize) -> Option<usize> {
        let mut at = at;
        loop {
            let word = self.words.get(at)?;
            match word.text.as_str() {
                "{" => return Some(at),
                ";" => return None,
                "(" | "[" => at = matching(&self.words, at) + 1,
                _ => at += 1,
            }
        }
    }

    /// What stands right below the crate's root in the paths among `words`: by `crate::` and by chains of
    /// `super::` that reach the root from a file `depth` modules below it.
    pub(crate) fn names_below_the_crate(&self, words: &[Word], depth: usize) -> Vec<(usize, String)> {
        let mut found = vec![];
        let mut at = 0;
        while at < words.len() {
            let supers = words[at..].chunks(2).take_while(|pair| is_step(pair, "super")).count();
            if is_step(&words[at..], "crate") {
                found.extend(heads(words, at + 2));
            } else if words[at].is("crate") && words.get(at + 1).is_some_and(|next| next.is("as")) {
                found.push((words[at].line, "*".to_owned()));
            } else if supers >= depth && supers >= depth + inline_depth(words, at) {
                found.extend(heads(words, at + 2 * supers));
            }
            // NOTE: `pub(crate)` and `extern crate` have no path behind them.
            at += (2 * supers).max(1);
        }
        found
    }

    /// The lines where `inner` of the crate `outer` is named.
    pub(crate) fn names_below(&self, words: &[Word], outer: &str, inner: &str) -> Vec<usize> {
        let starts =
            (0..words.len()).filter(|at| is_step(&words[*at..], outer) && !is_below_something(words, *at));
        let named = starts.flat_map(|at| heads(words, at + 2));
        named.filter(|(_, name)| name == inner).map(|(line, _)| line).collect()
    }

    /// The lines where a crate is named. A module of that name in the file stands before the crate.
    pub(crate) fn uses_of_crate(&self, words: &[Word], name: &str) -> Vec<usize> {
        if words.windows(2).any(|pair| pair[0].is("mod") && pair[1].is(name)) {
            return vec![];
        }
        let is_use = |at: usize| {
            let next = words.get(at + 1).map_or("", |word| &word.text);
            let before = at.checked_sub(1).map_or("", |before| &words[before].text);
            let in_use = in_top_of_use(words, at);
            words[at].is(name) && !is_below_something(words, at) && (next == "::" && before != "." || in_use)
        };
        (0..words.len()).filter(|at| is_use(*at)).map(|at| words[at].line).collect()
    }
}

/// Whether a path's first step is `name::`.
fn is_step(words: &[Word], name: &str) -> bool {
    matches!(words, [first, colons, ..] if first.is(name) && colons.is("::"))
}

/// Whether the path that begins at `at` goes on from another name, as in `other::name`.
fn is_below_something(words: &[Word], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|at| &words[at]);
    before(1).is_some_and(|word| word.is("::"))
        && before(2).is_some_and(|word| word.is_name() && !word.is("use"))
}

/// Whether the name at `at` begins a path of a `use`, alone or in the outermost braces.
fn in_top_of_use(words: &[Word], at: usize) -> bool {
    let mut back = words[..at].iter().rev().skip_while(|word| word.is("::"));
    match back.next() {
        Some(word) if word.is("use") => true,
        Some(word) if word.is("{") || word.is(",") => {
            let mut depth = i32::from(word.is("{"));
            for word in back {
                match word.text.as_str() {
                    "}" => depth -= 1,
                    "{" => depth += 1,
                    "use" => return depth == 1,
                    ";" | "=" | "(" => return false,
                    _ => {}
                }
                if depth == 1 && word.is("::") {
                    return false;
                }
            }
            false
        }
        _ => false,
    }
}

/// The first names of the paths that go on at `at`: one, or one for each branch in braces.
fn heads(words: &[Word], at: usize) -> Vec<(usize, String)> {
    let Some(first) = words.get(at) else { return vec![] };
    if !first.is("{") {
        return vec![(first.line, first.text.clone())];
    }
    let end = matching(words, at);
    let mut found = vec![];
    let mut at = at + 1;
    while at < end {
        found.push((words[at].line, words[at].text.clone()));
        while at < end && !words[at].is(",") {
            at = if words[at].is("{") { matching(words, at) } else { at } + 1;
        }
        at += 1;
    }
    found.retain(|(_, name)| name != "self");
    found
}

/// In how many modules with a body of this file the word at `at` stands.
fn inline_depth(words: &[Word], at: usize) -> usize {
    let mut depth = 0;
    for (start, three) in words[..at].windows(3).enumerate() {
        let is_module = three[0].is("mod") && three[1].is_name() && three[2].is("{");
        depth += usize::from(is_module && matching(words, start + 2) > at);
    }
    depth
}

/// The place of the bracket that closes the one at `open`, or the last word.
fn matching(words: &[Word], open: usize) -> usize {
    let mut depth = 0_i32;
    for (at, word) in words.iter().enumerate().skip(open) {
        match word.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    words.len() - 1
}

/// The items under `#[cfg(test)]` (also inside `all(..)`), with their attributes.
fn test_items(words: &[Word]) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = vec![];
    let mut at = 0;
    while at < words.len() {
        let start = at;
        let mut is_test = false;
        while words[at].is("#") && words.get(at + 1).is_some_and(|next| next.is("[")) {
            let end = matching(words, at + 1);
            is_test |= is_cfg_test(&words[at + 2..end]);
            at = (end + 1).min(words.len() - 1);
            if at == words.len() - 1 {
                break;
            }
        }
        if !is_test {
            at += 1;
            continue;
        }
        while !words[at].is(";") && !words[at].is("{") && at + 1 < words.len() {
            at = if words[at].is("(") || words[at].is("[") { matching(words, at) } else { at } + 1;
        }
        if words[at].is("{") {
            at = matching(words, at);
            // NOTE: the braces of a `use` end with a semicolon of their own.
            at += usize::from(words.get(at + 1).is_some_and(|next| next.is(";")));
        }
        at += 1;
        items.push(start..at);
    }
    items
}

fn is_cfg_test(attribute: &[Word]) -> bool {
    let names: Vec<_> =
        attribute.iter().filter(|word| word.is_name()).map(|word| word.text.as_str()).collect();
    names.first() == Some(&"cfg")
        && names.contains(&"test")
        && !names.contains(&"not")
        && !names.contains(&"any")
}

/// The words of a text without comments and literals.
fn split(text: &str) -> Vec<Word> {
    let mut rest = Rest { chars: text.chars().collect(), at: 0, line: 1 };
    let mut words = vec![];
    while let Some(next) = rest.peek(0) {
        let line = rest.line;
        if rest.skip_comment() || rest.skip_literal() {
            continue;
        }
        let is_name = |char: char| char.is_alphanumeric() || char == '_';
        let mut text = String::from(next);
        rest.skip(1);
        if is_name(next) {
            while let Some(more) = rest.peek(0).filter(|char| is_name(*char)) {
                text.push(more);
                rest.skip(1);
            }
        } else if let Some(second) =
            rest.peek(0).filter(|second| matches!((next, *second), (':', ':') | ('!', '=')))
        {
            text.push(second);
            rest.skip(1);
        }
        if !next.is_whitespace() {
            words.push(Word { text, line });
        }
    }
    words
}

/// What of a text is still to be read.
struct Rest {
    chars: Vec<char>,
    at: usize,
    line: usize,
}

impl Rest {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn begins(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, char)| self.peek(ahead) == Some(char))
    }

    fn skip(&mut self, count: usize) {
        let end = (self.at + count).min(self.chars.len());
        self.line += self.chars[self.at..end].iter().filter(|char| **char == '\n').count();
        self.at = end;
    }

    fn skip_past(&mut self, end: &str) {
        while self.peek(0).is_some() && !self.begins(end) {
            self.skip(1);
        }
        self.skip(end.len());
    }

    fn skip_comment(&mut self) -> bool {
        if self.begins("//") {
            while self.peek(0).is_some_and(|char| char != '\n') {
                self.skip(1);
            }
            return true;
        }
        if !self.begins("/*") {
            return false;
        }
        let mut depth = 0_usize;
        loop {
            if self.begins("/*") {
                depth += 1;
                self.skip(2);
            } else if self.begins("*/") {
                depth -= 1;
                self.skip(2);
            } else {
                self.skip(1);
            }
            if depth == 0 || self.peek(0).is_none() {
                return true;
            }
        }
    }

    fn skip_literal(&mut self) -> bool {
        for prefix in ["", "b", "c"] {
            if self.begins(&format!("{prefix}\"")) {
                self.skip(prefix.len() + 1);
                self.skip_quoted('"');
                return true;
            }
            let hashes = (0..256).take_while(|n| self.peek(prefix.len() + 1 + n) == Some('#')).count();
            if self.begins(&format!("{prefix}r{}\"", "#".repeat(hashes))) {
                self.skip(prefix.len() + 2 + hashes);
                self.skip_past(&format!("\"{}", "#".repeat(hashes)));
                return true;
            }
        }
        let quote = usize::from(self.begins("b'"));
        // NOTE: 'x' and '\n' are characters; 'x without a second quote is a lifetime.
        if self.peek(quote) == Some('\'')
            && (self.peek(quote + 1) == Some('\\') || self.peek(quote + 2) == Some('\''))
        {
            self.skip(quote + 1);
            self.skip_quoted('\'');
            return true;
        }
        false
    }

    fn skip_quoted(&mut self, end: char) {
        while let Some(char) = self.peek(0) {
            self.skip(if char == '\\' { 2 } else { 1 });
            if char == end {
                return;
            }
        }
    }
}
