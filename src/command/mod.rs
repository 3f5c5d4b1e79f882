//! command
pub mod generate;
