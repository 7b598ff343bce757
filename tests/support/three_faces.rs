//! The three faces of a node as clients of the load see them: the handle (blocking and async), messages to the
//! coordinator, and RESP.

use dbex::{
    Coordinator, Durability, Error, Expected, Node, PutOptions, WriteBatch, blocking,
    messages::{Delete, Get, MultiGet, Put, Scan, Write},
};
use pollster::block_on;

use crate::{
    ask::{Ask, Failure, Found, expected_bytes, key_bytes, keys_bytes, number_of, prefix, value_bytes},
    cells::{ABSENT, Cells, KEYS},
    face::{Face, ScanOrder},
    random::Random,
    resp_client::{Reply, RespClient},
};

type Answer = Result<Found, Failure>;

fn options(synced: bool) -> PutOptions {
    let options = PutOptions::new();
    if synced { options.durability(Durability::Synced) } else { options }
}

/// The batch of a conditional or unconditional write.
fn batch(group: u32, id: u64, conditions: Cells, puts: [Option<bool>; KEYS], synced: bool) -> WriteBatch {
    let mut batch = WriteBatch::new();
    if synced {
        batch.durability(Durability::Synced);
    }
    for (key, value) in conditions.iter() {
        match expected_bytes(value) {
            Some(value) => batch.require(key_bytes(group, key), value),
            None => batch.require_absent(key_bytes(group, key)),
        };
    }
    for (key, put) in puts.iter().enumerate() {
        match put {
            Some(true) => batch.put(key_bytes(group, key), value_bytes(id)),
            Some(false) => batch.delete(key_bytes(group, key)),
            None => &mut batch,
        };
    }
    batch
}

/// What a write that may conflict found.
fn unless_conflict(done: Result<(), Error>) -> Answer {
    match done {
        Err(error) if error.kind() == dbex::ErrorKind::Conflict => Ok(Found::done_if(false)),
        done => Ok(done.map(|()| Found::done())?),
    }
}

/// The keys of a group that a scan found.
fn scanned<'a>(group: u32, pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Found {
    let mut cells = (0..KEYS).fold(Cells::default(), |cells, key| cells.and(key, ABSENT));
    for (found, value) in pairs {
        let key = (0..KEYS).find(|key| key_bytes(group, *key) == found).expect("a key of the group");
        cells = cells.and(key, number_of(Some(value)));
    }
    Found { cells, ..Found::done() }
}

/// A client that calls the handle's methods.
pub(crate) struct HandleFace {
    face: Face,
}

impl HandleFace {
    pub(crate) fn new(node: &blocking::Node, is_async: bool) -> Self {
        let face = if is_async { Face::Async(node.to_async()) } else { Face::Blocking(node.clone()) };
        Self { face }
    }

    pub(crate) fn run(&mut self, group: u32, id: u64, ask: Ask) -> Answer {
        let face = &self.face;
        Ok(match ask {
            Ask::Get(key) => Found::of(key, face.get(&key_bytes(group, key))?.as_deref()),
            Ask::Put { key, synced } => {
                face.put(&key_bytes(group, key), &value_bytes(id), options(synced))?;
                Found::done()
            }
            Ask::Delete(key) => {
                face.delete(&key_bytes(group, key))?;
                Found::done()
            }
            Ask::Swap(key) => {
                Found::of(key, face.update(&key_bytes(group, key), Some(value_bytes(id)))?.as_deref())
            }
            Ask::Take(key) => Found::of(key, face.update(&key_bytes(group, key), None)?.as_deref()),
            Ask::CompareAndSwap { key, expected } => self.compare_and_swap(group, id, key, expected)?,
            Ask::CompareAndDelete { key, expected } => {
                let expected = expected_bytes(expected);
                let expected = expected.as_deref().map_or(Expected::Absent, Expected::Value);
                Found::done_if(face.compare_and_delete(&key_bytes(group, key), expected)?)
            }
            Ask::Write { conditions, puts, synced } => {
                return unless_conflict(face.write(batch(group, id, conditions, puts, synced)));
            }
            Ask::MultiGet(keys) => {
                let values = face.multi_get(&keys_bytes(group, keys))?;
                Found::all(keys, values.iter().map(Option::as_deref))
            }
            Ask::Scan => {
                let order = ScanOrder {
                    range: (..).into(),
                    prefix: Some(prefix(group)),
                    reverse: id.is_multiple_of(2),
                    limit: None,
                };
                let pairs = face.scan(&order).take(KEYS + 1)?;
                scanned(group, pairs.iter().map(|(key, value)| (&key[..], &value[..])))
            }
            Ask::PutIfPresent(_) => unreachable!("the handle does not have it"),
        })
    }

