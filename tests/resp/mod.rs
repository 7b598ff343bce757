//! A server on a free port with a node in a temporary directory, and a client that speaks raw bytes.

#![cfg(test)]

use std::{net::SocketAddr, time::Duration};

use dbex::{
    Node, NodeOptions,
    server::resp::{RespSettings, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// Long enough for any answer on any machine: reached only by a server that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    node: Node,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<dbex::Result<()>>,
    _directory: tempfile::TempDir,
}

impl TestServer {
    pub(crate) async fn start(settings: RespSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = NodeOptions::default();
        options.data_dir = directory.path().join("data");
        options.shards = 2;
        let node = Node::open(options).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(node.clone(), listener, settings, shutdown));
        Self { address, node, stop: Some(stop), task, _directory: directory }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap() }
    }

    /// Tells the server to stop, without waiting for it.
    pub(crate) fn begin_stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Stops the server and then the node; fails if either does not end in order.
    pub(crate) async fn stop(mut self) {
        self.begin_stop();
        timeout(PATIENCE, self.task).await.expect("the server stops").unwrap().unwrap();
        self.node.close().await.unwrap();
    }

    /// A new connection is served: the server lives.
    pub(crate) async fn assert_alive(&self) {
        let mut client = self.connect().await;
        client.send(b"PING\r\n").await;
        client.expect(b"+PONG\r\n").await;
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server reads").unwrap();
    }

    /// The next reply is exactly these bytes.
    pub(crate) async fn expect(&mut self, expected: &[u8]) {
        let got = self.read_exact(expected.len()).await;
        assert!(
            got == expected,
            "expected {:?}, got {:?}",
            expected[..expected.len().min(300)].escape_ascii().to_string(),
            got[..got.len().min(300)].escape_ascii().to_string()
        );
    }

    /// Reads so many bytes, or fewer if the server closes the connection first.
    pub(crate) async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut got = vec![0; count];
        let mut filled = 0;
        while filled < count {
            let read = timeout(PATIENCE, self.stream.read(&mut got[filled..]));
            match read
                .await
                .unwrap_or_else(|_| panic!("no reply behind {:?}", got[..filled].escape_ascii().to_string()))
            {
                Ok(0) | Err(_) => break,
                Ok(bytes) => filled += bytes,
            }
        }
        got.truncate(filled);
        got
    }

    /// Everything up to the server's orderly close.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        timeout(PATIENCE, self.stream.read_to_end(&mut got)).await.expect("the server closes").unwrap();
        got
    }

    /// The next reply, with its line's end. Bulk strings and aggregates are read whole.
    pub(crate) async fn reply(&mut self) -> String {
        let mut text = self.line().await;
        let count = |text: &str| text.trim_end()[1..].parse::<i64>().unwrap_or(0);
        let elements = match text.as_bytes().first() {
            Some(b'$' | b'=') if count(&text) >= 0 => {
                let body = self.read_exact(usize::try_from(count(&text)).unwrap() + 2).await;
                text.push_str(&String::from_utf8_lossy(&body));
                0
            }
            Some(b'*' | b'~') => count(&text),
            Some(b'%') => 2 * count(&text),
            _ => 0,
        };
        for _ in 0..elements {
            text.push_str(&Box::pin(self.reply()).await);
        }
        text
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let byte = self.read_exact(1).await;
            assert_eq!(byte.len(), 1, "closed in the middle of {:?}", line.escape_ascii().to_string());
            line.extend_from_slice(&byte);
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Sends a command of words and returns its reply.
    pub(crate) async fn command(&mut self, words: &[&str]) -> String {
        self.send(&encode(words)).await;
        self.reply().await
    }
}

/// A command as clients send it.
pub(crate) fn encode(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
