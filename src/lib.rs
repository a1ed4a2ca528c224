//! nepenthe keeps a matrix-factorisation recommender fresh and able to forget.
//!
//! The pure core is [`model`]; everything else is the shell that does I/O and calls it.
//! ARCHITECTURE.md at the top of the repository is the map.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
#[cfg(test)]
mod fuzz;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod model;
#[cfg(test)]
mod reference;
pub mod run;
#[cfg(test)]
mod schemas;
pub mod store;
