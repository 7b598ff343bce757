//! One connection: reads what has arrived, runs the complete requests in it, writes all their replies, and
//! only then waits. Replies that the client does not take stop the reading once they are many, so a
//! connection's memory is bounded whatever its client does; so is its time, by deadlines.

use std::{collections::VecDeque, io, pin::Pin, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::TcpStream,
    sync::watch,
    time::{Instant, Sleep, sleep_until, timeout},
};

use super::{
    errors, execute,
    framing::{Next, Request, next_request},
    limits::RequestScan,
    memory::MemoryCharge,
    output::Output,
    reply::Reply,
    server::Session,
};

/// How much one read asks for at first, and at most.
const READ_BYTES: usize = 16 << 10;
const MAX_READ_BYTES: usize = 256 << 10;
/// The most requests that are parsed before they run.
const REQUESTS_AT_ONCE: usize = 1024;
/// How long, and for how many bytes, what a client still sends is thrown away after an error, so that the
/// error reaches it before the connection's reset does.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 << 20;
/// A deadline for those who have none.
const FAR_AWAY: Duration = Duration::from_hours(24);

/// Why a connection ends.
#[derive(Debug)]
enum Ending {
    /// The client closed or reset it, or takes no bytes any more: nothing can be told to it.
    Gone,
    /// The server closes it once the replies are written, and the client may still be sending.
    Closing,
    /// The server closes it once the replies are written, and the client is silent or the server stops.
    Idle,
}

pub(super) struct Connection {
    stream: TcpStream,
    session: Session,
    input: BytesMut,
    /// Memory of `input` and of the requests that wait to run.
    charge: MemoryCharge,
    scan: RequestScan,
    /// How many bytes the request at the front of `input` needs, as far as known.
    wanted: usize,
    read_bytes: usize,
    waiting: VecDeque<Request>,
    /// No more requests are taken: this is answered once those that wait have run.
    last_reply: Option<Reply>,
    output: Output,
    /// The client sends nothing more.
    end_of_input: bool,
    times: Times,
    alarm: Pin<Box<Sleep>>,
}

