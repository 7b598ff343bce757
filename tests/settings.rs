//! Whatever stands in `shards.toml` or the environment, the settings either mean what they say or are refused
//! with an error that names the place, the field, what was found and what to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its scene has failed")]

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt, path::PathBuf, time::Duration};

use dbex::{
    CompactionStrategy, Compression, Durability, Error, ErrorKind, IoBudget, Loaded, LogFormat, LogLevel,
    NodeOptions, Settings,
};
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;

/// Reads a file with this content and these variables.
fn read(content: impl AsRef<[u8]>, variables: &[(&str, &str)]) -> Result<Settings, Error> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("shards.toml");
    fs::write(&path, content).unwrap();
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Loaded::read(Some(&path), variables)?.check()
}

/// The error's text without the directory, and with its kind checked.
#[track_caller]
fn refused(content: impl AsRef<[u8]>) -> String {
    text(&read(content, &[]).unwrap_err())
}

#[track_caller]
fn refused_variable(name: &str, value: &str) -> String {
    text(&read("[node]\n", &[(name, value)]).unwrap_err())
}

#[track_caller]
fn text(error: &Error) -> String {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let text = error.to_string();
    text.split_inclusive('\n').map(|line| &line[line.find("shards.toml").unwrap_or(0)..]).collect()
}

#[test]
fn the_file_in_the_repository_is_the_default() {
    assert_eq!(read(Settings::TEMPLATE, &[]).unwrap(), Settings::default());
    assert_eq!(Loaded::read(None, []).unwrap().check().unwrap(), Settings::default());
    assert_eq!(NodeOptions::from(Settings::default()), NodeOptions::default());
}

#[test]
fn the_file_in_the_repository_has_every_field() {
    // `to_toml` goes through the table of all fields; each stands in the file, set or as a comment.
    let printed = Loaded::read(None, []).unwrap().to_toml();
    let mut fields = 0;
    for line in printed.lines() {
        let name = line.trim_start_matches("# ").split([' ', '=']).next().unwrap();
        let known =
            line.starts_with('[') || name.is_empty() || Settings::TEMPLATE.contains(&format!("{name} ="));
        // Passwords do not belong in the file.
        assert!(known || name == "password", "{line}");
        fields += usize::from(line.contains("# default"));
    }
    assert!(fields >= 30, "{printed}");
}

#[test]
fn every_kind_of_value_is_read() {
    let settings = read(
        r#"
            [node]
            data_dir = "/var/lib/dbex"
            shards = 7
            durability = "synced"
            sync_interval_ms = 250
            pin_cores = true
            [memory]
            memtable_bytes = 1048576
            block_cache_bytes = "8MB"
            filter_bytes_max = "1.5MiB"
            [io]
            budget = "200MiB/s"
            wal_compress_above = "4KiB"
            [compaction]
            strategy = "size_tiered"
            compression = ["none", "lz4", "zstd"]
            [server]
            listen = "[::1]:0"
            [log]
            level = "debug"
            format = "json"
        "#,
        &[],
    )
    .unwrap();
    assert_eq!(settings.node.data_dir, PathBuf::from("/var/lib/dbex"));
    assert_eq!((settings.node.shards, settings.node.pin_cores), (7, true));
    assert_eq!(settings.node.durability, Durability::Synced);
    assert_eq!(settings.node.sync_interval, Duration::from_millis(250));
    assert_eq!(settings.memory.memtable_bytes, 1 << 20);
    assert_eq!(settings.memory.block_cache_bytes, 8_000_000);
    assert_eq!(settings.memory.filter_bytes_max, 3 << 19);
    assert_eq!(settings.io.budget, IoBudget::BytesPerSecond(200 << 20));
    assert_eq!(settings.io.wal_compress_above, Some(4096));
    assert_eq!(settings.compaction.strategy, CompactionStrategy::SizeTiered);
    assert_eq!(settings.compaction.compression, [Compression::None, Compression::Lz4, Compression::Zstd]);
    assert_eq!(settings.server.listen.to_string(), "[::1]:0");
    assert_eq!((settings.log.level, settings.log.format), (LogLevel::Debug, LogFormat::Json));
    // What was not named keeps its default.
    assert_eq!(settings.memory.queue_bytes, Settings::default().memory.queue_bytes);
}

