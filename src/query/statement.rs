//! SQL text → one statement that reads, in the dialect that analysts bring along from DuckDB and Postgres.

use super::QueryError;
use super::error::{Names, translate};
use crate::units::ByteSize;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, SelectItem, SetExpr, ShowCreateObject, Statement as Sql,
};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use std::collections::HashSet;

/// A statement that reads.
#[derive(Debug)]
pub(super) enum Asked {
    Rows(Statement),
    /// What would be read for it; with `analyze` it is run.
    Explain {
        statement: Statement,
        analyze: bool,
    },
    Tables,
    Columns(String),
}

/// Reads one statement.
pub(super) fn parse(sql: &str) -> Result<Asked, QueryError> {
    let failed = |error| translate(&error, sql, &Names::default(), ByteSize(0));
    let parsed =
        DFParserBuilder::new(sql).with_dialect(&Tongue).build().and_then(|mut parser| parser.parse_statements());
    let mut statements = parsed.map_err(failed)?;
    let Some(statement) = statements.pop_front() else {
        let message = "cannot answer: there is no statement".to_owned();
        return Err(QueryError::Statement {
            place: None,
            message,
            hint: Some("as in \"select count(*) from logs\"".into()),
        });
    };
    if let Some(second) = statements.front() {
        let text = second.to_string();
        let word = text.split_whitespace().next().unwrap_or_default();
        let message = "cannot answer more than one statement".to_owned();
        return Err(QueryError::named(sql, word, message, Some("ask one after the other".into())));
    }
    read_only(statement, sql)
}

fn read_only(statement: Statement, sql: &str) -> Result<Asked, QueryError> {
    match statement {
        Statement::Statement(inner) => match *inner {
            Sql::Query(mut query) => {
                name_columns(&mut query.body);
                Ok(Asked::Rows(Statement::Statement(Box::new(Sql::Query(query)))))
            }
            Sql::Explain { statement, analyze, .. } => explained(Statement::Statement(statement), analyze, sql),
            Sql::ShowTables { .. } => Ok(Asked::Tables),
            Sql::ShowVariable { variable } if is_word(&variable, "tables") => Ok(Asked::Tables),
            Sql::ExplainTable { table_name, .. } => Ok(Asked::Columns(last(&table_name))),
            Sql::ShowCreate { obj_type: ShowCreateObject::Table, obj_name } => Ok(Asked::Columns(last(&obj_name))),
            Sql::ShowColumns { show_options, .. } => match show_options.show_in.and_then(|shown| shown.parent_name) {
                Some(table) => Ok(Asked::Columns(last(&table))),
                None => Err(refused("show columns", sql)),
            },
            other => Err(refused(&other.to_string(), sql)),
        },
        Statement::Explain(explain) => explained(*explain.statement, explain.options.analyze, sql),
        other => Err(refused(&other.to_string(), sql)),
    }
}

fn explained(statement: Statement, analyze: bool, sql: &str) -> Result<Asked, QueryError> {
    match read_only(statement, sql)? {
        Asked::Rows(statement) => Ok(Asked::Explain { statement, analyze }),
        // Some parsers take `describe logs` for an explanation; the others explain nothing.
        other => Ok(other),
    }
}

fn is_word(variable: &[Ident], word: &str) -> bool {
    matches!(variable, [only] if only.value.eq_ignore_ascii_case(word))
}

fn last(name: &ObjectName) -> String {
    let part = name.0.last().and_then(|part| part.as_ident());
    part.map(|ident| ident.value.clone()).unwrap_or_default()
}

fn refused(statement: &str, sql: &str) -> QueryError {
    let word = statement.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let message = format!("cannot run {word}: a query only reads");
    let hint = "write `select …`, `explain select …`, `show tables` or `describe logs`; --output FILE keeps a result";
    QueryError::named(sql, &word, message, Some(hint.to_owned()))
}

/// Gives columns without a name the text that they were asked for with, as DuckDB does.
fn name_columns(body: &mut SetExpr) {
    let SetExpr::Select(select) = body else { return };
    let mut seen = HashSet::new();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let text = expr.to_string();
        if matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) || !seen.insert(text.clone()) {
            continue;
        }
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', text) };
    }
}

