//! An actix program that talks to the node by messages: `cargo run --example actor`.

use dbex::{
    Node, Settings,
    messages::{Get, Put},
};

#[actix::main]
async fn main() -> dbex::Result<()> {
    let node = Node::open(Settings::builder().data_dir("actor-data").build()?).await?;
    let coordinator: actix::Addr<dbex::Coordinator> = node.coordinator();

    // A permit bounds the memory of what waits; without one a busy node answers `Busy`.
    let permit = node.admit(16).await?;
    let put = Put::new("greeting", "hello").with_permit(permit);
    coordinator.send(put).await.map_err(|_| closed())??;

    let value = coordinator.send(Get::new("greeting")).await.map_err(|_| closed())??;
    println!("greeting = {value:?}");
    node.close().await
}

/// A mailbox error means that the coordinator is gone: the node is closed.
fn closed() -> dbex::Error {
    dbex::Error::closed()
}
