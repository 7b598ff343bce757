//! The house rules that no compiler checks, read off `src/` itself: imports go downward only, some crates are
//! named in one place only, files and functions stay small, every file says what it is, nothing is left undone.
//!
//! Each rule is a pure function over a file's text, and each is shown to find a violation planted in a string.

#[path = "support/rust_text.rs"]
mod rust_text;

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use rust_text::{CrateFile, Word};

/// The modules from top to bottom; those of one row do not stand above each other.
const ORDER: &[&[&str]] = &[
    &["cli"],
    &["server"],
    &["settings"],
    &["node"],
    &["tree"],
    &["memtable"],
    &["wal"],
    &["table"],
    &["codec"],
    &["storage"],
    &["memory"],
    &["entry", "error", "key", "ids", "range_delete", "waiting"],
];

/// What ties everything together may name everything.
const EXEMPT: &[&str] = &["lib.rs", "main.rs"];

const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 70;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.path, self.line, self.message)
    }
}

/// A file and what of it is production code.
struct Source {
    /// Below `src/`, with slashes.
    path: String,
    file: CrateFile,
    /// Whether all of the file is for tests only.
    is_test: bool,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), file: CrateFile::new(text), is_test: path.ends_with("_test.rs") }
    }

    fn at(&self, line: usize, message: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, message: message.into() }
    }

    fn is_exempt(&self) -> bool {
        EXEMPT.contains(&self.path.as_str())
    }

    /// The words of the file's production code.
    fn production(&self) -> &[Word] {
        if self.is_test { &[] } else { self.file.production_words() }
    }

    /// The first name of the file's place below the crate: `node` for `node/mod.rs`.
    fn top_module(&self) -> &str {
        let top = self.path.split('/').next().unwrap_or_default();
        top.strip_suffix(".rs").unwrap_or(top)
    }

    /// How many modules the file lies below the crate's root.
    fn depth(&self) -> usize {
        let names = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { names - 1 } else { names }
    }

    /// The path of the file of a module that this file declares without a body.
    fn child_path(&self, module: &str) -> String {
        let dir = match self.path.rsplit_once('/') {
            Some((dir, "mod.rs")) => dir.to_owned(),
            _ => self.path.strip_suffix(".rs").unwrap_or_default().to_owned(),
        };
        let dir = if self.is_exempt() { String::new() } else { dir + "/" };
        format!("{dir}{module}")
    }
}

/// Marks the files that others include for tests only.
fn mark_test_files(sources: &mut [Source]) {
    let test_modules: BTreeSet<String> = sources
        .iter()
        .flat_map(|source| source.file.test_modules().map(|module| source.child_path(module)))
        .collect();
    for source in sources {
        let module = source.path.strip_suffix(".rs").unwrap_or_default();
        let module = module.strip_suffix("/mod").unwrap_or(module);
        source.is_test |= test_modules.contains(module);
    }
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&module))
}

/// Imports go downward only.
fn upward_imports(source: &Source) -> Vec<Violation> {
    if source.is_exempt() {
        return vec![];
    }
    let Some(own) = rank(source.top_module()) else {
        return vec![source.at(1, format!("the module {} has no place in the order", source.top_module()))];
    };
    let named = source.file.names_below_the_crate(source.production(), source.depth());
    let judge = |(line, module): (usize, String)| match rank(&module) {
        Some(other) if other >= own => None,
        Some(_) => {
            Some(source.at(line, format!("{} imports {module}, which stands above", source.top_module())))
        }
        None => Some(source.at(line, format!("crate::{module} is no module: name the module it lives in"))),
    };
    named.into_iter().filter_map(judge).collect()
}

/// actix only in the node and the servers, and in what the crate shows of them.
fn stray_actix(source: &Source) -> Vec<Violation> {
    if ["node", "server", "lib"].contains(&source.top_module()) {
        return vec![];
    }
    let actix = source.production().iter().filter(|word| word.text.starts_with("actix"));
    actix.map(|word| source.at(word.line, "actix outside node/ and server/")).collect()
}

/// The file system only in `storage/disk.rs`.
fn stray_fs(source: &Source) -> Vec<Violation> {
    if source.path == "storage/disk.rs" {
        return vec![];
    }
    let lines = source.file.names_below(source.production(), "std", "fs");
    lines.into_iter().map(|line| source.at(line, "std::fs outside storage/disk.rs")).collect()
}

/// The `config` crate only in the settings.
fn stray_config(source: &Source) -> Vec<Violation> {
    if source.top_module() == "settings" {
        return vec![];
    }
    let lines = source.file.uses_of_crate(source.production(), "config");
    lines.into_iter().map(|line| source.at(line, "the config crate outside settings/")).collect()
}

