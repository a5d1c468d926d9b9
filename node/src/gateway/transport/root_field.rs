//! The root field of a subscription.
//!
//! There must be one, and it may be written several times and in fragments. The library runs each field of the outermost braces as a
//! stream of its own and sees no fragment there, so what such a subscription comes to is written out before it is run.

use std::collections::HashMap;

use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, Field, FragmentDefinition, OperationDefinition, OperationType, Selection,
    SelectionSet, TypeCondition,
};
use async_graphql::{Name, Positioned};
use mille_shared::ErrorCode;

use crate::gateway::errors::{ApiError, clipped};

/// The type of the outermost braces.
const ROOT: &str = "Subscription";

type Fragments = HashMap<Name, Positioned<FragmentDefinition>>;

/// Whether a subscription in it has anything but one field in its outermost braces.
pub(super) fn is_spread_out(document: &ExecutableDocument) -> bool {
    document.operations.iter().any(|(_, operation)| !is_plain(&operation.node))
}

/// Has each subscription in it say its root field once and in its outermost braces. One that makes no sense is left as it is:
/// to say so is the schema's affair. Fragments must be known to end.
///
/// # Errors
/// `VALIDATION_FAILED` if there is more than one root field, or a condition on which there is one.
pub(super) fn write_out(document: &mut ExecutableDocument) -> Result<(), ApiError> {
    let ExecutableDocument { operations, fragments } = document;
    let operations: Vec<_> = match operations {
        DocumentOperations::Single(operation) => vec![operation],
        DocumentOperations::Multiple(operations) => operations.values_mut().collect(),
    };
    let mut written_out = Vec::new();
    for operation in operations.into_iter().map(|operation| &mut operation.node) {
        if is_plain(operation) {
            continue;
        }
        let (mut fields, mut spread) = (Vec::new(), Vec::new());
        if collect(&operation.selection_set.node, fragments, &mut fields, &mut spread)? {
            operation.selection_set.node.items = vec![one_of(fields)?];
            written_out.append(&mut spread);
        }
    }
    // Nothing uses them any more, and what is not used is a mistake.
    fragments.retain(|name, _| !written_out.contains(name));
    Ok(())
}

fn is_plain(operation: &OperationDefinition) -> bool {
    let is_field = |selection: &Positioned<Selection>| matches!(selection.node, Selection::Field(_));
    operation.ty != OperationType::Subscription
        || matches!(operation.selection_set.node.items.as_slice(), [only] if is_field(only))
}

