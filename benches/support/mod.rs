//! What the measurements share.

pub mod distance;
pub mod movielens;
pub mod peers;
pub mod report;
pub mod world;