    fn compare_and_swap(&self, group: u32, id: u64, key: usize, expected: u64) -> Answer {
        let (name, value) = (key_bytes(group, key), value_bytes(id));
        match expected_bytes(expected) {
            None if id.is_multiple_of(2) => unless_conflict(self.face.put_if_absent(&name, &value)),
            None => Ok(Found::done_if(self.face.compare_and_swap(&name, Expected::Absent, &value)?)),
            Some(expected) => {
                Ok(Found::done_if(self.face.compare_and_swap(&name, Expected::Value(&expected), &value)?))
            }
        }
    }
}

/// A client that sends messages to the coordinator, and waits for each answer.
pub(crate) struct MessagesFace {
    node: Node,
    coordinator: actix::Addr<Coordinator>,
    random: Random,
}

impl MessagesFace {
    pub(crate) fn new(node: &blocking::Node, seed: u64) -> Self {
        let node = node.to_async();
        Self { coordinator: node.coordinator(), node, random: Random::new(seed) }
    }

    pub(crate) fn run(&mut self, group: u32, id: u64, ask: Ask) -> Answer {
        Ok(match ask {
            Ask::Get(key) => Found::of(key, self.send(Get::new(key_bytes(group, key)))?.as_deref()),
            Ask::Put { key, synced } => {
                let value = value_bytes(id);
                let put = Put::new(key_bytes(group, key), &value);
                let put = if synced { put.durability(Durability::Synced) } else { put };
                let put = match self.permit(value.len())? {
                    Some(permit) => put.with_permit(permit),
                    None => put,
                };
                self.send(put)?;
                Found::done()
            }
            Ask::Delete(key) => {
                let delete = Delete::new(key_bytes(group, key));
                let delete = match self.permit(1)? {
                    Some(permit) => delete.with_permit(permit),
                    None => delete,
                };
                self.send(delete)?;
                Found::done()
            }
            // There is no message for these: conditional batches are what they are made of.
            Ask::CompareAndSwap { key, expected } => {
                let puts = std::array::from_fn(|other| (other == key).then_some(true));
                return self.write(batch(group, id, Cells::of(key, expected), puts, false));
            }
            Ask::CompareAndDelete { key, expected } => {
                let puts = std::array::from_fn(|other| (other == key).then_some(false));
                return self.write(batch(group, id, Cells::of(key, expected), puts, false));
            }
            Ask::Write { conditions, puts, synced } => {
                return self.write(batch(group, id, conditions, puts, synced));
            }
            Ask::MultiGet(keys) => {
                let values = self.send(MultiGet::new(keys_bytes(group, keys)))?;
                Found::all(keys, values.iter().map(Option::as_deref))
            }
            Ask::Scan => {
                let (from, to) = (key_bytes(group, 0), key_bytes(group, KEYS));
                let scan = Scan::new(from..to, KEYS + 1);
                let pairs = self.send(if id.is_multiple_of(2) { scan.reverse() } else { scan })?;
                scanned(group, pairs.iter().map(|(key, value)| (&key[..], &value[..])))
            }
            Ask::PutIfPresent(_) | Ask::Swap(_) | Ask::Take(_) => unreachable!("there is no message for it"),
        })
    }

    fn send<M, T>(&self, message: M) -> Result<T, Failure>
    where
        M: actix::Message<Result = dbex::Result<T>> + Send + 'static,
        T: Send + 'static,
        Coordinator: actix::Handler<M>,
    {
        Ok(self.deliver(message)??)
    }

    fn deliver<M>(&self, message: M) -> Result<M::Result, Failure>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        Coordinator: actix::Handler<M>,
    {
        let answered = block_on(self.coordinator.send(message));
        answered.map_err(|error| Failure { is_refused: false, text: format!("mailbox: {error}") })
    }

