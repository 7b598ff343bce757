//! The Redis face over real sockets: every command in both protocols, every bad input that the reliability
//! plan names, and clients that are slow, greedy, rude or gone. After each, the server serves the next one.

#![cfg(test)]

mod resp;

use std::{fmt::Write as _, time::Duration};

use dbex::server::resp::{RespSettings, Secret};
use resp::{Client, TestServer, encode};
use tokio::{io::AsyncReadExt, time::timeout};

const SHORT: Duration = Duration::from_millis(200);

fn settings(change: impl FnOnce(&mut RespSettings)) -> RespSettings {
    let mut settings = RespSettings::default();
    change(&mut settings);
    settings
}

async fn start() -> TestServer {
    TestServer::start(RespSettings::default()).await
}

/// Sends each line's words and expects its reply; `/` stands for the lines' ends inside a reply.
async fn script(client: &mut Client, lines: &[(&str, &str)]) {
    for (line, expected) in lines {
        let words: Vec<&str> = line.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
        let reply = client.command(&words).await;
        assert_eq!(reply.replace("\r\n", "/"), *expected, "{line}");
    }
}

#[tokio::test]
async fn string_commands_in_both_protocols() {
    let server = start().await;
    for (protocol, null) in [("2", "$-1/"), ("3", "_/")] {
        let mut client = server.connect().await;
        client.command(&["HELLO", protocol]).await;
        client.command(&["DEL", "k", "n", "a", "b", "c"]).await;
        let mget = format!("*3/$1/1/{null}$1/2/");
        script(
            &mut client,
            &[
                ("GET k", null),
                ("SET k v", "+OK/"),
                ("get k", "$1/v/"),
                ("SET k ''", "+OK/"),
                ("GET k", "$0//"),
                ("STRLEN k", ":0/"),
                ("SET k w NX", null),
                ("SET n 1 XX", null),
                ("SET n 1 nx", "+OK/"),
                ("SET n 2 XX", "+OK/"),
                ("SET n 3 GET", "$1/2/"),
                ("SET a 1 NX GET", null),
                ("SET a 2 NX GET", "$1/1/"),
                ("SET a 1 KEEPTTL", "+OK/"),
                ("SETNX a 9", ":0/"),
                ("SETNX b 2", ":1/"),
                ("GETSET b 3", "$1/2/"),
                ("GETDEL b", "$1/3/"),
                ("GETDEL b", null),
                ("MSET a 1 b 2", "+OK/"),
                ("MGET a nope b", &mget),
                ("EXISTS c", ":0/"),
                ("EXISTS a a nope b", ":3/"),
                ("DEL b b nope", ":1/"),
                ("UNLINK a", ":1/"),
                ("APPEND k abc", ":3/"),
                ("APPEND k def", ":6/"),
                ("STRLEN k", ":6/"),
                ("STRLEN nope", ":0/"),
                ("TYPE k", "+string/"),
                ("TYPE nope", "+none/"),
            ],
        )
        .await;
    }
    server.stop().await;
}

