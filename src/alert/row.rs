//! One row of a window's result, in the forms in which events and templates show its values.

use super::plan::Plan;
use super::templates;
use crate::record::sample::WindowRows;
use crate::time::EventTime;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use gotmpl::Value;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Row number `at` of a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) window: &'a WindowRows,
    pub(super) at: usize,
}

impl Row<'_> {
    /// Integers stay integers, times are RFC 3339, "no data" is null.
    pub(super) fn json(self, column: &str) -> Json {
        let Some(array) = self.window.rows.column_by_name(column).filter(|array| array.is_valid(self.at)) else {
            return Json::Null;
        };
        match array.data_type() {
            DataType::Int64 => array.as_primitive::<Int64Type>().value(self.at).into(),
            DataType::Float64 => array.as_primitive::<Float64Type>().value(self.at).into(),
            DataType::Boolean => array.as_boolean().value(self.at).into(),
            DataType::Utf8 => array.as_string::<i32>().value(self.at).into(),
            DataType::Timestamp(..) => {
                let micros = array.as_primitive::<TimestampMicrosecondType>().value(self.at);
                EventTime::from_micros(micros).to_string().into()
            }
            other => unreachable!("windows have no columns of type {other}"),
        }
    }

    /// As a label's value; `None` when null.
    pub(super) fn text(self, column: &str) -> Option<String> {
        match self.json(column) {
            Json::Null => None,
            Json::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }

    /// What the templates of `plan` see of this row.
    pub(super) fn template_data(self, plan: &Plan) -> Value {
        let labels = plan.group_by.iter();
        let labels = labels.map(|column| (column.as_str().into(), Value::from(self.text(column).unwrap_or_default())));
        let columns = self.window.rows.schema_ref().fields().iter().filter(|f| !plan.group_by.contains(f.name()));
        let values: BTreeMap<Arc<str>, Value> =
            columns.map(|field| (field.name().as_str().into(), self.value(field.name()))).collect();
        let first = plan.first_value.as_ref().map_or(Value::Nil, |column| self.value(column));
        templates::data(labels.collect(), values, first)
    }

    fn value(self, column: &str) -> Value {
        match self.json(column) {
            Json::Null | Json::Array(_) | Json::Object(_) => Value::Nil,
            Json::Bool(value) => Value::Bool(value),
            Json::String(text) => Value::from(text),
            Json::Number(number) => match number.as_i64() {
                Some(int) => Value::Int(int),
                None => number.as_f64().map_or(Value::Nil, Value::Float),
            },
        }
    }
}