#[test]
fn budgets_are_words_rates_or_numbers() {
    let budget =
        |value: &str| read(format!("[io]\nbudget = {value}\n"), &[]).map(|settings| settings.io.budget);
    assert_eq!(budget("\"auto\"").unwrap(), IoBudget::Auto);
    assert_eq!(budget("\"unlimited\"").unwrap(), IoBudget::Unlimited);
    assert_eq!(budget("\"1MB/s\"").unwrap(), IoBudget::BytesPerSecond(1_000_000));
    assert_eq!(budget("\"1MiB\"").unwrap(), IoBudget::BytesPerSecond(1 << 20));
    assert_eq!(budget("1000000").unwrap(), IoBudget::BytesPerSecond(1_000_000));
    for wrong in ["\"fast\"", "-1", "true", "\"1MiB/h\"", "0", "200", "\"0MiB/s\""] {
        let error = text(&budget(wrong).unwrap_err());
        assert!(error.starts_with("shards.toml:2: io.budget is "), "{error}");
    }
}

#[test]
fn the_environment_overrides_the_file() {
    let file = "[node]\nshards = 2\n[memory]\nqueue_bytes = \"1MiB\"\n";
    let settings = read(
        file,
        &[
            ("DBEX_NODE__DATA_DIR", "elsewhere"),
            ("DBEX_MEMORY__QUEUE_BYTES", "2MiB"),
            ("DBEX_NODE__SYNC_INTERVAL_MS", "50"),
            ("DBEX_NODE__PIN_CORES", "true"),
            ("DBEX_COMPACTION__COMPRESSION", "none, lz4,zstd"),
            ("DBEX_SERVER__PASSWORD", "123"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(settings.node.data_dir, PathBuf::from("elsewhere"));
    assert_eq!(settings.memory.queue_bytes, 2 << 20);
    assert_eq!(settings.node.sync_interval, Duration::from_millis(50));
    assert!(settings.node.pin_cores);
    assert_eq!(settings.node.shards, 2);
    assert_eq!(settings.compaction.compression, [Compression::None, Compression::Lz4, Compression::Zstd]);
    assert_eq!(settings.server.read_password().unwrap().unwrap().expose(), "123");
}

#[test]
fn a_variable_that_sets_nothing_is_refused() {
    for name in ["DBEX_NODE__DATADIR", "DBEX_NODE_DATA_DIR", "DBEX_ADMIN__LISTEN", "DBEX_", "DBEX_LOG"] {
        let error = refused_variable(name, "x");
        assert!(error.contains(&format!("environment variable {name};")), "{error}");
        assert!(error.contains("DBEX_NODE__DATA_DIR, "), "{error}");
    }
    let error = refused_variable("DBEX_NODE__SHARDS", "many");
    assert_eq!(error, "DBEX_NODE__SHARDS: node.shards is \"many\"; expected a whole number");
    let error = refused_variable("DBEX_NODE__SHARDS", "5000");
    assert_eq!(error, "DBEX_NODE__SHARDS: node.shards is 5000; it must be between 0 and 1024");

    let not_text = (OsString::from("DBEX_NODE__DATA_DIR"), OsString::from_vec(vec![b'a', 0xFF]));
    let error = text(&Loaded::read(None, [not_text]).unwrap_err());
    assert_eq!(error, "the value of the variable DBEX_NODE__DATA_DIR is not UTF-8 text");
}

#[test]
fn the_variables_of_a_kubernetes_service_called_dbex_do_no_harm() {
    let links = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_RESP", "PORT", "PORT_6380_TCP_ADDR"];
    for link in links {
        read("[node]\n", &[(&format!("DBEX_{link}"), "tcp://10.0.0.1:6380")]).unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("none.toml");
    let error = Loaded::read(Some(&missing), []).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().starts_with("cannot open the settings file "), "{error}");
    assert!(error.to_string().contains("none.toml"), "{error}");

    let error = Loaded::read(Some(dir.path()), []).unwrap_err();
    assert!(text(&error).ends_with(" is a directory: name a file in it"), "{error}");

    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Loaded::read(Some(&pipe), []).unwrap_err();
    assert!(text(&error).ends_with(" is not a regular file"), "{error}");

    let link = dir.path().join("link.toml");
    fs::write(dir.path().join("real.toml"), "[node]\nshards = 3\n").unwrap();
    std::os::unix::fs::symlink("real.toml", &link).unwrap();
    assert_eq!(Loaded::read(Some(&link), []).unwrap().settings().node.shards, 3);
}

#[test]
fn a_file_that_is_no_settings_text_is_refused() {
    assert!(refused("").starts_with("shards.toml is empty: "));
    assert!(refused(" \n\n").starts_with("shards.toml is empty: "));
    assert!(refused("\u{feff}[node]\n").starts_with("shards.toml starts with a byte order mark"));
    assert!(refused(b"[node]\nx = \"\xFF\"\n").starts_with("shards.toml:2: the file is not UTF-8 text"));
    assert!(refused(vec![b'#'; 2 << 20]).starts_with("shards.toml is larger than 1 MiB"));
    let error = refused("[node]\nshards = \n");
    assert!(error.starts_with("shards.toml: ") && error.contains("line 2"), "{error}");
    // Comments alone are a file with every default.
    assert_eq!(read("# nothing yet\n", &[]).unwrap(), Settings::default());
}

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let error = refused("[node]\n\nshard = 3\n[memory]\nmemtable = 1\n");
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(
        lines,
        [
            "shards.toml:3: there is no field node.shard; [node] has data_dir, shards, durability, \
             sync_interval_ms, pin_cores",
            "shards.toml:5: there is no field memory.memtable; [memory] has memtable_bytes, block_cache_bytes, \
             filter_bytes_max, queue_bytes",
        ]
    );
    let error = refused("[admin]\nlisten = \"127.0.0.1:1\"\n");
    assert!(
        error.starts_with("shards.toml:1: there is no section [admin]; the sections are node, "),
        "{error}"
    );
    let error = refused("# x\nshards = 3\n");
    assert!(error.starts_with("shards.toml:2: shards stands outside the sections"), "{error}");
    assert!(refused("node = 3\n").starts_with("shards.toml:1: node stands outside"));
    assert!(refused("[[node]]\nshards = 3\n").starts_with("shards.toml:1: "));
}

#[test]
fn duplicates_are_refused_with_their_line() {
    let error = refused("[node]\nshards = 3\nshards = 4\n");
    assert!(error.contains("line 3") && error.contains("duplicate"), "{error}");
    let error = refused("[node]\nshards = 3\n[io]\n[node]\npin_cores = true\n");
    assert!(error.contains("line 4") && error.contains("duplicate"), "{error}");
}

#[test]
fn mistyped_fields_are_refused_with_what_was_expected() {
    let cases = [
        ("node", "shards = \"4\"", "node.shards is \"4\"; expected a whole number"),
        ("node", "shards = 4.5", "node.shards is 4.5; expected a whole number"),
        ("node", "shards = -4", "node.shards is -4; it must not be negative"),
        ("node", "shards = 99999999999", "node.shards is 99999999999; it is too large"),
        ("node", "pin_cores = \"yes\"", "node.pin_cores is \"yes\"; expected true or false"),
        (
            "node",
            "durability = \"fsync\"",
            "node.durability is \"fsync\"; expected \"buffered\" or \"synced\"",
        ),
        ("node", "data_dir = 3", "node.data_dir is 3; expected a path in quotes"),
        ("node", "data_dir = \"\"", "node.data_dir is \"\"; expected a path in quotes"),
        ("node", "sync_interval_ms = \"1s\"", "node.sync_interval_ms is \"1s\"; expected a whole number"),
        ("memory", "memtable_bytes = true", "memory.memtable_bytes is true; expected a number of bytes"),
        ("memory", "memtable_bytes = -1", "memory.memtable_bytes is -1; it must not be negative"),
        (
            "memory",
            "memtable_bytes = \"64 furlongs\"",
            "memory.memtable_bytes is \"64 furlongs\"; expected a size",
        ),
        (
            "memory",
            "memtable_bytes = \"17EiB\"",
            "memory.memtable_bytes is \"17EiB\"; it is more than 16 EiB",
        ),
        ("compaction", "compression = \"gzip\"", "compaction.compression is \"gzip\"; expected \"none\""),
        ("compaction", "compression = [\"lz4\"]", "compaction.compression is an array; expected \"none\""),
        ("server", "listen = \"here\"", "server.listen is \"here\"; expected an IP address and a port"),
        (
            "server",
            "listen = \"127.0.0.1\"",
            "server.listen is \"127.0.0.1\"; expected an IP address and a port",
        ),
        ("log", "level = \"loud\"", "log.level is \"loud\"; expected \"error\""),
        ("log", "format = {}", "log.format is a table; expected \"auto\""),
    ];
    for (section, line, expected) in cases {
        let error = refused(format!("[{section}]\n{line}\n"));
        assert!(error.starts_with(&format!("shards.toml:2: {expected}")), "{line}: {error}");
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    let cases = [
        ("node", "shards = 1025", "node.shards is 1025; it must be between 0 and 1024"),
        ("node", "sync_interval_ms = 0", "node.sync_interval_ms is 0; it must be between 1 and 3600000 ms"),
        ("memory", "memtable_bytes = 0", "memory.memtable_bytes is 0; it must be at least 64KiB"),
        (
            "memory",
            "block_cache_bytes = \"0MiB\"",
            "memory.block_cache_bytes is 0; it must be at least 64KiB",
        ),
        ("memory", "queue_bytes = 0", "memory.queue_bytes is 0; it must be at least 64KiB"),
        ("memory", "filter_bytes_max = 0", "memory.filter_bytes_max is 0; it must be at least 64KiB"),
        ("io", "max_open_files = 3", "io.max_open_files is 3; it must be 0 "),
        ("io", "compaction_workers = 1000", "io.compaction_workers is 1000; it must be 0 "),
        ("compaction", "l0_trigger = 0", "compaction.l0_trigger is 0; it must be between 1 and 100"),
        ("compaction", "l0_trigger = 101", "compaction.l0_trigger is 101; it must be between 1 and 100"),
        (
            "compaction",
            "table_bytes = \"8GiB\"",
            "compaction.table_bytes is \"8GiB\"; it must be at most 4GiB",
        ),
        ("compaction", "block_bytes = 1", "compaction.block_bytes is 1; it must be at least 512"),
        (
            "compaction",
            "filter_bits_per_key = 33",
            "compaction.filter_bits_per_key is 33; it must be between 0",
        ),
        ("server", "max_connections = 0", "server.max_connections is 0; it must be between 1 and"),
    ];
    for (section, line, expected) in cases {
        let error = refused(format!("[{section}]\n{line}\n"));
        assert!(error.starts_with(&format!("shards.toml:2: {expected}")), "{line}: {error}");
    }
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    let error = refused("[compaction]\ntable_bytes = \"64KiB\"\nblock_bytes = \"32KiB\"\n");
    assert!(
        error
            .starts_with("shards.toml:2: compaction.table_bytes is \"64KiB\"; a table must hold at least 16")
    );

    let error = refused("[server]\nclient_memory_bytes = \"1MiB\"\n");
    assert!(
        error.starts_with("shards.toml:2: server.client_memory_bytes is \"1MiB\"; it must hold one"),
        "{error}"
    );

    let error = refused("[memory]\nmemtable_bytes = \"1TiB\"\n");
    assert!(
        error.starts_with("shards.toml:2: memory.memtable_bytes is \"1TiB\"; this machine has "),
        "{error}"
    );
}

#[test]
fn an_address_in_reach_of_others_needs_a_password() {
    for open in ["0.0.0.0:6380", "[::]:6380", "192.0.2.1:6380"] {
        let file = format!("[server]\nlisten = \"{open}\"\n");
        let error = refused(&file);
        assert!(
            error.starts_with(&format!("shards.toml:2: server.listen is \"{open}\"; an address")),
            "{error}"
        );
        read(&file, &[("DBEX_SERVER__PASSWORD", "x")]).unwrap();
        read(format!("{file}password_file = \"p\"\n"), &[]).unwrap();
    }
    read("[server]\nlisten = \"127.5.5.5:1\"\n", &[]).unwrap();
    assert!(
        refused_variable("DBEX_SERVER__LISTEN", "0.0.0.0:1")
            .starts_with("DBEX_SERVER__LISTEN: server.listen")
    );
}

#[test]
fn a_password_comes_from_its_own_file_or_the_environment_and_is_never_shown() {
    let error = refused("[server]\npassword = \"hunter2\"\n");
    assert!(
        error.starts_with("shards.toml:2: server.password is (not shown); a password does not"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
    assert!(refused_variable("DBEX_SERVER__PASSWORD", "").contains("it is empty"));
    let both =
        read("[server]\npassword_file = \"p\"\n", &[("DBEX_SERVER__PASSWORD", "hunter2")]).unwrap_err();
    assert!(text(&both).contains("remove one of the two"), "{both}");

    let variable = [(OsString::from("DBEX_SERVER__PASSWORD"), OsString::from("hunter2"))];
    let loaded = Loaded::read(None, variable).unwrap();
    assert!(!format!("{loaded:?}{}", loaded.to_toml()).contains("hunter2"));

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("password");
    let from_file = Settings::builder().password_file(&path).build().unwrap();
    assert_eq!(from_file.server.read_password().unwrap_err().kind(), ErrorKind::Io);
    fs::write(&path, "\nlater\n").unwrap();
    assert_eq!(from_file.server.read_password().unwrap_err().kind(), ErrorKind::Invalid);
    fs::write(&path, "hunter2 \r\nrest\n").unwrap();
    assert_eq!(from_file.server.read_password().unwrap().unwrap().expose(), "hunter2 ");
}

#[test]
fn what_is_printed_reads_back_and_says_where_it_comes_from() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("shards.toml");
    fs::write(&path, "[node]\ndata_dir = \"a \\\"b\\\" \\\\ c\"\nshards = 3\n[compaction]\ncompression = [\"none\", \"lz4\", \"zstd\"]\n")
        .unwrap();
    let variables = [("DBEX_IO__BUDGET", "1MiB/s"), ("DBEX_MEMORY__QUEUE_BYTES", "1000001")];
    let mut loaded =
        Loaded::read(Some(&path), variables.map(|(name, value)| (name.into(), value.into()))).unwrap();
    loaded.set("server", "listen", "127.0.0.1:7", "--listen").unwrap();
    let printed = loaded.to_toml();
    assert_eq!(&read(&printed, &[]).unwrap(), loaded.settings());
    let origin = |field: &str| {
        let line = printed.lines().find(|line| line.starts_with(&format!("{field} ="))).unwrap();
        line.rsplit_once("# ").unwrap().1.to_owned()
    };
    assert!(origin("shards").ends_with("shards.toml:3"));
    assert_eq!(origin("budget"), "DBEX_IO__BUDGET");
    assert_eq!(origin("listen"), "--listen");
    assert_eq!(origin("memtable_bytes"), "default");

    let error = loaded.set("server", "listen", "x", "--listen").unwrap_err();
    assert!(error.to_string().starts_with("--listen: server.listen is \"x\"; expected an IP"), "{error}");
}

proptest! {
    /// Pieces of settings files in any order, cut anywhere, with any bytes between.
    #[test]
    fn no_text_panics_and_every_refusal_says_something(
        pieces in vec(prop_oneof![
            Just("[node]\n".to_owned()), Just("shards = ".to_owned()), Just("[memory]\nmemtable_bytes=".to_owned()),
            Just("\"64MiB\"\n".to_owned()), Just("99999999999999999999999\n".to_owned()), Just("io.budget=".to_owned()),
            Just("[compaction]\ncompression = [\"lz4\", ".to_owned()), Just("]\n".to_owned()), Just("\n".to_owned()),
            "[ -~\n]{0,8}", ".{0,4}",
        ], 0..12),
    ) {
        if let Err(error) = Settings::from_toml(&pieces.concat()) {
            prop_assert_eq!(error.kind(), ErrorKind::Invalid);
            prop_assert!(error.to_string().contains("shards.toml"), "{}", error);
        }
    }
}

#[test]
fn settings_made_in_code_are_checked_too() {
    let settings = Settings::builder()
        .data_dir("d")
        .shards(4)
        .memtable_bytes(8 << 20)
        .block_cache_bytes(1 << 20)
        .io_budget(10_000_000)
        .compression(Compression::Zstd)
        .sync_interval(Duration::from_millis(5))
        .build()
        .unwrap();
    let options = NodeOptions::from(settings);
    assert_eq!((options.shards, options.memtable_bytes, options.block_cache_bytes), (4, 8 << 20, 1 << 20));
    assert_eq!(options.io_budget, IoBudget::BytesPerSecond(10_000_000));
    assert_eq!(options.compression, [Compression::Zstd; 3]);

    let error = text(&Settings::builder().shards(2000).sync_interval(Duration::ZERO).build().unwrap_err());
    assert_eq!(
        error,
        "node.shards is 2000; it must be between 0 and 1024\n\
         node.sync_interval_ms is 0; it must be between 1 and 3600000 ms"
    );
    let error = text(&Settings::builder().data_dir("").build().unwrap_err());
    assert_eq!(error, "node.data_dir is \"\"; expected a path");
}