#[tokio::test]
async fn keys_that_expire() {
    let server = start().await;
    let mut client = server.connect().await;
    script(
        &mut client,
        &[
            ("TTL k", ":-2/"),
            ("SET k v EX 100", "+OK/"),
            ("TTL k", ":100/"),
            ("INCRBY k 1", "-ERR value is not an integer or out of range/"),
            ("APPEND k w", ":2/"),
            ("TTL k", ":100/"),
            ("SET k v KEEPTTL", "+OK/"),
            ("TTL k", ":100/"),
            ("GETEX k", "$1/v/"),
            ("TTL k", ":100/"),
            ("GETEX k PERSIST", "$1/v/"),
            ("TTL k", ":-1/"),
            ("PERSIST k", ":0/"),
            ("GETEX k PXAT 99999999999999", "$1/v/"),
            ("PEXPIRETIME k", ":99999999999999/"),
            ("EXPIRETIME k", ":100000000000/"),
            ("PERSIST k", ":1/"),
            ("EXPIRETIME k", ":-1/"),
            ("EXPIRE k 50 XX", ":0/"),
            ("EXPIRE k 50 GT", ":0/"),
            ("EXPIRE k 50 LT", ":1/"),
            ("EXPIRE k 60 NX", ":0/"),
            ("EXPIRE k 60 LT", ":0/"),
            ("EXPIRE k 60 XX GT", ":1/"),
            ("TTL k", ":60/"),
            ("EXPIREAT k 99999999999", ":1/"),
            ("PEXPIREAT k 99999999999000 NX", ":0/"),
            ("PEXPIRE k 40000", ":1/"),
            ("TTL k", ":40/"),
            ("SET k v", "+OK/"),
            ("TTL k", ":-1/"),
            ("SET k w XX EX 10 GET", "$1/v/"),
            ("GETSET k x", "$1/w/"),
            ("TTL k", ":-1/"),
            ("EXPIRE k -1", ":1/"),
            ("EXISTS k", ":0/"),
            ("EXPIRE k 1", ":0/"),
            ("GETEX k EX 10", "$-1/"),
            ("SETEX k 10 v", "+OK/"),
            ("TTL k", ":10/"),
            ("SET k v EXAT 1", "+OK/"),
            ("GET k", "$-1/"),
            ("EXPIRE k 1 NX GT", "-ERR NX and XX, GT or LT options at the same time are not compatible/"),
            ("EXPIRE k 1 GT LT", "-ERR GT and LT options at the same time are not compatible/"),
            ("EXPIRE k 1 AB", "-ERR Unsupported option AB/"),
            ("EXPIRE k 9223372036854775807", "-ERR invalid expire time in 'expire' command/"),
            ("SETEX k 9223372036854775 v", "-ERR invalid expire time in 'setex' command/"),
            ("EXPIRE k soon", "-ERR value is not an integer or out of range/"),
            ("SET k v EX 0", "-ERR invalid expire time in 'set' command/"),
            ("SETEX k 0 v", "-ERR invalid expire time in 'setex' command/"),
            ("GETEX k PX -5", "-ERR invalid expire time in 'getex' command/"),
            ("GETEX k KEEPTTL", "-ERR syntax error/"),
            ("SET k v EX 10 PX 10", "-ERR syntax error/"),
            ("SET k v EX 10 KEEPTTL", "-ERR syntax error/"),
            ("SET k v EX", "-ERR syntax error/"),
            ("PSETEX k 300 v", "+OK/"),
            ("GET k", "$1/v/"),
        ],
    )
    .await;
    tokio::time::sleep(Duration::from_millis(320)).await;
    let gone =
        [("GET k", "$-1/"), ("PTTL k", ":-2/"), ("DBSIZE", ":0/"), ("KEYS *", "*0/"), ("SETNX k v", ":1/")];
    script(&mut client, &gone).await;
    server.stop().await;
}

#[tokio::test]
async fn counters_and_their_errors() {
    let server = start().await;
    let mut client = server.connect().await;
    let not_an_integer = "-ERR value is not an integer or out of range/";
    let overflow = "-ERR increment or decrement would overflow/";
    script(
        &mut client,
        &[
            ("INCR n", ":1/"),
            ("INCRBY n 41", ":42/"),
            ("DECR n", ":41/"),
            ("DECRBY n 42", ":-1/"),
            ("GET n", "$2/-1/"),
            ("INCRBY n 1.5", not_an_integer),
            ("INCRBY n 99999999999999999999", not_an_integer),
            ("DECRBY n -9223372036854775808", "-ERR decrement would overflow/"),
            ("SET n 9223372036854775806", "+OK/"),
            ("INCR n", ":9223372036854775807/"),
            ("INCR n", overflow),
            ("GET n", "$19/9223372036854775807/"),
            ("SET n -9223372036854775808", "+OK/"),
            ("DECR n", overflow),
            ("SET n 999999999999999998", "+OK/"),
            ("INCR n", ":999999999999999999/"),
            ("SET n abc", "+OK/"),
            ("INCR n", not_an_integer),
            ("GET n", "$3/abc/"),
            ("SET n 01", "+OK/"),
            ("INCR n", not_an_integer),
        ],
    )
    .await;
    server.stop().await;
}