/// Generic SQL in which `attributes ->> 'a' = 'b'` compares what is taken out, as in Postgres.
#[derive(Debug)]
struct Tongue;

/// Binds stronger than comparisons and weaker than sums, as in Postgres.
const ARROW: u8 = 25;

impl Dialect for Tongue {
    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        matches!(parser.peek_token_ref().token, Token::Arrow | Token::LongArrow).then_some(Ok(ARROW))
    }

    fn is_delimited_identifier_start(&self, character: char) -> bool {
        matches!(character, '"' | '`')
    }

    fn is_identifier_start(&self, character: char) -> bool {
        character.is_alphabetic() || matches!(character, '_' | '#' | '@')
    }

    fn is_identifier_part(&self, character: char) -> bool {
        character.is_alphanumeric() || matches!(character, '_' | '@' | '$' | '#')
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_window_clause_named_window_reference(&self) -> bool {
        true
    }

    fn supports_window_function_null_treatment_arg(&self) -> bool {
        true
    }

    fn supports_dictionary_syntax(&self) -> bool {
        true
    }

    fn supports_select_wildcard_except(&self) -> bool {
        true
    }

    fn supports_select_wildcard_exclude(&self) -> bool {
        true
    }

    fn supports_select_wildcard_replace(&self) -> bool {
        true
    }

    fn supports_parens_around_table_factor(&self) -> bool {
        true
    }

    fn supports_values_as_table_factor(&self) -> bool {
        true
    }

    fn supports_from_first_select(&self) -> bool {
        true
    }

    fn supports_projection_trailing_commas(&self) -> bool {
        true
    }

    fn supports_try_convert(&self) -> bool {
        true
    }

    fn supports_string_escape_constant(&self) -> bool {
        true
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn allow_extract_single_quotes(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reading_is_let_through() {
        for sql in ["select 1", "with x as (select 1) select * from x", "select 1;", "(select 1) union all (select 2)"]
        {
            assert!(matches!(parse(sql), Ok(Asked::Rows(_))), "{sql}");
        }
        assert!(matches!(parse("explain select 1"), Ok(Asked::Explain { analyze: false, .. })));
        assert!(matches!(parse("EXPLAIN ANALYZE select 1"), Ok(Asked::Explain { analyze: true, .. })));
        assert!(matches!(parse("show tables"), Ok(Asked::Tables)));
        for sql in ["describe logs", "desc logs", "show columns from logs"] {
            assert!(matches!(parse(sql), Ok(Asked::Columns(name)) if name == "logs"), "{sql}");
        }
        for sql in [
            "create table x (a int)",
            "create external table x stored as parquet location '/etc'",
            "copy (select 1) to '/tmp/x.csv'",
            "insert into logs values (1)",
            "drop table logs",
            "delete from logs",
            "update logs set status = 1",
            "set datafusion.execution.batch_size = 1",
            "explain insert into logs values (1)",
            "create view v as select 1",
        ] {
            let error = parse(sql).unwrap_err();
            assert!(error.to_string().contains("a query only reads"), "{sql}: {error}");
        }
        assert!(parse("select 1; select 2").unwrap_err().to_string().contains("more than one statement"));
        assert!(parse(" -- nothing").unwrap_err().to_string().contains("there is no statement"));
    }

    #[test]
    fn mistakes_of_syntax_have_their_place() {
        let error = parse("select path\nfrom logs\nwhere )").unwrap_err();
        assert!(error.to_string().starts_with("3:7: cannot read the SQL: "), "{error}");
    }

    #[test]
    fn arrows_bind_stronger_than_comparisons() {
        let Ok(Asked::Rows(statement)) = parse("select attributes ->> 'a' = 'b'") else { panic!() };
        assert_eq!(statement.to_string(), "SELECT attributes ->> 'a' = 'b' AS \"attributes ->> 'a' = 'b'\"");
        let Statement::Statement(inner) = &statement else { panic!() };
        let Sql::Query(query) = inner.as_ref() else { panic!() };
        let SetExpr::Select(select) = query.body.as_ref() else { panic!() };
        let SelectItem::ExprWithAlias { expr: Expr::BinaryOp { op, .. }, .. } = &select.projection[0] else { panic!() };
        assert_eq!(op.to_string(), "=");
    }
}
