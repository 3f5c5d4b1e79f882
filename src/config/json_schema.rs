//! The JSON Schema of the pipeline file, for editors: made from the same types that read it.

use super::raw::Pipeline;
use schemars::generate::SchemaSettings;

/// JSON Schema (draft 2020-12) of a pipeline file.
pub fn json_schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Pipeline>();
    schema.insert("$id".to_owned(), "https://github.com/headrig/headrig/schemas/pipeline.schema.json".into());
    schema.to_value()
}