/// Who may wait without `waiting/`, where a simulation says how its threads wait: what a simulation replaces, and what
/// is no part of one.
const MAY_WAIT: &[&str] = &["node/executor.rs", "node/directory_lock.rs"];

/// Nobody else parks a thread.
fn stray_wait(source: &Source) -> Vec<Violation> {
    let is_beside = ["waiting", "server", "cli"].contains(&source.top_module());
    if is_beside || MAY_WAIT.contains(&source.path.as_str()) {
        return vec![];
    }
    let parks = |word: &&Word| ["pollster", "Condvar", "recv", "park"].contains(&word.text.as_str());
    let words = source.production().iter().filter(parks);
    words
        .map(|word| source.at(word.line, format!("{} outside waiting/: it has what waits", word.text)))
        .collect()
}

/// A file of production code is small.
fn long_file(source: &Source) -> Vec<Violation> {
    let lines = if source.is_test { 0 } else { source.file.production_lines() };
    if lines <= MAX_FILE_LINES {
        return vec![];
    }
    vec![source.at(1, format!("{lines} lines of production code, at most {MAX_FILE_LINES}: split it"))]
}

/// A function is small, in tests too.
fn long_functions(source: &Source) -> Vec<Violation> {
    let long = source.file.functions().into_iter().filter(|function| function.lines > MAX_FUNCTION_LINES);
    long.map(|function| {
        let (name, lines) = (function.name, function.lines);
        source.at(function.line, format!("{name} has {lines} lines, at most {MAX_FUNCTION_LINES}: split it"))
    })
    .collect()
}

/// A file says what lives in it.
fn missing_header(source: &Source) -> Vec<Violation> {
    let first = source.file.text().lines().next().unwrap_or_default();
    let says_something = first.strip_prefix("//!").is_some_and(|text| !text.trim().is_empty());
    if says_something { vec![] } else { vec![source.at(1, "no //! header in the first line")] }
}

/// Nothing is left undone, in tests neither.
fn unfinished(source: &Source) -> Vec<Violation> {
    let words = source.file.words();
    let calls = words.windows(2).filter_map(|pair| match pair {
        [name, bang] if bang.text == "!" && ["todo", "unimplemented"].contains(&name.text.as_str()) => {
            Some(name)
        }
        _ => None,
    });
    calls.map(|name| source.at(name.line, format!("{}!", name.text))).collect()
}

const RULES: &[fn(&Source) -> Vec<Violation>] = &[
    upward_imports,
    stray_actix,
    stray_fs,
    stray_config,
    stray_wait,
    long_file,
    long_functions,
    missing_header,
    unfinished,
];

fn all_violations(sources: &[Source]) -> Vec<Violation> {
    let mut found: Vec<_> =
        sources.iter().flat_map(|source| RULES.iter().flat_map(|rule| rule(source))).collect();
    found.sort();
    found
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src/ can be listed") {
        let path = entry.expect("src/ can be listed").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources_of_the_crate() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = vec![];
    rust_files(&root, &mut paths);
    let read = |path: &PathBuf| {
        let below =
            path.strip_prefix(&root).expect("the file lies in src/").to_string_lossy().replace('\\', "/");
        Source::new(&below, &fs::read_to_string(path).expect("source files are UTF-8"))
    };
    let mut sources: Vec<_> = paths.iter().map(read).collect();
    mark_test_files(&mut sources);
    sources
}

#[test]
fn src_keeps_the_house_rules() {
    let sources = sources_of_the_crate();
    let modules: BTreeSet<_> = sources.iter().map(Source::top_module).collect();
    let missing: Vec<_> =
        ORDER.iter().flat_map(|row| row.iter()).filter(|name| !modules.contains(**name)).collect();
    assert!(missing.is_empty(), "src/ is read wholly, but {missing:?} were not found");
    let functions: usize = sources.iter().map(|source| source.file.functions().len()).sum();
    assert!(
        functions > 5 * sources.len(),
        "only {functions} functions were found in {} files",
        sources.len()
    );

    let found = all_violations(&sources);
    let list: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} violations of the house rules:\n{}", found.len(), list.join("\n"));
}

/// The lines that a rule complains about in a file with this text.
#[track_caller]
fn lines(rule: fn(&Source) -> Vec<Violation>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).iter().map(|violation| violation.line).collect()
}