#[tokio::test]
async fn wrong_commands_are_answered_and_the_connection_goes_on() {
    let server = start().await;
    let mut client = server.connect().await;
    script(
        &mut client,
        &[
            ("foo a b", "-ERR unknown command 'foo', with args beginning with: 'a' 'b' /"),
            ("foo", "-ERR unknown command 'foo', with args beginning with: /"),
            ("GET", "-ERR wrong number of arguments for 'get' command/"),
            ("GET a b", "-ERR wrong number of arguments for 'get' command/"),
            ("SET a", "-ERR wrong number of arguments for 'set' command/"),
            ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command/"),
            ("PING a b", "-ERR wrong number of arguments for 'ping' command/"),
            ("CLIENT", "-ERR wrong number of arguments for 'client' command/"),
            ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command/"),
            ("CLIENT FOO", "-ERR unknown subcommand 'FOO'. Try CLIENT HELP./"),
            ("CONFIG SET a b", "-ERR unknown subcommand 'SET'. Try CONFIG HELP./"),
            ("SET a b c", "-ERR syntax error/"),
            ("SET a b NX XX", "-ERR syntax error/"),
            ("SET a b EX", "-ERR syntax error/"),
            ("GET a", "$-1/"),
            ("SELECT 1", "-ERR DB index is out of range/"),
            ("SELECT x", "-ERR value is not an integer or out of range/"),
            ("HELLO 4", "-NOPROTO unsupported protocol version/"),
            ("HELLO x", "-ERR Protocol version is not an integer or out of range/"),
            ("HELLO 2 FOO", "-ERR Syntax error in HELLO option 'FOO'/"),
            ("SCAN x", "-ERR invalid cursor/"),
            ("SCAN 0 COUNT 0", "-ERR syntax error/"),
            ("SCAN 0 COUNT x", "-ERR value is not an integer or out of range/"),
            ("SCAN 0 MATCH", "-ERR syntax error/"),
            ("SCAN 0 FOO x", "-ERR syntax error/"),
            (
                "FLUSHALL",
                "-ERR FLUSHALL and FLUSHDB are disabled; enable them in the settings of the server/",
            ),
            (
                "AUTH x",
                "-ERR AUTH <password> called without any password configured for the default user. Are you \
                sure your configuration is correct?/",
            ),
            ("GET ''", "-ERR the key is empty; a key has 1 byte to 64 KiB/"),
            ("SET '' x", "-ERR the key is empty; a key has 1 byte to 64 KiB/"),
            ("PING", "+PONG/"),
        ],
    )
    .await;
    // What an error quotes of the client stays on the error's line.
    client.send(&encode(&["a\r\nb", "c\nd"])).await;
    let text = "-ERR unknown command 'a  b', with args beginning with: 'c d' \r\n";
    assert_eq!(client.reply().await, text);
    server.stop().await;
}

#[tokio::test]
async fn connection_commands() {
    let server = start().await;
    let mut client = server.connect().await;
    script(
        &mut client,
        &[
            ("PING", "+PONG/"),
            ("PING x", "$1/x/"),
            ("ECHO x", "$1/x/"),
            ("SELECT 0", "+OK/"),
            ("CLIENT ID", ":1/"),
            ("CLIENT GETNAME", "$-1/"),
            ("CLIENT SETNAME me", "+OK/"),
            ("CLIENT GETNAME", "$2/me/"),
            (
                "CLIENT SETNAME a\tb",
                "-ERR Client names cannot contain spaces, newlines or special characters./",
            ),
            ("CLIENT SETINFO LIB-NAME redis-py", "+OK/"),
            ("CLIENT SETINFO lib-ver 8.0.0", "+OK/"),
            ("CLIENT SETINFO FOO x", "-ERR Unrecognized option 'FOO'/"),
            ("CLIENT NO-EVICT on", "+OK/"),
            ("CLIENT NO-TOUCH OFF", "+OK/"),
            ("CLIENT NO-EVICT x", "-ERR syntax error/"),
        ],
    )
    .await;
    let list = client.command(&["CLIENT", "LIST"]).await;
    assert!(list.contains("name=me") && list.contains("lib-name=redis-py lib-ver=8.0.0"), "{list}");
    assert_eq!(client.command(&["CLIENT", "LIST", "TYPE", "replica"]).await, "$0\r\n\r\n");
    let hello = client.command(&["HELLO", "3", "SETNAME", "you"]).await;
    assert!(hello.starts_with("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"), "{hello}");
    assert!(hello.contains("$5\r\nproto\r\n:3\r\n") && hello.ends_with("$7\r\nmodules\r\n*0\r\n"), "{hello}");
    assert_eq!(client.command(&["CLIENT", "GETNAME"]).await, "$3\r\nyou\r\n");
    assert!(client.command(&["CLIENT", "INFO"]).await.contains("name=you"));
    assert!(client.command(&["CLIENT", "INFO"]).await.starts_with('='), "verbatim text in RESP3");
    script(&mut client, &[("RESET", "+RESET/"), ("CLIENT GETNAME", "$-1/"), ("QUIT", "+OK/")]).await;
    assert_eq!(client.read_to_end().await, b"");
    server.stop().await;
}

