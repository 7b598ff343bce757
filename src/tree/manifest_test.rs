//! Manifests that are torn at every byte, flipped at every byte, of another shard; append and sync failures.