#[test]
fn an_upward_import_is_found_in_every_way_to_write_it() {
    let upward = |path, text| lines(upward_imports, path, text);
    assert_eq!(upward("tree/writer.rs", "//! x\nuse crate::node::Node;\n"), [2]);
    assert_eq!(upward("tree/writer.rs", "use crate::{\n  ids::SeqNo,\n  node::{self, Node},\n};\n"), [3]);
    assert_eq!(upward("tree/writer.rs", "fn f() {\n  crate :: node::go()\n}\n"), [2]);
    assert_eq!(upward("tree/writer.rs", "use super::super::node::Node;\n"), [1]);
    assert_eq!(
        upward("tree/compaction/run.rs", "use super::super::super::{\n wal::Frame,\n node::Node };\n"),
        [3]
    );
    assert_eq!(upward("tree/mod.rs", "use super::node;\n"), [1]);
    assert_eq!(upward("key.rs", "mod inner {\n  use super::super::storage::Storage;\n}\n"), [2]);
    assert_eq!(upward("tree/writer.rs", "macro_rules! m { () => { $crate::node::Node } }"), [1]);
    assert_eq!(upward("tree/writer.rs", "pub(in crate::node) fn f() {}"), [1]);
    assert_eq!(upward("wal/frame.rs", "use crate::memtable::Memtable;\n"), [1]);
    assert_eq!(
        upward("tree/writer.rs", "use crate::Node;\n"),
        [1],
        "a re-export of the root hides the module"
    );
    assert_eq!(upward("tree/writer.rs", "use crate::*;\n"), [1]);
    assert_eq!(upward("newcomer.rs", "//! x\n"), [1], "a module without a place in the order");
}

#[test]
fn downward_imports_and_mere_mentions_are_fine() {
    let upward = |path, text| lines(upward_imports, path, text);
    assert_eq!(upward("node/open.rs", "use crate::{tree::{Tree, node}, wal::WalOptions, key};\n"), []);
    assert_eq!(upward("key.rs", "use crate::error::Error;\nuse super::ids::SeqNo;\n"), []);
    assert_eq!(upward("tree/writer.rs", "use super::node::X;\n// use crate::node::Y;\n"), []);
    assert_eq!(
        upward("tree/a.rs", "/* crate::node /* nested */ */ /// crate::node::Z\nlet s = \"crate::node\";\n"),
        []
    );
    assert_eq!(
        upward("tree/a.rs", "let s = r#\"crate::node \" \"#; let c = '\"'; let d = '\\''; let e: &'a str;\n"),
        []
    );
    assert_eq!(upward("tree/a.rs", "#[cfg(test)]\nmod tests {\n  use crate::node::Node;\n}\n"), []);
    assert_eq!(upward("tree/a.rs", "#[cfg(test)]\nuse crate::node::Node;\nuse crate::wal::Frame;\n"), []);
    assert_eq!(upward("tree/a_test.rs", "use crate::node::Node;\n"), []);
    assert_eq!(upward("lib.rs", "pub use crate::node::Node;\n"), []);
    assert_eq!(upward("key.rs", "mod inner {\n  use super::super::error::Error;\n  use super::x;\n}\n"), []);
}

#[test]
fn a_test_module_in_a_file_of_its_own_is_no_production_code() {
    let mut sources = vec![
        Source::new("tree/mod.rs", "//! x\n#[cfg(test)]\nmod test_cursor;\npub mod writer;\n"),
        Source::new("tree/test_cursor.rs", "//! x\nuse crate::node::Node;\n"),
        Source::new("tree/writer.rs", "//! x\nuse crate::node::Node;\n"),
    ];
    mark_test_files(&mut sources);
    let found = all_violations(&sources);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].to_string(), "src/tree/writer.rs:2: tree imports node, which stands above");
}