/// Collects its fields and the names of the fragments they are in. Answers whether it makes sense.
fn collect(
    set: &SelectionSet,
    fragments: &Fragments,
    fields: &mut Vec<Positioned<Field>>,
    spread: &mut Vec<Name>,
) -> Result<bool, ApiError> {
    let is_root = |condition: &Positioned<TypeCondition>| condition.node.on.node == ROOT;
    for selection in &set.items {
        let is_fragment = !matches!(selection.node, Selection::Field(_));
        if is_fragment && !selection.node.directives().is_empty() {
            return Err(conditional());
        }
        let inner = match &selection.node {
            Selection::Field(field) => {
                fields.push(field.clone());
                continue;
            }
            Selection::InlineFragment(fragment) => {
                let is_ours = fragment.node.type_condition.as_ref().is_none_or(is_root);
                is_ours.then_some(&fragment.node.selection_set)
            }
            Selection::FragmentSpread(of) => {
                let name = &of.node.fragment_name.node;
                spread.push(name.clone());
                let fragment = fragments.get(name).filter(|fragment| is_root(&fragment.node.type_condition));
                fragment.map(|fragment| &fragment.node.selection_set)
            }
        };
        let Some(inner) = inner else { return Ok(false) };
        if !collect(&inner.node, fragments, fields, spread)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The one field that all of them are.
fn one_of(fields: Vec<Positioned<Field>>) -> Result<Positioned<Selection>, ApiError> {
    let mut fields = fields.into_iter();
    let Some(mut field) = fields.next() else { return Err(several("none")) };
    for other in fields {
        if !(field.node.directives.is_empty() && other.node.directives.is_empty()) {
            return Err(conditional());
        }
        let same = |one: &Field, other: &Field| one.name == other.name && have_same_arguments(one, other);
        if field.node.response_key() != other.node.response_key() || !same(&field.node, &other.node) {
            return Err(several(&format!("{} and {}", field.node.response_key(), other.node.response_key())));
        }
        field.node.selection_set.node.items.extend(other.node.selection_set.node.items);
    }
    let pos = field.pos;
    Ok(Positioned::new(Selection::Field(field), pos))
}

fn have_same_arguments(one: &Field, other: &Field) -> bool {
    let is_there = |(name, value): &(Positioned<Name>, _)| other.get_argument(&name.node) == Some(value);
    one.arguments.len() == other.arguments.len() && one.arguments.iter().all(is_there)
}

fn several(which: &str) -> ApiError {
    let message = format!("a subscription has one root field, with one set of arguments, and not {which}");
    ApiError::new(ErrorCode::ValidationFailed, clipped(message))
}

fn conditional() -> ApiError {
    ApiError::new(ErrorCode::ValidationFailed, "the root field of a subscription can't be conditional")
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    /// The name of its only field and those in it, and how many fragments are left.
    fn written_out(query: &str) -> Result<(String, Vec<String>, usize), String> {
        let mut document = parse_query(query).expect("it can be read");
        assert!(is_spread_out(&document), "{query}");
        write_out(&mut document).map_err(|error| error.message.into_owned())?;
        let name = |selection: &Positioned<Selection>| match &selection.node {
            Selection::Field(field) => field.node.name.to_string(),
            other => panic!("{query}: {other:?}"),
        };
        let (_, operation) = document.operations.iter().next().expect("an operation");
        let [only] = operation.node.selection_set.node.items.as_slice() else { panic!("{query}: several") };
        let Selection::Field(field) = &only.node else { panic!("{query}: no field") };
        let inner = field.node.selection_set.node.items.iter().map(name).collect();
        Ok((name(only), inner, document.fragments.len()))
    }

    #[test]
    fn one_field_is_found_wherever_it_is_written_and_however_often() {
        let fragments = "fragment A on Subscription { ...B } fragment B on Subscription { f(x: 1) { a } }";
        for query in [
            format!("subscription {{ ...A }} {fragments}"),
            "subscription { ... on Subscription { f(x: 1) { a } } }".to_owned(),
            "subscription { ... { ... { f(x: 1) { a } } } }".to_owned(),
        ] {
            assert_eq!(written_out(&query), Ok(("f".to_owned(), vec!["a".to_owned()], 0)), "{query}");
        }
        let twice = "subscription { f(x: 1, y: $z) { a } ...A } fragment A on Subscription { f(y: $z, x: 1) { b } }";
        assert_eq!(written_out(twice), Ok(("f".to_owned(), vec!["a".to_owned(), "b".to_owned()], 0)));
        let other = "subscription { ... { f { ...C } } } fragment C on Event { a }";
        let mut document = parse_query(other).expect("it can be read");
        write_out(&mut document).expect("one field");
        assert_eq!(document.fragments.len(), 1, "what is used below the root stays");
    }

    #[test]
    fn several_fields_and_conditions_are_refused() {
        for query in [
            "subscription { f { a } g { a } }",
            "subscription { f { a } one: f { a } }",
            "subscription { f(x: 1) { a } f(x: 2) { a } }",
            "subscription { __typename f { a } }",
        ] {
            let error = written_out(query).expect_err(query);
            assert!(error.contains("one root field"), "{query}: {error}");
        }
        for query in
            ["subscription { ... @skip(if: $s) { f { a } } }", "subscription { f { a } f @skip(if: $s) { b } }"]
        {
            assert!(written_out(query).expect_err(query).contains("conditional"), "{query}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_to_the_schema() {
        for query in ["subscription { ...Nowhere }", "subscription { ... on Query { f { a } } }"] {
            let mut document = parse_query(query).expect("it can be read");
            write_out(&mut document).expect("it is left");
            assert!(is_spread_out(&document), "{query}");
        }
    }
}
