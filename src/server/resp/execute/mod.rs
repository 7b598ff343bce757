//! Runs the requests of one connection in program order. Neighbours that write single keys go to the node
//! as one list of steps, so that those of one shard share a turn; neighbours that read single keys are
//! waited for together, and read again later if there is no room for their replies yet.

use std::collections::VecDeque;

use super::{
    command_table::{self, CommandSpec, Handler, StepReply},
    errors,
    framing::Request,
    output::Output,
    reply::Reply,
    server::Session,
};
use crate::node::{Step, StepDone};

pub(super) mod admin;
pub(super) mod connection;
pub(super) mod keys;
pub(super) mod strings;

/// The most steps that go to the node in one call.
const STEPS_AT_ONCE: usize = 1024;

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

async fn run_steps(session: &Session, batch: &mut VecDeque<Request>, output: &mut Output) {
    let (mut steps, mut waiting) = (Vec::new(), Vec::new());
    while steps.len() < STEPS_AT_ONCE
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
    let mut results = Vec::with_capacity(steps.len());
    while !steps.is_empty() {
        let behind = steps.split_off(steps.len().min(STEPS_AT_ONCE));
        results.extend(session.server.node.steps(steps).await);
        steps = behind;
    }
    let mut results = results.into_iter();
    for waiting in waiting {
        let reply = match waiting {
            Waiting::Nothing(reply) => reply,
            Waiting::Steps(count, reply) => {
                let done: Result<Vec<StepDone>, _> = results.by_ref().take(count).collect();
                errors::reply_or_error(done.map(|done| reply(&done)))
            }
        };
        output.push(reply, session.protocol);
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
        let found = value.as_ref().ok().map(|value| value.as_ref().map(bytes::Bytes::len));
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
fn update(
    key: &bytes::Bytes,
    change: impl FnOnce(Option<&[u8]>) -> crate::error::Result<crate::node::Change> + Send + 'static,
) -> Step {
    Step::Update { key: key.clone(), change: Box::new(change) }
}