    fn write(&mut self, batch: WriteBatch) -> Answer {
        let permit = self.permit(batch.bytes())?;
        let write = Write::new(batch);
        let write = match permit {
            Some(permit) => write.with_permit(permit),
            None => write,
        };
        unless_conflict(self.deliver(write)?)
    }

    /// Every other write brings the right to wait at the node.
    fn permit(&mut self, bytes: usize) -> Result<Option<dbex::Permit>, Failure> {
        Ok(if self.random.permille(500) { Some(block_on(self.node.admit(bytes))?) } else { None })
    }
}

/// A connection to the server.
pub(crate) struct RespFace {
    client: RespClient,
}

impl RespFace {
    pub(crate) fn new(client: RespClient) -> Self {
        Self { client }
    }

    /// Adds an operation to the pipeline.
    pub(crate) fn queue(&mut self, group: u32, id: u64, ask: Ask) {
        let value = value_bytes(id);
        let words: Vec<Vec<u8>> = match ask {
            Ask::Get(key) => vec![b"GET".into(), key_bytes(group, key)],
            Ask::Put { key, .. } => vec![b"SET".into(), key_bytes(group, key), value],
            Ask::PutIfPresent(key) => vec![b"SET".into(), key_bytes(group, key), value, b"XX".into()],
            Ask::Delete(key) => vec![b"DEL".into(), key_bytes(group, key)],
            Ask::Swap(key) if id.is_multiple_of(2) => vec![b"GETSET".into(), key_bytes(group, key), value],
            Ask::Swap(key) => vec![b"SET".into(), key_bytes(group, key), value, b"GET".into()],
            Ask::Take(key) => vec![b"GETDEL".into(), key_bytes(group, key)],
            Ask::CompareAndSwap { key, expected: ABSENT } => {
                vec![b"SETNX".into(), key_bytes(group, key), value]
            }
            Ask::Write { puts, .. } => {
                let keys = keys_bytes(group, puts.map(|put| put.is_some()));
                let pairs = keys.into_iter().flat_map(|key| [key, value.clone()]);
                [b"MSET".to_vec()].into_iter().chain(pairs).collect()
            }
            Ask::MultiGet(keys) => [b"MGET".to_vec()].into_iter().chain(keys_bytes(group, keys)).collect(),
            Ask::CompareAndSwap { .. } | Ask::CompareAndDelete { .. } | Ask::Scan => {
                unreachable!("Redis has no command for it")
            }
        };
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        self.client.queue(&words);
    }

    /// Sends the pipeline.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn send(&mut self) -> std::io::Result<()> {
        self.client.send()
    }

    /// Waits for the next answer, which is to `ask`.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn answer(&mut self, ask: Ask) -> std::io::Result<Answer> {
        Ok(Ok(match (ask, self.client.reply()?) {
            (_, Reply::Error(text)) => {
                return Ok(Err(Failure { is_refused: text.starts_with("TRYAGAIN "), text }));
            }
            (Ask::Get(key) | Ask::Swap(key) | Ask::Take(key), Reply::Bulk(value)) => {
                Found::of(key, value.as_deref())
            }
            (Ask::PutIfPresent(_), Reply::Bulk(None)) => Found::done_if(false),
            (Ask::Put { .. } | Ask::PutIfPresent(_) | Ask::Write { .. }, Reply::Status(ok)) if ok == "OK" => {
                Found::done()
            }
            (Ask::Delete(_), Reply::Integer(count @ (0 | 1))) => {
                Found { was_there: Some(count == 1), ..Found::done() }
            }
            (Ask::CompareAndSwap { .. }, Reply::Integer(done @ (0 | 1))) => Found::done_if(done == 1),
            (Ask::MultiGet(keys), Reply::Array(values)) => {
                let values: Vec<_> = values.into_iter().map(bulk).collect();
                Found::all(keys, values.iter().map(Option::as_deref))
            }
            (ask, reply) => panic!("to {ask:?} the server answers {reply:?}"),
        }))
    }
}

fn bulk(reply: Reply) -> Option<Vec<u8>> {
    match reply {
        Reply::Bulk(value) => value,
        other => panic!("MGET has {other:?} among its values"),
    }
}
