//! A client of the Redis protocol that does just enough: it sends commands, many at a time, and reads replies.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A server that lets a client wait so long hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

/// A connection.
pub(crate) struct RespClient {
    reader: BufReader<TcpStream>,
    unsent: Vec<u8>,
}

impl RespClient {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream), unsent: vec![] })
    }

    /// Adds a command to what the next [`RespClient::send`] sends.
    pub(crate) fn queue(&mut self, words: &[&[u8]]) {
        self.unsent.extend(format!("*{}\r\n", words.len()).into_bytes());
        for word in words {
            self.unsent.extend(format!("${}\r\n", word.len()).into_bytes());
            self.unsent.extend_from_slice(word);
            self.unsent.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what is queued.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        self.reader.get_mut().write_all(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    /// Reads the next reply.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let mut line = vec![];
        self.reader.read_until(b'\n', &mut line)?;
        let Some((kind, text)) = line.strip_suffix(b"\r\n").and_then(<[u8]>::split_first) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let text = String::from_utf8_lossy(text).into_owned();
        let number =
            || text.parse::<i64>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        match kind {
            b'+' => Ok(Reply::Status(text)),
            b'-' => Ok(Reply::Error(text)),
            b':' => number().map(Reply::Integer),
            b'$' => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Bulk(None)),
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.reader.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Ok(Reply::Bulk(Some(bytes)))
                }
            },
            b'*' => (0..number()?).map(|_| self.reply()).collect::<io::Result<_>>().map(Reply::Array),
            other => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("a reply that begins with {other}")))
            }
        }
    }

    /// Sends one command and reads its reply.
    pub(crate) fn call(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        self.queue(words);
        self.send()?;
        self.reply()
    }
}
