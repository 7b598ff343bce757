//! Runs the requests of one connection in program order. Neighbours that write single keys go to the node
//! as one list of steps, so that those of one shard share a turn; neighbours that read single keys are
//! waited for together, and read again later if there is no room for their replies yet.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    command_table::{self, CommandSpec, Handler, StepReply},
    errors,
    framing::Request,
    output::Output,
    reply::Reply,
    server::Session,
};
use crate::{
    error::{Error, Result},
    node::{Change, Current, Step, StepDone},
};

pub(super) mod admin;
pub(super) mod connection;
pub(super) mod expiry;
pub(super) mod keys;
pub(super) mod strings;

/// Runs `batch` from its front until it is empty, the output is full, or the connection is to be closed.
pub(super) async fn run(session: &mut Session, batch: &mut VecDeque<Request>, output: &mut Output) {
    while !output.is_full() && !session.closing {
        let Some(request) = batch.front() else { return };
        let spec = match command_table::resolve(request, session.authenticated) {
            Ok(spec) => spec,
            Err(reply) => {
                session.closing |= is_http(request);
                batch.pop_front();
                output.push(reply, session.protocol);
                continue;
            }
        };
        match spec.handler {
            Handler::Steps(_) => run_steps(session, batch, output).await,
            Handler::Get(_) => run_gets(session, batch, output).await,
            _ => {
                let Some(request) = batch.pop_front() else { return };
                session.server.counters.commands.add(1);
                let reply = run_alone(session, spec, &request).await;
                output.push(reply, session.protocol);
            }
        }
    }
}

/// A browser that is made to send requests to this port must not get its body run as commands. Its header
/// lines come first, and one of these is among them.
fn is_http(request: &Request) -> bool {
    [&b"host:"[..], b"post"].iter().any(|word| request.argument(0).eq_ignore_ascii_case(word))
}

async fn run_alone(session: &mut Session, spec: &CommandSpec, request: &Request) -> Reply {
    match spec.handler {
        Handler::Session(run) | Handler::Container(Some(run), _) => run(session, request),
        Handler::Alone(run) => run(session, request).await,
        Handler::Container(None, _) | Handler::Steps(_) | Handler::Get(_) => errors::wrong_arity(spec.name),
    }
}

/// What a command in a run of steps waits for.
enum Waiting {
    /// This many steps, and then its reply is made of them.
    Steps(usize, StepReply),
    /// Nothing: its arguments were wrong.
    Nothing(Reply),
}

async fn run_steps(session: &mut Session, batch: &mut VecDeque<Request>, output: &mut Output) {
    let (mut steps, mut waiting) = (Vec::new(), Vec::new());
    while steps.len() < session.steps_at_once()
        && let Some(request) = batch.front()
        && let Ok(CommandSpec { handler: Handler::Steps(plan), .. }) =
            command_table::resolve(request, session.authenticated)
    {
        let before = steps.len();
        waiting.push(match plan(request, &mut steps) {
            Ok(reply) => Waiting::Steps(steps.len() - before, reply),
            Err(reply) => Waiting::Nothing(reply),
        });
        batch.pop_front();
    }
    session.server.counters.commands.add(waiting.len());
    let mut results = StepResults { steps: steps.into_iter(), done: Vec::new().into_iter() };
    for waiting in waiting {
        let reply = match waiting {
            Waiting::Nothing(reply) => reply,
            Waiting::Steps(count, reply) => results.reply(session, count, reply).await,
        };
        output.push(reply, session.protocol);
    }
}

/// The results of a list of steps, in its order. The node runs the next part of the list when a result of it
/// is asked for, so that the old values in the results of one part only are held at a time.
struct StepResults {
    steps: std::vec::IntoIter<Step>,
    done: std::vec::IntoIter<Result<StepDone>>,
}

impl StepResults {
    async fn next(&mut self, session: &mut Session) -> Result<StepDone> {
        if self.done.as_slice().is_empty() {
            let part = self.steps.by_ref().take(session.steps_at_once()).collect();
            self.done = session.server.node.steps(part).await.into_iter();
        }
        let done = self.done.next().unwrap_or_else(|| Err(Error::internal("a step has no result")))?;
        session.saw_value(done.previous.as_ref().map_or(0, Bytes::len));
        Ok(done)
    }

    /// The reply to a command of `count` steps: an error if one of them failed.
    async fn reply(&mut self, session: &mut Session, count: usize, reply: StepReply) -> Reply {
        let (mut present, mut failed, mut last) = (0, None, StepDone::default());
        for _ in 0..count {
            match self.next(session).await {
                Ok(done) => {
                    present += usize::from(done.previous.is_some());
                    last = done;
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match (failed, reply) {
            (Some(error), _) => errors::node_error(&error),
            (None, StepReply::One(reply)) => reply(last),
            (None, StepReply::CountPresent) => Reply::count(present),
        }
    }
}

async fn run_gets(session: &mut Session, batch: &mut VecDeque<Request>, output: &mut Output) {
    let mut gets = Vec::new();
    for request in batch.iter().take(session.gets_at_once()) {
        let spec = command_table::resolve(request, session.authenticated);
        let Ok(CommandSpec { handler: Handler::Get(reply), .. }) = spec else { break };
        let value = session.server.node.get(request.argument(1));
        gets.push(async move { (value.await, reply) });
    }
    for (value, reply) in futures_util::future::join_all(gets).await {
        if output.is_full() {
            return;
        }
        let found = value.as_ref().ok().map(|value| value.as_ref().map(Bytes::len));
        session.saw_value(found.flatten().unwrap_or(0));
        if !output.push_if_room(errors::reply_or_error(value.map(reply)), session.protocol) {
            return;
        }
        batch.pop_front();
        session.server.counters.commands.add(1);
        if let Some(bytes) = found {
            session.count_lookups(usize::from(bytes.is_some()), usize::from(bytes.is_none()));
        }
    }
}

/// A step that changes a key's value by a function of the old one.
fn update(key: &Bytes, change: impl FnOnce(Option<&[u8]>) -> Result<Change> + Send + 'static) -> Step {
    let change = move |current: Option<Current<'_>>| change(current.map(|current| current.value));
    Step::Update { key: key.clone(), change: Box::new(change) }
}

/// A step that changes what a key has by a function of that.
fn update_entry(key: &Bytes, change: impl FnOnce(Option<Current<'_>>) -> Change + Send + 'static) -> Step {
    Step::Update { key: key.clone(), change: Box::new(move |current| Ok(change(current))) }
}
