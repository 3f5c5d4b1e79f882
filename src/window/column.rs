//! Columns of a window's rows as they are saved: values without arrow's buffers.

use super::function::Class;
use crate::record::state::Damaged;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// The values of one column, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Column {
    /// Integers, and timestamps in µs.
    Int(Vec<Option<i64>>),
    Float(Vec<Option<f64>>),
    Bool(Vec<Option<bool>>),
    Text(Vec<Option<String>>),
}

impl Column {
    /// The values of a column of a window's result.
    pub(super) fn of(array: &ArrayRef) -> Self {
        match Class::of(array.data_type()).expect("a window's columns were planned with their classes") {
            Class::Int => Self::Int(array.as_primitive::<Int64Type>().iter().collect()),
            Class::Time => Self::Int(array.as_primitive::<TimestampMicrosecondType>().iter().collect()),
            Class::Float => Self::Float(array.as_primitive::<Float64Type>().iter().collect()),
            Class::Bool => Self::Bool(array.as_boolean().iter().collect()),
            Class::Text => Self::Text(array.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Int(values) => values.len(),
            Self::Float(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    /// A value as an alert's label shows it: null and the empty text are one.
    pub(super) fn label(&self, at: usize) -> Cow<'_, str> {
        match self {
            Self::Int(values) => values[at].map_or(Cow::Borrowed(""), |value| Cow::Owned(value.to_string())),
            Self::Float(values) => values[at].map_or(Cow::Borrowed(""), |value| Cow::Owned(value.to_string())),
            Self::Bool(values) => values[at].map_or("", |value| if value { "true" } else { "false" }).into(),
            Self::Text(values) => values[at].as_deref().unwrap_or_default().into(),
        }
    }

    /// The values from `rows`, in that order.
    pub(super) fn select(&self, rows: &[usize]) -> Self {
        match self {
            Self::Int(values) => Self::Int(rows.iter().map(|at| values[*at]).collect()),
            Self::Float(values) => Self::Float(rows.iter().map(|at| values[*at]).collect()),
            Self::Bool(values) => Self::Bool(rows.iter().map(|at| values[*at]).collect()),
            Self::Text(values) => Self::Text(rows.iter().map(|at| values[*at].clone()).collect()),
        }
    }

    /// As a column of `data_type`, which is one of a window's result.
    ///
    /// # Errors
    /// When the values are of another type, or not `rows`.
    pub(super) fn array(self, data_type: &DataType, rows: usize) -> Result<ArrayRef, Damaged> {
        Damaged::unless(self.len() == rows, "a column has more or fewer values than there are rows")?;
        let array: ArrayRef = match (self, Class::of(data_type)) {
            (Self::Int(values), Some(Class::Int)) => Arc::new(Int64Array::from(values)),
            (Self::Int(values), Some(Class::Time)) => {
                Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
            }
            (Self::Float(values), Some(Class::Float)) => Arc::new(Float64Array::from(values)),
            (Self::Bool(values), Some(Class::Bool)) => Arc::new(BooleanArray::from(values)),
            (Self::Text(values), Some(Class::Text)) => Arc::new(StringArray::from(values)),
            _ => return Err(Damaged("a column has values of another type than the definition says")),
        };
        Ok(array)
    }
}
