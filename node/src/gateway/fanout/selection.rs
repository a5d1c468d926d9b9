//! What makes two subscriptions the same: then one execution of each event serves both.

use async_graphql::Request;
use async_graphql::parser::types::{ExecutableDocument, OperationDefinition, Selection as Selected};
use async_graphql_value::Value;

/// What a subscription asks for, without where it begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selection {
    query: String,
    operation_name: Option<String>,
    /// As JSON, by name.
    variables: String,
}

/// The arguments that only say where a subscription begins.
const RESUME_POINT: [&str; 2] = ["after", "snapshot"];

impl Selection {
    /// What a subscription asks for. `None`: it asks for something else than one field, so that nobody else can have its
    /// events.
    #[must_use]
    pub fn of(request: &mut Request) -> Option<Self> {
        let name = request.operation_name.clone();
        let query = request.query.clone();
        let document = request.parsed_query().ok()?;
        let resume_point = resume_variables(operation(document, name.as_deref())?, &query)?;
        let mut variables = request.variables.clone();
        for name in &resume_point {
            variables.remove(name.as_str());
        }
        let variables = serde_json::to_string(&variables).ok()?;
        Some(Self { query, operation_name: name, variables })
    }

    /// Whether its document may have directives: it has their sign, if only in a text.
    #[must_use]
    pub fn may_have_directives(&self) -> bool {
        self.query.contains('@')
    }

    /// The document.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.query
    }

    /// Which of its operations.
    #[must_use]
    pub fn operation_name(&self) -> Option<&str> {
        self.operation_name.as_deref()
    }
}

fn operation<'d>(document: &'d ExecutableDocument, name: Option<&str>) -> Option<&'d OperationDefinition> {
    let mut operations = document.operations.iter();
    let found = match name {
        Some(name) => operations.find(|(of, _)| of.is_none_or(|of| of.as_str() == name)),
        None => operations.next(),
    };
    found.map(|(_, operation)| &operation.node)
}

/// The variables that say where a subscription begins, and nothing else.
fn resume_variables(operation: &OperationDefinition, query: &str) -> Option<Vec<String>> {
    let [only] = operation.selection_set.node.items.as_slice() else { return None };
    let Selected::Field(field) = &only.node else { return None };
    let named = names_after_dollars(query)?;
    let arguments = field.node.arguments.iter().filter(|(name, _)| RESUME_POINT.contains(&name.node.as_str()));
    let variables = arguments.filter_map(|(_, value)| match &value.node {
        Value::Variable(name) => Some(name.to_string()),
        _ => None,
    });
    // Once where it is declared and once as the argument; anywhere else it may decide what is selected.
    Some(variables.filter(|variable| named.iter().filter(|name| *name == variable).count() == 2).collect())
}

/// The name behind each dollar of a text, in strings and comments too. `None`: behind one there is none, but it may follow.
fn names_after_dollars(text: &str) -> Option<Vec<&str>> {
    let is_no_name = |character: char| !(character.is_ascii_alphanumeric() || character == '_');
    let names = text.split('$').skip(1).map(|rest| rest.split(is_no_name).next().filter(|name| !name.is_empty()));
    names.collect()
}

#[cfg(test)]
mod tests {
    use async_graphql::Variables;
    use serde_json::json;

    use super::*;

    fn selection(query: &str, variables: serde_json::Value) -> Option<Selection> {
        Selection::of(&mut Request::new(query).variables(Variables::from_json(variables)))
    }

    #[test]
    fn where_it_begins_makes_no_difference_and_everything_else_does() {
        let query = "subscription ($p: Int!, $from: String, $s: Boolean) { planDagDeltaChanged(projectId: $p, after: $from, \
                     snapshot: $s) { revision } }";
        let one = selection(query, json!({"p": 1, "from": "1-2"}));
        assert!(one.is_some());
        assert_eq!(one, selection(query, json!({"from": "1-7", "s": true, "p": 1})));
        assert_ne!(one, selection(query, json!({"p": 2, "from": "1-2"})));
        assert_ne!(one, selection(&query.replace("revision", "version"), json!({"p": 1, "from": "1-2"})));
    }

    #[test]
    fn a_variable_that_does_more_than_say_where_it_begins_makes_a_difference() {
        for field in [
            "revision @skip(if: $s)",
            "revision @skip(if: $ s)",
            "revision # $s",
            "...f } } fragment f on E { a @skip(if: $s)",
        ] {
            let query = format!(
                "subscription ($s: Boolean!) {{ planDagDeltaChanged(projectId: 1, snapshot: $s) {{ {field}\n }} }}"
            );
            let with = |snapshot| selection(&query, json!({"s": snapshot}));
            assert!(with(true) != with(false) || with(true).is_none(), "{query}");
        }
    }

    #[test]
    fn more_than_one_field_is_nobody_elses() {
        for query in
            ["subscription { a: x b: x }", "subscription { ...f } fragment f on S { x }", "subscription { ... { x } }"]
        {
            assert_eq!(selection(query, json!({})), None, "{query}");
        }
        let two = "subscription A { x(after: 1) } subscription B { x a }";
        let of = |name: &str| Selection::of(&mut Request::new(two).operation_name(name));
        assert!(of("A").is_some() && of("B").is_none());
    }
}
