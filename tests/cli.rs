//! The `dbex` program as its users meet it: what it prints where, and the status it ends with.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its scene has failed")]
#![cfg(feature = "server")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
};

use dbex::Settings;
use tempfile::TempDir;

fn dbex(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbex"));
    command.args(args).current_dir(dir.path()).env_clear().stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A server on a free port, and the lines it printed so far.
struct Server {
    child: Child,
    first_line: String,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first_line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first_line).unwrap();
        Self { child, first_line }
    }

    fn address(&self) -> &str {
        self.first_line.rsplit_once(" listens on ").unwrap().1.trim()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The exit status and the log.
    fn end(mut self) -> (i32, String) {
        let status = self.child.wait().unwrap().code().unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status, log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failed test must not leave its server behind; one that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_version_is_the_packages() {
    let dir = TempDir::new().unwrap();
    let (status, stdout, _) = output(&mut dbex(&dir, &["--version"]));
    assert_eq!((status, stdout.trim()), (0, concat!("dbex ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn config_prints_what_is_in_force_and_touches_nothing() {
    let dir = TempDir::new().unwrap();
    let (status, stdout, stderr) = output(&mut dbex(&dir, &["config", "--template"]));
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, Settings::TEMPLATE, ""));

    fs::write(dir.path().join("s.toml"), "[node]\nshards = 3\n").unwrap();
    let mut command = dbex(&dir, &["config", "-c", "s.toml", "--listen", "127.0.0.1:9"]);
    let (status, stdout, _) = output(command.env("DBEX_IO__BUDGET", "1MiB/s"));
    assert_eq!(status, 0);
    for (line, origin) in [
        ("shards = 3", "s.toml:2"),
        ("listen = \"127.0.0.1:9\"", "--listen"),
        ("budget = \"1MiB/s\"", "DBEX_IO__BUDGET"),
        ("data_dir = \"data\"", "default"),
    ] {
        assert!(
            stdout.lines().any(|l| l.starts_with(line) && l.ends_with(&format!("# {origin}"))),
            "{line}\n{stdout}"
        );
    }
    assert!(!dir.path().join("data").exists());
}

#[test]
fn settings_and_arguments_that_do_not_fit_end_with_status_2() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("s.toml"), "[node]\nshard = 3\n[io]\nthreads = 1\n").unwrap();
    let (status, stdout, stderr) = output(&mut dbex(&dir, &["serve", "--config", "s.toml"]));
    assert_eq!((status, stdout.as_str()), (2, ""));
    let lines: Vec<_> = stderr.lines().collect();
    assert!(lines[0].starts_with("error: s.toml:2: there is no field node.shard; "), "{stderr}");
    assert!(lines[1].starts_with("error: s.toml:4: there is no field io.threads; "), "{stderr}");

    let cases: [(&[&str], &str); 4] = [
        (
            &["serve", "--listen", "0.0.0.0:0"],
            "error: --listen: server.listen is \"0.0.0.0:0\"; an address that",
        ),
        (&["serve", "--listen", "nowhere"], "error: --listen: server.listen is \"nowhere\"; expected"),
        (
            &["serve", "--config", "missing.toml"],
            "error: cannot open the settings file missing.toml: No such file",
        ),
        (&["dance"], "error: unrecognized subcommand 'dance'"),
    ];
    for (args, expected) in cases {
        let (status, stdout, stderr) = output(&mut dbex(&dir, args));
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.starts_with(expected), "{stderr}");
    }
    let (status, _, stderr) = output(dbex(&dir, &["serve"]).env("RUST_LOG", "dbex=loud"));
    assert_eq!(status, 2, "{stderr}");
    let (status, _, stderr) = output(dbex(&dir, &[]).env("DBEX_NODE__SHARD", "1"));
    assert_eq!(status, 2, "{stderr}");
    assert!(!dir.path().join("data").exists());
}

#[test]
fn an_address_in_use_ends_with_status_1() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, stdout, stderr) = output(&mut dbex(&dir, &["serve", "--listen", &address]));
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.starts_with(&format!("error: cannot listen on {address}: Address already in use")),
        "{stderr}"
    );
}

#[test]
fn without_arguments_it_serves_until_it_is_told_to_stop() {
    let dir = TempDir::new().unwrap();
    for signal in ["TERM", "INT"] {
        let server = Server::start(dbex(&dir, &[]).env("DBEX_SERVER__LISTEN", "127.0.0.1:0"));
        let mut client = TcpStream::connect(server.address()).unwrap();
        client.write_all(b"PING\r\n").unwrap();
        let mut pong = [0; 7];
        client.read_exact(&mut pong).unwrap();
        assert_eq!(&pong, b"+PONG\r\n");
        server.signal(signal);
        let (status, log) = server.end();
        assert_eq!(status, 0, "{log}");
        assert!(log.contains("closed") && !log.contains('\x1b'), "{log}");
    }
}

#[test]
fn told_twice_it_stops_at_once_with_status_130() {
    let dir = TempDir::new().unwrap();
    let mut command = dbex(&dir, &["serve", "--listen", "127.0.0.1:0"]);
    // Only the second signal can end this test's server in time.
    command.env("DBEX_SERVER__SHUTDOWN_GRACE_MS", "600000").env("DBEX_SERVER__REQUEST_TIMEOUT_MS", "0");
    let mut server = Server::start(&mut command);
    let mut client = TcpStream::connect(server.address()).unwrap();
    // Replies that nobody takes, more than the sockets' buffers hold, keep the connection busy.
    let value = vec![b'x'; 1 << 20];
    client.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n").unwrap();
    client.write_all(&value).unwrap();
    client.write_all(b"\r\n").unwrap();
    let mut ok = [0; 5];
    client.read_exact(&mut ok).unwrap();
    assert_eq!(&ok, b"+OK\r\n");
    client.write_all(&b"GET k\r\n".repeat(40)).unwrap();
    let mut first = [0; 10];
    client.read_exact(&mut first).unwrap();

    server.signal("INT");
    let mut log = BufReader::new(server.child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("told to stop") {
        assert_ne!(log.read_line(&mut seen).unwrap(), 0, "{seen}");
    }
    server.signal("INT");
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
    log.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("error: told twice to stop"), "{seen}");
}

#[test]
fn the_log_is_json_on_demand_and_never_on_stdout() {
    let dir = TempDir::new().unwrap();
    let mut command = dbex(&dir, &["serve", "--listen", "127.0.0.1:0", "--data-dir", "d"]);
    let mut server = Server::start(command.env("DBEX_LOG__FORMAT", "json"));
    server.signal("TERM");
    let mut stdout = server.child.stdout.take().unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains('{'), "{rest}");
    let (status, log) = server.end();
    assert_eq!(status, 0, "{log}");
    assert!(
        log.lines().count() > 0 && log.lines().all(|line| line.starts_with('{') && line.ends_with('}')),
        "{log}"
    );
}
