//! Ten disturbances of a real Kafka with three nodes and of the service on it; `make torture` has the full lot.

#[path = "../examples/torture/arena.rs"]
mod arena;
#[path = "../examples/torture/blows.rs"]
mod blows;
#[path = "../examples/real/child.rs"]
mod child;
#[path = "support/cluster.rs"]
mod cluster;
#[path = "../examples/torture/damage.rs"]
mod damage;
#[path = "support/kafka.rs"]
mod kafka;
#[path = "../examples/real/oracle.rs"]
mod oracle;
#[path = "../examples/support/process.rs"]
mod process;
#[path = "../examples/torture/watcher.rs"]
mod watcher;
#[path = "../examples/torture/world.rs"]
mod world;

use arena::{Arena, Brokers};
use blows::Blow;
use cluster::Cluster;

/// The same sequence every time; when what is sent meets what breaks is up to the machine.
const SEED: u64 = 1;

#[test]
fn ten_disturbances_lose_double_resurrect_and_tear_nothing() {
    let mut arena = Arena::start(Brokers::Three(Cluster::start()), SEED, false).expect("a service that publishes");
    for blow in [Blow::Kill, Blow::Zombie, Blow::Leader, Blow::Kill, Blow::Full, Blow::Other, Blow::Stop, Blow::Join, Blow::Kill] {
        blow.strike(&mut arena).unwrap_or_else(|error| panic!("seed {SEED}: {error}; readers saw {:?}", arena.findings()));
    }
    let account = arena.settle().expect("everything comes to its end");
    assert!(account.holds(), "seed {SEED}: {account:#?}");
    assert!(account.plays > 100 && account.forgets > 0, "{account:#?}");
    // The tenth: every table file once.
    let flips = damage::flip(&mut arena, 4).expect("copies of the state");
    assert!(flips.faults.is_empty(), "seed {SEED}: {flips:#?}");
}
