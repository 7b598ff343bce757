//! The shard actors, the coordinator and the handles.
