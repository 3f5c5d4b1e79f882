//! YAML text → a checked [`Plan`], or every mistake with line, column and remedy.
//!
//! Three steps, each pure: text → located tree (`yaml`, `interpolate`), tree → the file's types (`read`, `raw`), types
//! → plan (`resolve`, which has each stage check and build its part). Nothing here does I/O: variables and schema files come
//! through functions that the caller passes in. A mistake never hides another one, and is never reported as two:
//! reading steps over what is wrong, and what builds on a wrong part isn't looked at.

mod deprecated;
mod interpolate;
mod json_schema;
mod limits;
mod mistake;
mod needed;
mod plain;
mod plan;
mod raw;
mod read;
pub mod render;
mod resolve;
mod schema_file;
#[cfg(test)]
mod tests;
mod unbuilt;
mod yaml;

pub use json_schema::json_schema;
pub use plan::{Limits, Plan, Role};
pub use resolve::load;
