//! What the tests of all steps share: a schema and batches of it.

use super::{Built, Config, Transform, TransformCounts};
use crate::expression::Compiler;
use crate::place::{Located, Problem};
use crate::record::event::EventBatch;
use crate::record::raw::PartitionId;
use crate::record::schema::{BUILT_IN, Column, ColumnType, Schema};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use std::sync::Arc;

const OWN: [(&str, ColumnType); 5] = [
    ("status", ColumnType::Int),
    ("client_ip", ColumnType::Text),
    ("ratio", ColumnType::Float),
    ("payload", ColumnType::Json),
    ("ok", ColumnType::Bool),
];

pub(super) fn schema() -> Schema {
    let column = |(name, kind): &(&str, ColumnType)| Column {
        high_cardinality: *name == "client_ip",
        ..Column::new(*name, *kind)
    };
    Schema::new("test", 1, BUILT_IN.iter().chain(&OWN).map(column).collect())
}

/// One row per status; the clock reads the row's number.
pub(super) fn batch(statuses: &[Option<i64>]) -> EventBatch {
    let length = statuses.len();
    let clock: Vec<i64> = (0..length as i64).collect();
    let columns = schema()
        .columns
        .iter()
        .map(|column| -> ArrayRef {
            match column.name.as_str() {
                "ts" | "ingest_ts" => Arc::new(TimestampMicrosecondArray::from(clock.clone()).with_timezone("UTC")),
                "ts_source" => Arc::new(StringArray::from(vec!["event"; length])),
                "status" => Arc::new(Int64Array::from(statuses.to_vec())),
                _ => new_null_array(&column.kind.arrow(), length),
            }
        })
        .collect();
    EventBatch {
        partition: PartitionId(3),
        rows: RecordBatch::try_new(schema().arrow, columns).unwrap(),
        clock: Int64Array::from(clock),
        clock_after: None,
        end: 77,
    }
}

pub(super) fn build(config: &Config, schema: &Schema) -> Result<Built, Vec<Problem>> {
    config.build(schema, &Compiler::default())
}

pub(super) fn built(config: &Config, schema: &Schema) -> (Box<dyn Transform>, Schema) {
    build(config, schema).unwrap()
}

#[test]
fn each_step_sees_what_the_ones_before_it_left() {
    let schema = schema();
    let drop = Config::Drop(vec![Located::nowhere("status".to_owned())]);
    let filter = Config::Filter(Located::nowhere("status = 200".to_owned()));
    let (step, after) = built(&drop, &schema);
    assert_eq!(build(&filter, &after).unwrap_err()[0].message, "cannot find column `status`");
    let mut counts = TransformCounts::default();
    let left = step.apply(batch(&[Some(1)]), &mut counts);
    assert_eq!((left.partition, left.end, counts), (PartitionId(3), 77, TransformCounts::default()));
}