#[test]
fn actix_fs_and_config_are_found_outside_their_places() {
    assert_eq!(lines(stray_actix, "tree/a.rs", "//! x\nuse actix::Addr;\n"), [2]);
    assert_eq!(lines(stray_actix, "settings/a.rs", "fn f() { actix_rt::spawn() }"), [1]);
    assert_eq!(lines(stray_actix, "node/a.rs", "use actix::Addr;\n"), []);
    assert_eq!(lines(stray_actix, "tree/a.rs", "#[cfg(feature = \"actix-api\")]\nfn f() {}\n"), []);

    assert_eq!(lines(stray_fs, "tree/a.rs", "use std::fs;\n"), [1]);
    assert_eq!(lines(stray_fs, "tree/a.rs", "use std::{\n  sync::Arc,\n  fs::{self, File},\n};\n"), [3]);
    assert_eq!(lines(stray_fs, "cli/a.rs", "fn f() {\n  std::fs::read(p);\n}\n"), [2]);
    assert_eq!(lines(stray_fs, "storage/disk.rs", "use std::fs;\n"), []);
    assert_eq!(lines(stray_fs, "tree/a.rs", "use std::{io, sync::fs};\nuse rustix::fs;\n"), []);
    assert_eq!(lines(stray_fs, "tree/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }\n"), []);

    assert_eq!(lines(stray_config, "node/a.rs", "use config::Config;\n"), [1]);
    assert_eq!(lines(stray_config, "node/a.rs", "fn f() {\n ::config::Config::new()\n}\n"), [2]);
    assert_eq!(lines(stray_config, "node/a.rs", "use {config as c, bytes::Bytes};\n"), [1]);
    assert_eq!(lines(stray_config, "settings/a.rs", "use config::Config;\n"), []);
    assert_eq!(
        lines(stray_config, "cli/a.rs", "use super::config::run;\nmod config;\nlet config = 1;\n"),
        []
    );
    assert_eq!(lines(stray_config, "cli/a.rs", "fn f() { self::config::run(); x.config(); }\n"), []);
    assert_eq!(lines(stray_config, "cli/a.rs", "mod config;\nfn f() {\n config::run() }\n"), []);
    assert_eq!(lines(stray_config, "cli/a.rs", "mod other;\nfn f() {\n config::run() }\n"), [3]);

    assert_eq!(lines(stray_wait, "node/a.rs", "fn f() {\n pollster::block_on(g())\n}\n"), [2]);
    assert_eq!(lines(stray_wait, "wal/a.rs", "use parking_lot::{\n Condvar, Mutex};\n"), [2]);
    assert_eq!(lines(stray_wait, "tree/a.rs", "fn f() {\n answers\n.recv() }\n"), [3]);
    assert_eq!(
        lines(stray_wait, "tree/a.rs", "async fn f() { answers.recv_async().await; answers.try_recv(); }\n"),
        []
    );
    assert_eq!(lines(stray_wait, "waiting/mod.rs", "fn f() { pollster::block_on(g()) }\n"), []);
}

#[test]
fn long_files_and_functions_are_found() {
    let padded = |before: &str, count: usize, after: &str| format!("{before}{}{after}", "x;\n".repeat(count));
    assert_eq!(lines(long_file, "tree/a.rs", &padded("", 400, "")), []);
    assert_eq!(lines(long_file, "tree/a.rs", &padded("", 401, "")), [1]);
    assert_eq!(lines(long_file, "tree/a_test.rs", &padded("", 401, "")), []);
    assert_eq!(
        lines(long_file, "tree/a.rs", &padded("fn f() {}\n#[cfg(test)]\nmod tests {\n", 500, "}\n")),
        []
    );
    let middle = padded("#[cfg(test)]\nmod tests { mod deep {} }\n", 401, "");
    assert_eq!(
        lines(long_file, "tree/a.rs", &middle),
        [1],
        "only the test module is left out, not what follows"
    );

    assert_eq!(lines(long_functions, "tree/a.rs", &padded("fn f() {\n", 68, "}\n")), []);
    assert_eq!(lines(long_functions, "tree/a.rs", &padded("fn f() {\n", 69, "}\n")), [1]);
    let with_where =
        padded("impl X {\n  fn g<T>(a: [u8; 3])\n  where T: Fn(u8) -> u8,\n  {\n", 67, "  }\n}\n");
    assert_eq!(lines(long_functions, "tree/a.rs", &with_where), [2]);
    let declared = padded("trait T {\n  fn f(&self) -> u8;\n}\nfn g() {\n", 60, "}\n");
    assert_eq!(lines(long_functions, "tree/a.rs", &declared), [], "a function without a body has no lines");
    assert_eq!(
        lines(long_functions, "tree/a.rs", &padded("type F = fn(u8) -> u8;\nstruct S {\n", 90, "}\n")),
        []
    );
    assert_eq!(
        lines(long_functions, "tree/a.rs", &padded("#[cfg(test)]\nmod t { fn f() {\n", 90, "} }")),
        [2]
    );
}

#[test]
fn a_missing_header_and_unfinished_code_are_found() {
    assert_eq!(lines(missing_header, "tree/a.rs", "//! What lives here.\n"), []);
    assert_eq!(lines(missing_header, "tree/a.rs", ""), [1]);
    assert_eq!(lines(missing_header, "tree/a.rs", "//!\nfn f() {}\n"), [1]);
    assert_eq!(lines(missing_header, "tree/a.rs", "use x;\n//! late\n"), [1]);
    assert_eq!(lines(missing_header, "tree/a.rs", "// not a header\n"), [1]);

    assert_eq!(lines(unfinished, "tree/a.rs", "fn f() {\n  todo!()\n}\n"), [2]);
    assert_eq!(lines(unfinished, "tree/a.rs", "fn f() { unimplemented!(\"later\") }\n"), [1]);
    assert_eq!(lines(unfinished, "tree/a.rs", "// todo!()\nlet todo = \"todo!\";\nif todo != 1 {}\n"), []);
}
