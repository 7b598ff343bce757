//! The smallest program that keeps data in dbex: `cargo run --example embed`.

use dbex::{Settings, WriteBatch, blocking::Node};

fn main() -> dbex::Result<()> {
    let node = Node::open(Settings::builder().data_dir("embed-data").build()?)?;

    let mut batch = WriteBatch::new();
    batch.put("user:1", "Ada").put("user:2", "Grace");
    node.write(batch)?; // both or neither, also when they lie in different shards

    for pair in node.scan(..).prefix("user:") {
        let (key, value) = pair?;
        println!("{} = {}", key.escape_ascii(), value.escape_ascii());
    }
    println!("this program has run {} times", node.increment("runs", 1)?);
    node.close()
}