#[tokio::test]
async fn server_commands_in_both_protocols() {
    let server = start().await;
    for protocol in ["2", "3"] {
        let mut client = server.connect().await;
        client.command(&["HELLO", protocol]).await;
        client.command(&["SET", "k", "v"]).await;
        let map = |pairs: usize| {
            if protocol == "3" { format!("%{pairs}\r\n") } else { format!("*{}\r\n", 2 * pairs) }
        };
        let count = client.command(&["COMMAND", "COUNT"]).await;
        let all = client.command(&["COMMAND"]).await;
        assert_eq!(all.lines().next().unwrap().replace('*', ":"), count.trim_end());
        assert_eq!(client.command(&["COMMAND", "LIST"]).await.lines().next(), all.lines().next());
        let info = client.command(&["COMMAND", "INFO", "get", "nope"]).await;
        let set = if protocol == "3" { '~' } else { '*' };
        let get =
            format!("*2\r\n*10\r\n$3\r\nget\r\n:2\r\n{set}2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n");
        assert!(info.starts_with(&get), "{info}");
        let docs = client.command(&["COMMAND", "DOCS", "get", "nope"]).await;
        assert!(docs.starts_with(&(map(1) + "$3\r\nget\r\n" + &map(2) + "$7\r\nsummary\r\n")), "{docs}");
        assert!(client.command(&["COMMAND", "DOCS"]).await.contains("client|setinfo"));
        let keys = client.command(&["COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"]).await;
        assert_eq!(keys, "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
        let config = client.command(&["CONFIG", "GET", "save", "append*"]).await;
        let expected = "$10\r\nappendonly\r\n$3\r\nyes\r\n$4\r\nsave\r\n$0\r\n\r\n";
        assert_eq!(config, map(2) + expected);
        let info = client.command(&["INFO"]).await;
        assert!(info.starts_with(if protocol == "3" { '=' } else { '$' }));
        for part in [
            "# Server\r\nredis_version:",
            "# Clients\r\nconnected_clients:",
            "# Memory\r\n",
            "# Persistence\r\nloading:0\r\n",
            "# Stats\r\ntotal_connections_received:",
            "# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n",
        ] {
            assert!(info.contains(part), "{part} in {info}");
        }
        let info = client.command(&["INFO", "CLIENTS"]).await;
        assert!(info.contains("# Clients") && !info.contains("# Server"), "{info}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_request_get_an_error_and_the_connection_is_closed() {
    let server = start().await;
    let cases: &[(&[u8], &str)] = &[
        (b"*-1\r\n", "invalid multibulk length"),
        (b"*-2147483649\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*4294967296\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*abc\r\n", "invalid multibulk length"),
        (b"*3\rx", "invalid multibulk length"),
        (b"*00000000000000000000000000000000000000000000000000", "too big mbulk count string"),
        (b"*2\r\n$3\r\nGET\r\n$-1\r\n", "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$67108865\r\n", "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$9223372036854775808\r\n", "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$99999999999999999999\r\n", "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$00000000000000000000000000000000000", "too big bulk count string"),
        (b"*2\r\n$3\r\nGET\r\n$1\r\nabc\r\n", "expected CRLF behind a bulk string"),
        (b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n*1\r\n", "expected CRLF behind a bulk string"),
        (b"*2\r\n$3\r\nGET\r\n$1\r\na\n\n", "expected CRLF behind a bulk string"),
        (b"*2\r\n$3\r\nGET\r\n*1\r\n$1\r\na\r\n", "expected '$', got '*'"),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n", "expected '$', got '*'"),
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\x00", "expected '$', got '\\x00'"),
        (b"SET a \"b\r\n", "unbalanced quotes in request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "this port does not speak TLS"),
    ];
    for (bytes, error) in cases {
        let mut client = server.connect().await;
        // What came before it is answered first, and what comes behind it is not run.
        client.send(&[&encode(&["SET", "k", "v"]), *bytes, &encode(&["SET", "k", "w"])].concat()).await;
        let reply = String::from_utf8(client.read_to_end().await).unwrap();
        assert_eq!(reply, format!("+OK\r\n-ERR Protocol error: {error}\r\n"), "{}", bytes.escape_ascii());
    }
    let mut client = server.connect().await;
    assert_eq!(client.command(&["GET", "k"]).await, "$1\r\nv\r\n");
    println!("{} malformed requests", cases.len());
    server.stop().await;
}

#[tokio::test]
async fn an_inline_line_of_64_kib_and_a_byte_is_refused() {
    let server = start().await;
    for end in ["", "\r\n"] {
        let mut client = server.connect().await;
        client.send(("x".repeat((64 << 10) + 1) + end).as_bytes()).await;
        assert_eq!(client.read_to_end().await, b"-ERR Protocol error: too big inline request\r\n");
    }
    let mut client = server.connect().await;
    client.send(format!("ECHO {}\r\n", "x".repeat((64 << 10) - 6)).as_bytes()).await;
    client.expect(format!("${}\r\nxxx", (64 << 10) - 6).as_bytes()).await;
    server.stop().await;
}

#[tokio::test]
async fn inline_commands_and_empty_requests() {
    let server = start().await;
    let mut client = server.connect().await;
    client.send(b"\r\n\n*0\r\nset \"a b\" '1 2'\nGET \"a\\x20b\"\r\nping\r\n").await;
    client.expect(b"+OK\r\n$3\r\n1 2\r\n+PONG\r\n").await;
    server.stop().await;
}

#[tokio::test]
async fn http_on_the_port_ends_the_connection_before_the_body() {
    let server = start().await;
    for head in
        ["POST / HTTP/1.1\r\nHost: x\r\n", "GET / HTTP/1.1\r\nHost: x\r\n", "GET / HTTP/1.1\r\nhost: x\r\n"]
    {
        let mut client = server.connect().await;
        client.send(format!("{head}\r\nSET pwned 1\r\n").as_bytes()).await;
        let reply = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(reply.starts_with("-ERR ") && !reply.contains("+OK"), "{reply}");
    }
    let mut client = server.connect().await;
    assert_eq!(client.command(&["GET", "pwned"]).await, "$-1\r\n");
    server.stop().await;
}

#[tokio::test]
async fn before_auth_only_auth() {
    let server = TestServer::start(settings(|s| {
        s.password = Some(Secret::new("pass"));
        s.auth_failure_delay = Duration::from_millis(1);
    }))
    .await;
    let mut client = server.connect().await;
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled./";
    script(
        &mut client,
        &[
            ("PING", "-NOAUTH Authentication required./"),
            ("SET k v", "-NOAUTH Authentication required./"),
            ("GET k", "-NOAUTH Authentication required./"),
            ("FOO", "-ERR unknown command 'FOO', with args beginning with: /"),
            ("GET", "-ERR wrong number of arguments for 'get' command/"),
            ("AUTH wrong", wrong),
            ("AUTH other pass", wrong),
            ("HELLO 3 AUTH default wrong", wrong),
            ("AUTH a b c", "-ERR syntax error/"),
            ("PING", "-NOAUTH Authentication required./"),
        ],
    )
    .await;
    assert!(client.command(&["HELLO", "3"]).await.starts_with("-NOAUTH HELLO must be called with"));
    // A pipeline may begin with AUTH; what follows has the limits of an authenticated client.
    let mut pipeline = encode(&["AUTH", "pass"]);
    let keys: Vec<String> = (0..50).map(|key| key.to_string()).collect();
    pipeline.extend(encode(&[&["DEL".to_owned()], &keys[..]].concat()));
    pipeline.extend(encode(&["SET", "k", "v"]));
    client.send(&pipeline).await;
    client.expect(b"+OK\r\n:0\r\n+OK\r\n").await;
    script(
        &mut client,
        &[("GET k", "$1/v/"), ("RESET", "+RESET/"), ("GET k", "-NOAUTH Authentication required./")],
    )
    .await;
    let hello = client.command(&["HELLO", "3", "AUTH", "default", "pass", "SETNAME", "x"]).await;
    assert!(hello.starts_with("%7\r\n"), "{hello}");
    assert_eq!(client.command(&["GET", "k"]).await, "$1\r\nv\r\n");
    for (bytes, error) in [
        (&b"*11\r\n"[..], "unauthenticated multibulk length"),
        (b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", "unauthenticated bulk length"),
    ] {
        let mut client = server.connect().await;
        client.send(bytes).await;
        assert_eq!(client.read_to_end().await, format!("-ERR Protocol error: {error}\r\n").as_bytes());
    }
    server.stop().await;
}

#[tokio::test]
async fn binary_keys_and_values() {
    let server = start().await;
    let mut client = server.connect().await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    client.send(&encode(&[&b"SET"[..], &all_bytes, &all_bytes])).await;
    client.expect(b"+OK\r\n").await;
    client.send(&encode(&[&b"GET"[..], &all_bytes])).await;
    client.expect(&[b"$256\r\n", &all_bytes[..], b"\r\n"].concat()).await;
    client.send(&encode(&[&b"KEYS"[..], b"\x00*"])).await;
    client.expect(&[b"*1\r\n$256\r\n", &all_bytes[..], b"\r\n"].concat()).await;
    server.stop().await;
}

#[tokio::test]
async fn the_largest_key_and_value_and_one_byte_more() {
    let server = TestServer::start(settings(|s| s.client_memory_bytes = 512 << 20)).await;
    let mut client = server.connect().await;
    let (key, value) = (vec![b'k'; 64 << 10], vec![b'v'; 64 << 20]);
    client.send(&encode(&[&b"SET"[..], &key, &value])).await;
    client.expect(b"+OK\r\n").await;
    client.send(&encode(&[&b"GET"[..], &key])).await;
    client.expect(b"$67108864\r\n").await;
    let got = client.read_exact(value.len() + 2).await;
    assert!(got[..value.len()] == value[..] && got.ends_with(b"v\r\n"));
    client.send(&encode(&[&b"APPEND"[..], &key, b"x"])).await;
    client.expect(b"-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n").await;
    client.send(&encode(&[&b"SET"[..], &[&key[..], b"k"].concat(), b"v"])).await;
    client.expect(b"-ERR the key has 65537 bytes; a key has at most 65536\r\n").await;
    server.stop().await;
}

#[tokio::test]
async fn a_pipeline_runs_in_order_however_it_is_cut() {
    let server = start().await;
    let (mut pipeline, mut expected) = (Vec::new(), String::new());
    for round in 0..300 {
        let key = format!("k{}", round % 7);
        pipeline.extend(encode(&["SET", &key, &round.to_string()]));
        pipeline.extend(encode(&["INCR", &key]));
        pipeline.extend(encode(&["SET", &key, "x", "XX", "GET"]));
        pipeline.extend(encode(&["GET", &key]));
        pipeline.extend(encode(&["GET", "nope"]));
        pipeline.extend(b"PING\r\n");
        pipeline.extend(encode(&["SET", &key, "y", "BAD"]));
        pipeline.extend(encode(&["DEL", &key, &key]));
        let text = (round + 1).to_string();
        write!(expected, "+OK\r\n:{text}\r\n${}\r\n{text}\r\n", text.len()).unwrap();
        expected.push_str("$1\r\nx\r\n$-1\r\n+PONG\r\n-ERR syntax error\r\n:1\r\n");
    }
    for piece in [1, 7, 1000, usize::MAX] {
        let mut client = server.connect().await;
        client.stream.set_nodelay(true).unwrap();
        // A piece of one byte costs a packet each, so a part of the pipeline must do.
        let (bytes, expected) = if piece == 1 {
            let end = pipeline.windows(7).position(|w| w == b"$2\r\nk1\r").unwrap();
            let start = pipeline[..end].iter().rposition(|b| *b == b'*').unwrap();
            let whole = expected.find("+OK\r\n:2\r\n").unwrap();
            (&pipeline[..start], &expected[..whole])
        } else {
            (&pipeline[..], &expected[..])
        };
        for bytes in bytes.chunks(piece.min(bytes.len())) {
            client.send(bytes).await;
        }
        client.expect(expected.as_bytes()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn one_delete_of_more_keys_than_go_to_the_node_at_once() {
    let server = start().await;
    let mut client = server.connect().await;
    // Large old values make the parts small; small ones make them large.
    for (keys, value) in [(5000, "v".to_owned()), (40, "v".repeat(1 << 20))] {
        let names: Vec<String> = (0..keys).map(|key| format!("k{key}")).collect();
        for name in &names {
            client.send(&encode(&["SET", name, &value])).await;
        }
        client.expect(&b"+OK\r\n".repeat(keys)).await;
        let delete = encode(&[&["DEL".to_owned(), "nope".to_owned()], &names[..], &names[..]].concat());
        client.send(&[&delete, &encode(&["DBSIZE"])[..], &delete, b"PING\r\n"].concat()).await;
        client.expect(format!(":{keys}\r\n:0\r\n:0\r\n+PONG\r\n").as_bytes()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_its_replies() {
    use tokio::io::AsyncWriteExt;
    let server = start().await;
    let mut client = server.connect().await;
    client.send(&encode(&["SET", "k", "v"]).repeat(1000)).await;
    client.send(b"*1\r\n$4\r\nPI").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.read_to_end().await, b"+OK\r\n".repeat(1000));
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_arrives_byte_by_byte_is_given_up() {
    let server = TestServer::start(settings(|s| s.request_timeout = SHORT)).await;
    let mut client = server.connect().await;
    let mut reply = Vec::new();
    let request = encode(&["SET", "k", &"v".repeat(10_000)]);
    for byte in &request {
        client.send(&[*byte]).await;
        // Each byte comes well in time; all of them would take a hundred times the limit.
        if timeout(SHORT / 100, client.stream.read_buf(&mut reply)).await.is_ok() {
            break;
        }
    }
    reply.extend(client.read_to_end().await);
    assert_eq!(String::from_utf8(reply).unwrap(), "-ERR the request took too long to arrive\r\n");
    server.assert_alive().await;
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let server = TestServer::start(settings(|s| s.idle_timeout = SHORT)).await;
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    idle.command(&["PING"]).await;
    let mut end = Vec::new();
    let mut pings = 0;
    while timeout(SHORT / 10, idle.stream.read_buf(&mut end)).await.is_err() {
        assert_eq!(busy.command(&["PING"]).await, "+PONG\r\n");
        pings += 1;
    }
    assert_eq!((end.len(), busy.command(&["PING"]).await.as_str()), (0, "+PONG\r\n"));
    assert!(pings > 1, "the idle connection was closed before its time");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_is_gone_in_the_middle_of_a_reply_harms_nobody() {
    let server = start().await;
    let mut client = server.connect().await;
    client.command(&["SET", "k", &"v".repeat(8 << 20)]).await;
    for _ in 0..10 {
        let mut rude = server.connect().await;
        rude.send(&encode(&["GET", "k"]).repeat(8)).await;
        // Bytes that were received and not read make the close a reset.
        rude.expect(b"$8388608\r\nvvv").await;
        drop(rude);
        let mut half = server.connect().await;
        half.send(b"*2\r\n$3\r\nGET\r\n$100\r\nabc").await;
        drop(half);
        server.assert_alive().await;
    }
    server.stop().await;
}

/// What `INFO memory` says that all connections hold.
async fn client_memory(client: &mut Client) -> usize {
    let info = client.command(&["INFO", "memory"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("mem_clients_normal:"));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn ten_thousand_requests_whose_replies_are_never_read() {
    const CAP: usize = 8 << 20;
    let server = TestServer::start(settings(|s| {
        s.request_timeout = 5 * SHORT;
        s.client_memory_bytes = CAP;
        s.output_bytes_max = 1 << 20;
    }))
    .await;
    let mut witness = server.connect().await;
    witness.command(&["SET", "k", &"v".repeat(100 << 10)]).await;
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let mut client = server.connect().await;
        // 1 GB of replies each. The server may stop reading before it has all requests.
        let requests = encode(&["GET", "k"]).repeat(10_000);
        let _ = timeout(SHORT, tokio::io::AsyncWriteExt::write_all(&mut client.stream, &requests)).await;
        greedy.push(client);
        let used = client_memory(&mut witness).await;
        assert!(used < 2 * CAP, "{used} bytes in use");
    }
    // The server gives up on all of them, without being read from.
    let mut polls = 0;
    while witness.command(&["CLIENT", "LIST"]).await.matches("id=").count() > 1 {
        polls += 1;
        tokio::task::yield_now().await;
    }
    println!("20 clients cut off; asked {polls} times");
    drop(greedy);
    assert!(client_memory(&mut witness).await < 1 << 20);
    server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_of_a_long_pipeline_gets_every_reply() {
    let server = TestServer::start(settings(|s| s.output_bytes_max = 64 << 10)).await;
    let mut client = server.connect().await;
    client.command(&["SET", "k", &"v".repeat(1000)]).await;
    let (mut reader, mut writer) = client.stream.into_split();
    let send = async {
        tokio::io::AsyncWriteExt::write_all(&mut writer, &encode(&["GET", "k"]).repeat(20_000))
            .await
            .unwrap();
    };
    let receive = async {
        let mut got = vec![0; 20_000 * 1009];
        reader.read_exact(&mut got).await.unwrap();
        assert!(got.chunks(1009).all(|reply| reply.starts_with(b"$1000\r\nvv") && reply.ends_with(b"v\r\n")));
    };
    timeout(resp::PATIENCE, async { tokio::join!(send, receive) }).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let server = TestServer::start(settings(|s| s.max_connections = 2)).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    first.command(&["PING"]).await;
    second.command(&["PING"]).await;
    for _ in 0..5 {
        let mut third = server.connect().await;
        assert_eq!(third.read_to_end().await, b"-ERR max number of clients reached\r\n");
    }
    assert_eq!(first.command(&["QUIT"]).await, "+OK\r\n");
    first.read_to_end().await;
    drop(first);
    // The place is free once the server has seen the first client leave.
    loop {
        let mut third = server.connect().await;
        third.send(b"PING\r\n").await;
        if third.read_exact(7).await == b"+PONG\r\n" {
            break;
        }
    }
    second.command(&["PING"]).await;
    server.stop().await;
}

#[tokio::test]
async fn requests_and_replies_past_the_memory_for_clients_are_refused() {
    let server = TestServer::start(settings(|s| s.client_memory_bytes = 4 << 20)).await;
    let mut client = server.connect().await;
    client.command(&["SET", "k", &"v".repeat(1 << 20)]).await;
    let many: Vec<&str> = ["MGET"].into_iter().chain(std::iter::repeat_n("k", 10)).collect();
    let reply = client.command(&many).await;
    assert_eq!(reply, "-ERR the reply would exceed the memory for clients; ask for less at a time\r\n");
    assert_eq!(client.command(&["STRLEN", "k"]).await, ":1048576\r\n");
    let mut large = server.connect().await;
    let request = encode(&["SET", "k", &"w".repeat(16 << 20)]);
    let _ = timeout(resp::PATIENCE, tokio::io::AsyncWriteExt::write_all(&mut large.stream, &request)).await;
    let mut reply = Vec::new();
    // The rest of the request may be lost with the connection.
    let _ = timeout(resp::PATIENCE, large.stream.read_to_end(&mut reply)).await.unwrap();
    let text = "-ERR the memory for all clients is used up; try again, or send smaller requests\r\n";
    assert!(reply.is_empty() || reply == text.as_bytes(), "{}", reply.escape_ascii());
    assert_eq!(client.command(&["STRLEN", "k"]).await, ":1048576\r\n");
    server.stop().await;
}

#[tokio::test]
async fn a_scan_goes_on_on_another_connection_and_finds_every_key() {
    let server = start().await;
    let mut clients = [server.connect().await, server.connect().await];
    let mut load = Vec::new();
    for i in 0..1000 {
        load.extend(encode(&["SET", &format!("key:{i:04}"), "v"]));
        load.extend(encode(&["SET", &format!("other:{i:04}"), "v"]));
    }
    clients[0].send(&load).await;
    clients[0].expect(&b"+OK\r\n".repeat(2000)).await;
    assert_eq!(clients[1].command(&["DBSIZE"]).await, ":2000\r\n");
    for (options, expected) in [
        (&[][..], 2000),
        (&["COUNT", "7"], 2000),
        (&["MATCH", "key:*", "COUNT", "100"], 1000),
        (&["MATCH", "*:00[0-4]?"], 100),
        (&["TYPE", "string", "COUNT", "1000"], 2000),
        (&["TYPE", "hash"], 0),
    ] {
        let (mut cursor, mut found, mut turn) = ("0".to_owned(), Vec::new(), 0);
        loop {
            let words = [&["SCAN", &cursor], options].concat();
            let reply = clients[turn % 2].command(&words).await;
            turn += 1;
            let lines: Vec<&str> = reply.lines().collect();
            found.extend(lines[4..].iter().skip(1).step_by(2).map(|key| (*key).to_owned()));
            cursor = lines[2].to_owned();
            if cursor == "0" {
                break;
            }
        }
        let count = found.len();
        found.sort();
        found.dedup();
        assert_eq!((count, found.len()), (expected, expected), "{options:?}");
    }
    let unknown = clients[0].command(&["SCAN", "12345"]).await;
    assert!(unknown.starts_with("-ERR unknown cursor"), "{unknown}");
    assert!(clients[0].command(&["KEYS", "key:000?"]).await.starts_with("*10\r\n"));
    assert_eq!(clients[0].command(&["KEYS", "nope*"]).await, "*0\r\n");
    server.stop().await;
}

#[tokio::test]
async fn flushall_removes_everything_where_it_is_enabled() {
    let server = TestServer::start(settings(|s| s.flushall_enabled = true)).await;
    let mut client = server.connect().await;
    for command in [&["FLUSHALL"][..], &["FLUSHDB", "SYNC"], &["flushall", "async"]] {
        for i in 0..3000 {
            client.send(&encode(&["SET", &i.to_string(), "v"])).await;
        }
        client.expect(&b"+OK\r\n".repeat(3000)).await;
        assert_eq!(client.command(command).await, "+OK\r\n");
        assert_eq!(client.command(&["DBSIZE"]).await, ":0\r\n");
    }
    assert_eq!(client.command(&["FLUSHALL", "NOW"]).await, "-ERR syntax error\r\n");
    server.stop().await;
}

#[tokio::test]
async fn a_stop_answers_what_was_received_and_closes_every_connection() {
    let mut server = start().await;
    let mut idle = server.connect().await;
    idle.command(&["PING"]).await;
    let mut busy = server.connect().await;
    busy.send(&encode(&["SET", "k", "v"]).repeat(100)).await;
    // The first reply shows that the server has the pipeline, which fits one read.
    busy.expect(b"+OK\r\n").await;
    server.begin_stop();
    assert_eq!(busy.read_to_end().await, b"+OK\r\n".repeat(99));
    assert_eq!(idle.read_to_end().await, b"");
    server.stop().await;
}
