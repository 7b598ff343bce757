//! The shard actor: runs its shard's turns on an arbiter thread of its own, fed by the shard's inbox.

use std::sync::Arc;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, ContextFutureSpawner, Handler, Message,
    StreamHandler, fut::wrap_future,
};
use futures_util::StreamExt;

use super::{node_core::NodeCore, request::WriteRequest, shard_core::ShardCore};

/// How many requests one turn takes at the most.
const MAX_TURN: usize = 1024;

/// One incarnation's actor.
pub(super) struct ShardActor {
    core: Arc<NodeCore>,
    shard: Arc<ShardCore>,
}

impl ShardActor {
    pub(super) fn new(core: Arc<NodeCore>, shard: Arc<ShardCore>) -> Self {
        Self { core, shard }
    }
}

impl Actor for ShardActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(self.shard.waiting().into_stream().ready_chunks(MAX_TURN));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.shard.refuse_waiting_if_sick();
    }
}

impl StreamHandler<Vec<WriteRequest>> for ShardActor {
    fn handle(&mut self, requests: Vec<WriteRequest>, ctx: &mut Self::Context) {
        if let Some(turn) = self.shard.try_turn() {
            self.core.run_turn(&self.shard, turn, requests);
            return;
        }
        // Somebody runs a turn in place, or a batch does: wait for it, and take nothing else meanwhile.
        let (core, shard) = (Arc::clone(&self.core), Arc::clone(&self.shard));
        let run = async move {
            let turn = shard.turn().await;
            core.run_turn(&shard, turn, requests);
        };
        wrap_future::<_, Self>(run).map(|(), _, _| ()).wait(ctx);
    }
}

/// Ends a shard actor. From: the coordinator, when the incarnation is dead. No reply.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StopShard;

impl Handler<StopShard> for ShardActor {
    type Result = ();

    fn handle(&mut self, _: StopShard, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