/// What the deadlines are counted from.
struct Times {
    last_active: Instant,
    last_write: Instant,
    /// When the first bytes of an incomplete request were seen.
    request_began: Option<Instant>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, session: Session) -> Self {
        let now = Instant::now();
        Self {
            stream,
            input: BytesMut::new(),
            charge: session.new_charge(),
            scan: RequestScan::default(),
            wanted: 1,
            read_bytes: READ_BYTES,
            waiting: VecDeque::new(),
            last_reply: None,
            output: Output::new(session.server.settings.output_bytes_max, &session.server.memory),
            end_of_input: false,
            times: Times { last_active: now, last_write: now, request_began: None },
            alarm: Box::pin(sleep_until(now + FAR_AWAY)),
            session,
        }
    }

    /// Serves the connection until either side ends it, or the server stops and what was received has run.
    pub(super) async fn serve(mut self, mut stop: watch::Receiver<bool>) {
        let ending = loop {
            match self.turn().await {
                Ok(true) => {}
                Ok(false) => match self.wait(&mut stop).await {
                    Ok(()) => {}
                    Err(ending) => break ending,
                },
                Err(ending) => break ending,
            }
        };
        tracing::debug!(client = self.session.client.id, ?ending, "connection ends");
        match ending {
            Ending::Gone => {}
            Ending::Closing => self.close(true).await,
            Ending::Idle => self.close(false).await,
        }
    }

    /// Parses, runs and writes what it can without waiting for the client. `false` if only waiting helps.
    async fn turn(&mut self) -> Result<bool, Ending> {
        let more = self.take_requests();
        if !self.waiting.is_empty() {
            let nothing_waited = self.output.is_empty();
            execute::run(&mut self.session, &mut self.waiting, &mut self.output).await;
            let now = Instant::now();
            self.times.last_active = now;
            if nothing_waited {
                self.times.last_write = now;
            }
        }
        if self.waiting.is_empty()
            && let Some(reply) = self.last_reply.take()
        {
            self.output.push(reply, self.session.protocol);
            self.session.closing = true;
        }
        self.write()?;
        if self.session.closing {
            return Err(Ending::Closing);
        }
        let runnable = (more || !self.waiting.is_empty()) && !self.output.is_full();
        if runnable {
            // Everything may have been ready at once: other connections of this thread get their turn.
            tokio::task::yield_now().await;
        } else if self.end_of_input && self.output.is_empty() {
            return Err(Ending::Gone);
        }
        Ok(runnable)
    }

    /// Parses the complete requests in the input, if those before have run and the output has room. `true`
    /// if there may be more.
    fn take_requests(&mut self) -> bool {
        if !self.waiting.is_empty() || self.last_reply.is_some() || self.output.is_full() {
            return true;
        }
        self.charge.set(self.input.capacity());
        // What follows an AUTH is parsed when it has run, because it decides how large a request may be.
        let most = if self.session.authenticated { REQUESTS_AT_ONCE } else { 1 };
        let limits = self.session.limits();
        let mut large = false;
        while self.waiting.len() < most {
            match next_request(&mut self.input, &mut self.scan, &limits, &mut self.charge) {
                Ok(Next::Request(request)) => {
                    large |= request.memory_bytes() > MAX_READ_BYTES;
                    self.waiting.push_back(request);
                    self.times.request_began = None;
                    self.wanted = 1;
                }
                Ok(Next::Incomplete { wanted }) => {
                    self.wanted = wanted;
                    if !self.input.is_empty() {
                        self.times.request_began.get_or_insert_with(Instant::now);
                    }
                    break;
                }
                Ok(Next::NoMemory) => {
                    self.last_reply = Some(Reply::error(errors::NO_CLIENT_MEMORY));
                    break;
                }
                Err(error) => {
                    tracing::debug!(client = self.session.client.id, %error, "not a request");
                    self.last_reply = Some(Reply::error(format!("ERR {error}")));
                    break;
                }
            }
        }
        if large {
            // Lets go of the buffer that the large request came in, once that has run.
            self.input = BytesMut::from(&self.input[..]);
        }
        let requests: usize = self.waiting.iter().map(Request::memory_bytes).sum();
        self.charge.set(self.input.capacity() + requests);
        self.waiting.len() >= most
    }

    /// Waits until the client sends or takes bytes, a deadline passes, or the server stops.
    async fn wait(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), Ending> {
        if self.input.is_empty() && self.output.is_empty() && self.input.capacity() > READ_BYTES {
            self.input = BytesMut::new();
        }
        let may_read = self.may_read();
        let interest = match (may_read, self.output.is_empty()) {
            (true, true) => Interest::READABLE,
            (true, false) => Interest::READABLE | Interest::WRITABLE,
            (false, _) => Interest::WRITABLE,
        };
        self.set_alarm(may_read);
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(Ending::Idle),
            ready = self.stream.ready(interest) => {
                let ready = ready.map_err(|_| Ending::Gone)?;
                if !may_read {
                    // While the server does not read, the rest of a request cannot arrive.
                    self.times.request_began = self.times.request_began.map(|_| Instant::now());
                } else if ready.is_readable() || ready.is_read_closed() {
                    self.read()?;
                }
                Ok(())
            }
            () = self.alarm.as_mut() => self.check_deadline(may_read),
        }
    }

    fn may_read(&self) -> bool {
        !self.end_of_input
            && self.waiting.is_empty()
            && !self.output.is_full()
            // At the cap, a client whose replies wait must take them before it may send more.
            && (self.output.is_empty() || self.room_for_read() > 0)
    }

    /// How much the next read may ask for: 0 if the memory for all clients is used up.
    fn room_for_read(&self) -> usize {
        let memory = &self.session.server.memory;
        let free = memory.cap().saturating_sub(memory.used());
        let held = self.input.capacity();
        if free >= self.read_bytes || held + self.read_bytes <= super::memory::FREE_BYTES {
            self.read_bytes
        } else if free >= READ_BYTES || held + READ_BYTES <= super::memory::FREE_BYTES {
            READ_BYTES
        } else {
            self.input.capacity() - self.input.len()
        }
    }

    fn read(&mut self) -> Result<(), Ending> {
        if !self.reserve() {
            self.last_reply = Some(Reply::error(errors::NO_CLIENT_MEMORY));
            return Ok(());
        }
        let room = self.input.capacity() - self.input.len();
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => self.end_of_input = true,
            Ok(bytes) => {
                self.read_bytes = match bytes {
                    _ if bytes == room => (self.read_bytes * 2).min(MAX_READ_BYTES),
                    _ if bytes < self.read_bytes / 4 => READ_BYTES,
                    _ => self.read_bytes,
                };
                self.times.last_active = Instant::now();
                self.session.server.counters.input_bytes.add(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Ending::Gone),
        }
        Ok(())
    }

    /// Makes room for the next read. What is reserved for a large request grows with what has arrived of it,
    /// never with what it claims to be.
    fn reserve(&mut self) -> bool {
        let room = self.room_for_read();
        if room == 0 {
            return false;
        }
        let held = self.input.len();
        if self.input.capacity() - held >= room.min(READ_BYTES) {
            return true;
        }
        if self.wanted <= MAX_READ_BYTES || held <= MAX_READ_BYTES {
            self.input.reserve(room);
        } else {
            let capacity = (held * 2).min(self.wanted.max(held) + READ_BYTES);
            if !self.charge.try_set(capacity) {
                return false;
            }
            let mut larger = BytesMut::with_capacity(capacity);
            larger.extend_from_slice(&self.input);
            self.input = larger;
        }
        self.charge.set(self.input.capacity());
        true
    }

    /// Writes as much as the socket takes.
    fn write(&mut self) -> Result<(), Ending> {
        while !self.output.is_empty() {
            match self.stream.try_write(self.output.unwritten()) {
                Ok(0) => return Err(Ending::Gone),
                Ok(bytes) => {
                    self.output.wrote(bytes);
                    self.times.last_write = Instant::now();
                    self.session.server.counters.output_bytes.add(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Ending::Gone),
            }
        }
        Ok(())
    }

    /// When the connection has waited long enough, if it waits as it does now.
    fn deadline(&self, may_read: bool) -> Option<Instant> {
        let settings = &self.session.server.settings;
        let after = |from: Instant, limit: Duration| (!limit.is_zero()).then(|| from + limit);
        let began = self.times.request_began.filter(|_| may_read && !self.input.is_empty());
        let arrival = began.and_then(|began| after(began, settings.request_timeout));
        if !self.output.is_empty() {
            let write = after(self.times.last_write, settings.request_timeout);
            return [write, arrival].into_iter().flatten().min();
        }
        if began.is_some() {
            return arrival;
        }
        // Who does not authenticate may not keep a place for long.
        let silence =
            if self.session.authenticated { settings.idle_timeout } else { settings.request_timeout };
        after(self.times.last_active, silence)
    }

    /// Sets the alarm no later than the deadline. It is moved forward only when it rings, because most waits
    /// are short and moving it costs more than they do.
    fn set_alarm(&mut self, may_read: bool) {
        let deadline = self.deadline(may_read).unwrap_or_else(|| Instant::now() + FAR_AWAY);
        if deadline < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(deadline);
        }
    }

    fn check_deadline(&mut self, may_read: bool) -> Result<(), Ending> {
        let now = Instant::now();
        if self.deadline(may_read).is_none_or(|deadline| deadline > now) {
            return Ok(());
        }
        tracing::debug!(client = self.session.client.id, "a connection's deadline has passed");
        if !self.output.is_empty() {
            return Err(Ending::Gone);
        }
        if self.input.is_empty() {
            return Err(Ending::Idle);
        }
        self.output.push(Reply::error(errors::REQUEST_TIMEOUT), self.session.protocol);
        Err(Ending::Closing)
    }

    /// Writes what is left and ends the connection; if asked, waits for a moment until the client has noticed.
    async fn close(mut self, lingers: bool) {
        let patience = match self.session.server.settings.request_timeout {
            Duration::ZERO => FAR_AWAY,
            limit => limit,
        };
        let written = timeout(patience, self.stream.write_all(self.output.unwritten())).await;
        if matches!(written, Ok(Ok(()))) && self.stream.shutdown().await.is_ok() && lingers {
            linger(&self.stream).await;
        }
    }
}

/// Throws away what a client still sends, until it closes or has had enough time and bytes: closing at once
/// would reset the connection, and the client might never see the last reply.
pub(super) async fn linger(stream: &TcpStream) {
    let discard = async {
        let mut left = LINGER_BYTES;
        let mut buffer = vec![0; READ_BYTES];
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => left = left.saturating_sub(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    // A client that takes longer is not waited for.
    let _ = timeout(LINGER, discard).await;
}
