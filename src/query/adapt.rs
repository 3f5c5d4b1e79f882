//! One file's columns as the table has them.
//!
//! A column that a file of `data` is older than is answered from its `attributes`, where its values were kept then. Hex
//! columns, bytes in the file, are text in a query; a comparison with a written-out id is turned into one of bytes, so that
//! bloom filters answer it.

use super::function;
use crate::record::schema::{ATTRIBUTES, BUILT_IN};
use datafusion::arrow::compute::CastOptions;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Operator, ScalarUDF};
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, InListExpr, Literal, in_list, lit};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_adapter::{DefaultPhysicalExprAdapter, PhysicalExprAdapter, PhysicalExprAdapterFactory};
use std::sync::Arc;

/// Makes an adapter for each file.
#[derive(Debug)]
pub(super) struct Adapters {
    /// Whether columns may be in `attributes`.
    pub(super) attributes: bool,
}

impl PhysicalExprAdapterFactory for Adapters {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        // Hex columns keep the file's type behind this adapter, so that the one behind it casts nothing.
        let as_stored = |field: &Arc<Field>| match physical.field_with_name(field.name()) {
            Ok(stored) if is_hex(field, stored) => Arc::new(stored.clone()),
            _ => Arc::clone(field),
        };
        let stored: Vec<Arc<Field>> = logical.fields().iter().map(as_stored).collect();
        let stored: SchemaRef = Arc::new(Schema::new(stored));
        let default = DefaultPhysicalExprAdapter::new(stored, Arc::clone(&physical));
        let attributes = self.attributes && physical.column_with_name(BUILT_IN[ATTRIBUTES].0).is_some();
        Ok(Arc::new(Adapter { logical, physical, default, attributes, hex: Arc::new(function::hex()) }))
    }
}

fn is_hex(shown: &Field, stored: &Field) -> bool {
    matches!(stored.data_type(), DataType::FixedSizeBinary(_)) && *shown.data_type() == DataType::Utf8View
}

/// Rewrites what is asked of the table into what is asked of one file.
#[derive(Debug)]
struct Adapter {
    logical: SchemaRef,
    physical: SchemaRef,
    default: DefaultPhysicalExprAdapter,
    attributes: bool,
    hex: Arc<ScalarUDF>,
}

type Expr = Arc<dyn PhysicalExpr>;

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Expr) -> Result<Expr> {
        let expr = expr.transform_down(|expr| self.replace(expr)).data()?;
        self.default.rewrite(expr)
    }
}

impl Adapter {
    fn replace(&self, expr: Expr) -> Result<Transformed<Expr>> {
        let replaced = match self.compare_bytes(&expr)? {
            Some(replaced) => Some(replaced),
            None => match expr.downcast_ref::<Column>() {
                Some(column) => self.column(column, &expr)?,
                None => None,
            },
        };
        Ok(match replaced {
            Some(replaced) => Transformed::new(replaced, true, TreeNodeRecursion::Jump),
            None => Transformed::no(expr),
        })
    }

    fn column(&self, column: &Column, expr: &Expr) -> Result<Option<Expr>> {
        let Ok(shown) = self.logical.field_with_name(column.name()) else { return Ok(None) };
        match self.physical.field_with_name(column.name()) {
            Ok(stored) if is_hex(shown, stored) => {
                let text = Arc::new(Field::new(column.name(), DataType::Utf8View, true));
                let args = vec![Arc::clone(expr)];
                let options = Arc::new(ConfigOptions::default());
                let call = ScalarFunctionExpr::new("hex_text", Arc::clone(&self.hex), args, text, options);
                Ok(Some(Arc::new(call)))
            }
            Err(_) if self.attributes && !BUILT_IN.iter().any(|(name, _)| *name == column.name()) => {
                self.attribute(column.name(), shown.data_type()).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The value that a row has under `name` in its attributes; null where it is none of that type.
    fn attribute(&self, name: &str, kind: &DataType) -> Result<Expr> {
        let attributes = BUILT_IN[ATTRIBUTES].0;
        let column: Expr = Arc::new(Column::new_with_schema(attributes, &self.logical)?);
        let udf = Arc::new(super::json::text());
        let text = Arc::new(Field::new(name, DataType::Utf8View, true));
        let args = vec![column, lit(ScalarValue::Utf8View(Some(name.to_owned())))];
        let options = Arc::new(ConfigOptions::default());
        let call: Expr = Arc::new(ScalarFunctionExpr::new("json_extract_string", udf, args, text, options));
        if *kind == DataType::Utf8View {
            return Ok(call);
        }
        Ok(Arc::new(CastExpr::new(call, kind.clone(), Some(CastOptions { safe: true, ..CastOptions::default() }))))
    }

    /// `trace_id = '00ff…'` and `trace_id in ('00ff…', …)`, as comparisons of bytes.
    fn compare_bytes(&self, expr: &Expr) -> Result<Option<Expr>> {
        if let Some(compared) = expr.downcast_ref::<BinaryExpr>() {
            let is_one = matches!(compared.op(), Operator::Eq | Operator::NotEq);
            let (left, right) = (compared.left(), compared.right());
            let found = [(left, right), (right, left)]
                .into_iter()
                .find_map(|(column, literal)| Some((column, self.bytes(self.hex_length(column)?, literal)?)));
            let bytes = |(column, bytes): (&Expr, Expr)| -> Expr {
                Arc::new(BinaryExpr::new(Arc::clone(column), *compared.op(), bytes))
            };
            return Ok(found.filter(|_| is_one).map(bytes));
        }
        let Some(listed) = expr.downcast_ref::<InListExpr>() else { return Ok(None) };
        let Some(length) = self.hex_length(listed.expr()) else { return Ok(None) };
        let Some(list) = listed.list().iter().map(|literal| self.bytes(length, literal)).collect() else {
            return Ok(None);
        };
        let field = self.physical.field_with_name(self.name(listed.expr()))?.clone();
        let stored = self.logical.fields().iter().map(|known| match known.name() == field.name() {
            true => Arc::new(field.clone()),
            false => Arc::clone(known),
        });
        let stored = Schema::new(stored.collect::<Vec<_>>());
        in_list(Arc::clone(listed.expr()), list, &listed.negated(), &stored).map(Some)
    }

    fn name<'e>(&self, expr: &'e Expr) -> &'e str {
        expr.downcast_ref::<Column>().map_or("", Column::name)
    }

    fn hex_length(&self, expr: &Expr) -> Option<i32> {
        let name = self.name(expr);
        let (shown, stored) = (self.logical.field_with_name(name).ok()?, self.physical.field_with_name(name).ok()?);
        match stored.data_type() {
            DataType::FixedSizeBinary(length) if is_hex(shown, stored) => Some(*length),
            _ => None,
        }
    }

    /// A written-out id as bytes; `None` where it cannot be one of this column.
    fn bytes(&self, length: i32, expr: &Expr) -> Option<Expr> {
        let text = expr.downcast_ref::<Literal>()?.value().try_as_str()??;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() as i32 != length * 2 || !text.bytes().all(is_digit) {
            return None;
        }
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Vec<u8> = text.as_bytes().chunks(2).filter_map(byte).collect();
        Some(lit(ScalarValue::FixedSizeBinary(length, Some(bytes))))
    }
}
