//! What the stages hand to each other, in the order of the flow: [`raw`] lines come from a source, become
//! [`event`] batches (or [`dead`] letters), windows make [`sample`] rows of them, rules make [`alert`] events,
//! and an output answers with a [`receipt`]. [`schema`] says what columns an event has, [`state`] is what a stage
//! hands to its successor after a restart, and [`partial`] what one daemon hands to others; both in a [`frame`].
//!
//! Batches are owned by one stage at a time and moved, never shared; positions travel forward with them.

pub mod alert;
pub mod dead;
pub mod event;
pub mod frame;
pub mod partial;
pub mod raw;
pub mod receipt;
pub mod sample;
pub mod schema;
pub mod state;
