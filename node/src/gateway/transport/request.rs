//! A GraphQL request as a client sends it, looked at before it is run.
//!
//! The same for all transports: what the request asks for (so a transport knows whether one answer or many follow),
//! and three bounds that async-graphql does not keep. Its parser recurses without limit into lists, objects and types;
//! its depth check expands every fragment wherever it is spread; and what a query weighs has nothing of how long its lists
//! are, and nothing at all of `__typename`. A few kilobytes could end the process or occupy a core for hours. Whether the
//! fields exist is the schema's affair.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, OperationDefinition, OperationType, Selection, SelectionSet,
};
use async_graphql::{Request, ServerError, Value, Variables};
use mille_shared::{ErrorCode, LimitName, TraceParent};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::root_field;
use crate::gateway::errors::{ApiError, clipped};

/// How deep brackets of any kind may be nested in a query. Far beyond what the depth limit lets through.
const NESTING_MAX: usize = 200;
/// Selections of an operation with all its fragments expanded. Far beyond what the complexity limit lets through.
const SELECTIONS_MAX: usize = 10_000;
/// Times that one field may stand in one selection set, below the root, where a list may multiply it by thousands. Clients ask
/// twice where two fragments of theirs overlap.
const REPEATS_MAX: usize = 8;
/// How deep fragments may spread fragments.
const FRAGMENT_CHAIN_MAX: usize = 32;

/// The body of a request or the payload of a `subscribe` frame.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OperationRequest {
    #[serde(default)]
    pub(super) query: Option<String>,
    #[serde(default)]
    pub(super) operation_name: Option<String>,
    #[serde(default)]
    pub(super) variables: Option<Variables>,
    /// Nothing in them is asked for but what may be wrong without anyone's loss, so they are taken as they are.
    #[serde(default)]
    pub(super) extensions: Option<Box<RawValue>>,
}

/// What a client may say beside a request.
#[derive(Deserialize)]
struct Extensions<'a> {
    #[serde(borrow)]
    traceparent: Cow<'a, str>,
}

/// A request that is worth running.
#[derive(Debug)]
pub struct Operation {
    pub(in crate::gateway) request: Request,
    pub(in crate::gateway) kind: OperationType,
    /// The trace that the client says it is a part of, in its `extensions`.
    pub(super) trace: Option<TraceParent>,
}

impl Operation {
    /// What it is, in traces.
    pub(super) fn kind_name(&self) -> &'static str {
        match self.kind {
            OperationType::Query => "query",
            OperationType::Mutation => "mutation",
            OperationType::Subscription => "subscription",
        }
    }
}

/// Documents that are kept, and the bytes of one that is: clients have few, and send them again and again.
const DOCUMENTS_MAX: usize = 512;
const DOCUMENT_BYTES_MAX: usize = 4 * 1024;
/// Selections of one that is kept: what was read is larger than the text, some 200 bytes for each.
const DOCUMENT_SELECTIONS_MAX: usize = 200;

/// Documents that were read and are not too large, for those who send them again: to read one costs more than most of them do. Cheap
/// to clone; the clones share them. Those that are used least go first.
#[derive(Clone)]
pub struct Documents(Arc<Cache<String, Arc<ExecutableDocument>>>);

impl Default for Documents {
    fn default() -> Self {
        Self(Arc::new(Cache::new(DOCUMENTS_MAX)))
    }
}

impl Documents {
    /// Reads a query and looks at its size, unless that was done before.
    fn read(&self, request: &mut Request) -> Result<(), ApiError> {
        if let Some(document) = self.0.get(&request.query) {
            request.set_parsed_query(ExecutableDocument::clone(&document));
            return Ok(());
        }
        check_nesting(&request.query)?;
        let document = request.parsed_query().map_err(parse_error)?;
        let selections = check_selections(document)?;
        if root_field::is_spread_out(document) {
            let mut document = document.clone();
            root_field::write_out(&mut document)?;
            request.set_parsed_query(document);
        }
        if request.query.len() <= DOCUMENT_BYTES_MAX && selections <= DOCUMENT_SELECTIONS_MAX {
            let document = Arc::new(request.parsed_query().map_err(parse_error)?.clone());
            self.0.insert(request.query.clone(), document);
        }
        Ok(())
    }
}

impl OperationRequest {
    /// Reads the query and looks at its size.
    pub(super) fn prepare(self, documents: &Documents) -> Result<Operation, ApiError> {
        let Some(query) = self.query.filter(|query| !query.trim().is_empty()) else {
            return Err(ApiError::new(ErrorCode::ValidationFailed, "a request needs a `query`"));
        };
        let trace = self.extensions.as_deref().and_then(traceparent);
        let variables = self.variables.unwrap_or_default();
        let mut request = Request::new(query);
        request.operation_name = self.operation_name.filter(|name| !name.is_empty());
        let name = request.operation_name.clone();
        documents.read(&mut request)?;
        let document = request.parsed_query().map_err(parse_error)?;
        if let (Some(name), DocumentOperations::Single(_)) = (&name, &document.operations) {
            let message = format!("Unknown operation named \"{name}\"");
            return Err(ApiError::new(ErrorCode::ValidationFailed, clipped(message)));
        }
        let operation = operation_of(document, name.as_deref());
        operation.map_or(Ok(()), |operation| check_variables(operation, &variables))?;
        // Without one it counts as a query: running it says what is wrong.
        let kind = operation.map_or(OperationType::Query, |operation| operation.ty);
        Ok(Operation { request: request.variables(variables), kind, trace })
    }
}

/// The `traceparent` in a request's extensions. One that is malformed is none, and so are extensions of another shape.
fn traceparent(extensions: &RawValue) -> Option<TraceParent> {
    serde_json::from_str::<Extensions<'_>>(extensions.get()).ok()?.traceparent.parse().ok()
}

/// Which of a document's operations is asked for.
fn operation_of<'d>(document: &'d ExecutableDocument, name: Option<&str>) -> Option<&'d OperationDefinition> {
    let operation = match (&document.operations, name) {
        (DocumentOperations::Single(operation), _) => Some(operation),
        (DocumentOperations::Multiple(all), Some(name)) => all.get(name),
        (DocumentOperations::Multiple(all), None) => all.values().next().filter(|_| all.len() == 1),
    };
    operation.map(|operation| &operation.node)
}

/// Refuses a request without a value that its operation can't do without. The library would begin to run it.
fn check_variables(operation: &OperationDefinition, variables: &Variables) -> Result<(), ApiError> {
    let needed = operation.variable_definitions.iter().map(|definition| &definition.node);
    let needed = needed.filter(|needed| !needed.var_type.node.nullable && needed.default_value.is_none());
    for needed in needed {
        let name = &needed.name.node;
        if variables.get(name).is_none_or(|value| *value == Value::Null) {
            let message = format!("Variable \"${name}\" needs a value of type \"{}\"", needed.var_type.node);
            return Err(ApiError::new(ErrorCode::ValidationFailed, clipped(message)));
        }
    }
    Ok(())
}

fn parse_error(error: ServerError) -> ApiError {
    let mut response = async_graphql::Response::from_errors(vec![error]);
    crate::gateway::errors::complete_errors(&mut response);
    let error = response.errors.remove(0);
    let too_deep = error.message.starts_with("recursion limit");
    if too_deep {
        return ApiError::met(ErrorCode::LimitExceeded, LimitName::QueryNesting, NESTING_MAX);
    }
    ApiError::new(ErrorCode::ValidationFailed, error.message)
}

/// Refuses a query whose brackets are nested too deep, before anything recurses into it.
fn check_nesting(query: &str) -> Result<(), ApiError> {
    let bytes = query.as_bytes();
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'"' => after_string(bytes, at)?,
            b'#' => bytes[at..].iter().position(|b| matches!(b, b'\n' | b'\r')).map_or(bytes.len(), |end| at + end),
            b'{' | b'[' | b'(' => {
                depth += 1;
                at + 1
            }
            b'}' | b']' | b')' => {
                depth = depth.saturating_sub(1);
                at + 1
            }
            _ => at + 1,
        };
        if depth > NESTING_MAX {
            return Err(ApiError::met(ErrorCode::LimitExceeded, LimitName::QueryNesting, NESTING_MAX));
        }
    }
    Ok(())
}

/// The place after the string that begins at `start`. A string without an end is refused at once: a parser that goes
/// on in another way might find brackets where we saw text.
fn after_string(bytes: &[u8], start: usize) -> Result<usize, ApiError> {
    let is_block = bytes[start..].starts_with(b"\"\"\"");
    let mut at = start + if is_block { 3 } else { 1 };
    while at < bytes.len() {
        let rest = &bytes[at..];
        if is_block {
            if rest.starts_with(b"\\\"\"\"") {
                at += 4;
            } else if rest.starts_with(b"\"\"\"") {
                return Ok(at + 3);
            } else {
                at += 1;
            }
        } else {
            match rest[0] {
                b'\\' => at += 2,
                b'"' => return Ok(at + 1),
                b'\n' | b'\r' => break,
                _ => at += 1,
            }
        }
    }
    Err(ApiError::new(ErrorCode::ValidationFailed, "the query holds a string without an end"))
}

/// Refuses a document that is too large once its fragments are expanded, and answers how large it is.
fn check_selections(document: &ExecutableDocument) -> Result<usize, ApiError> {
    let mut counted = Selections { document, fragments: HashMap::new() };
    let mut total = 0usize;
    for (_, operation) in document.operations.iter() {
        total = total.saturating_add(counted.of(&operation.node.selection_set.node, 0)?.size);
    }
    if total > SELECTIONS_MAX { Err(too_large()) } else { Ok(total) }
}

fn too_large() -> ApiError {
    ApiError::met(ErrorCode::LimitExceeded, LimitName::QuerySelections, SELECTIONS_MAX)
}

/// What a selection set comes to, with its fragments expanded.
#[derive(Default, Clone)]
struct Expanded<'a> {
    /// Its selections and those of all sets below.
    size: usize,
    /// How often each field stands in it.
    fields: HashMap<&'a str, usize>,
}

impl<'a> Expanded<'a> {
    fn add(&mut self, other: Self) {
        self.size = self.size.saturating_add(other.size);
        for (field, times) in other.fields {
            *self.fields.entry(field).or_default() += times;
        }
    }
}

struct Selections<'a> {
    document: &'a ExecutableDocument,
    /// Each fragment that was met: counted once, however often it is spread. `None` while it is counted, so a fragment that
    /// spreads itself ends here; the schema refuses it.
    fragments: HashMap<&'a str, Option<Expanded<'a>>>,
}

impl<'a> Selections<'a> {
    fn of(&mut self, set: &'a SelectionSet, chain: usize) -> Result<Expanded<'a>, ApiError> {
        if chain > FRAGMENT_CHAIN_MAX {
            return Err(too_large());
        }
        let mut all = Expanded::default();
        for selection in &set.items {
            all.size = all.size.saturating_add(1);
            match &selection.node {
                Selection::Field(field) => {
                    let below = self.of(&field.node.selection_set.node, chain)?;
                    if below.fields.values().any(|times| *times > REPEATS_MAX) {
                        return Err(ApiError::met(ErrorCode::LimitExceeded, LimitName::QueryRepeats, REPEATS_MAX));
                    }
                    all.size = all.size.saturating_add(below.size);
                    *all.fields.entry(field.node.name.node.as_str()).or_default() += 1;
                }
                Selection::InlineFragment(fragment) => all.add(self.of(&fragment.node.selection_set.node, chain)?),
                Selection::FragmentSpread(spread) => {
                    all.add(self.of_fragment(&spread.node.fragment_name.node, chain + 1)?);
                }
            }
            if all.size > SELECTIONS_MAX {
                return Err(too_large()); // What follows would be counted in vain, and each spread of a fragment costs its fields.
            }
        }
        Ok(all)
    }

    fn of_fragment(&mut self, name: &'a str, chain: usize) -> Result<Expanded<'a>, ApiError> {
        if let Some(known) = self.fragments.get(name) {
            return Ok(known.clone().unwrap_or_default());
        }
        let Some(fragment) = self.document.fragments.get(name) else {
            return Ok(Expanded::default());
        };
        self.fragments.insert(name, None);
        let all = self.of(&fragment.node.selection_set.node, chain)?;
        self.fragments.insert(name, Some(all.clone()));
        Ok(all)
    }
}

/// A query that is one.
#[cfg(test)]
pub(in crate::gateway) fn prepared(query: &str) -> Operation {
    OperationRequest { query: Some(query.to_owned()), ..OperationRequest::default() }
        .prepare(&Documents::default())
        .expect("a good request")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn prepared(query: &str) -> Result<Operation, ApiError> {
        OperationRequest { query: Some(query.to_owned()), ..OperationRequest::default() }.prepare(&Documents::default())
    }

    fn refusal(query: &str) -> ErrorCode {
        prepared(query).expect_err("it must be refused").code
    }

    #[test]
    fn a_request_says_what_it_is() {
        let two = "query A { a } subscription B { b }";
        for (query, name, kind) in [
            ("{ a }", None, OperationType::Query),
            ("mutation { a }", None, OperationType::Mutation),
            ("subscription S { a }", None, OperationType::Subscription),
            (two, Some("B"), OperationType::Subscription),
            (two, Some("A"), OperationType::Query),
        ] {
            let request = OperationRequest {
                query: Some(query.to_owned()),
                operation_name: name.map(str::to_owned),
                ..OperationRequest::default()
            };
            assert_eq!(request.prepare(&Documents::default()).expect("a good request").kind, kind, "{query}");
        }
        assert_eq!(refusal(""), ErrorCode::ValidationFailed);
        assert_eq!(refusal("{ a"), ErrorCode::ValidationFailed);
    }

    #[test]
    fn a_value_that_is_needed_is_missed_before_anything_is_run() {
        let refused = |query: &str, variables: serde_json::Value| {
            let request = OperationRequest {
                query: Some(query.to_owned()),
                variables: Some(Variables::from_json(variables)),
                ..OperationRequest::default()
            };
            request.prepare(&Documents::default()).err().map(|refusal| refusal.code)
        };
        let needs = "query ($a: Int!) { a(b: $a) }";
        assert_eq!(refused(needs, json!({})), Some(ErrorCode::ValidationFailed));
        assert_eq!(refused(needs, json!({"a": null})), Some(ErrorCode::ValidationFailed));
        assert_eq!(refused(needs, json!({"a": 1})), None);
        assert_eq!(refused("query ($a: Int) { a(b: $a) }", json!({})), None);
        assert_eq!(refused("query ($a: Int! = 1) { a(b: $a) }", json!({})), None);
        let long = format!("query (${}: Int!) {{ a }}", "x".repeat(100_000));
        let request = OperationRequest { query: Some(long), ..OperationRequest::default() };
        let refusal = request.prepare(&Documents::default()).expect_err("it needs a value");
        assert!(refusal.message.len() < 2_000, "a long name is not sent back");
    }

    #[test]
    fn a_document_that_is_sent_again_is_read_once_and_judged_as_before() {
        let documents = Documents::default();
        let prepare = |query: &str, name: Option<&str>| {
            let request = OperationRequest {
                query: Some(query.to_owned()),
                operation_name: name.map(str::to_owned),
                ..OperationRequest::default()
            };
            request.prepare(&documents).map(|operation| operation.kind).map_err(|refusal| refusal.code)
        };
        let two = "query A { a } subscription B { b }";
        for _ in 0..2 {
            assert_eq!(prepare(two, Some("A")), Ok(OperationType::Query));
            assert_eq!(prepare(two, Some("B")), Ok(OperationType::Subscription));
            assert_eq!(prepare("{ a }", Some("A")), Err(ErrorCode::ValidationFailed));
            assert_eq!(prepare("{ a", None), Err(ErrorCode::ValidationFailed));
            let large = format!("{{ a }} # {}", "x".repeat(DOCUMENT_BYTES_MAX));
            assert_eq!(prepare(&large, None), Ok(OperationType::Query));
        }
        assert_eq!(documents.0.len(), 2, "those that are good, and not large");
    }

    #[test]
    fn a_traceparent_that_can_not_be_read_is_none_and_no_error() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = |extensions: &str| {
            let body = format!(r#"{{"query": "{{ a }}", "extensions": {extensions}}}"#);
            let request: OperationRequest = serde_json::from_str(&body).expect("a request");
            request.prepare(&Documents::default()).expect("a good request").trace.map(|trace| trace.to_string())
        };
        assert_eq!(trace(&format!(r#"{{"x": [1], "traceparent": "{good}"}}"#)).as_deref(), Some(good));
        let deep = "[".repeat(1_000) + &"]".repeat(1_000);
        for wrong in ["null", "[]", "1", r#""a""#, "{}", r#"{"traceparent": 1}"#, r#"{"traceparent": "00-1"}"#, &deep] {
            assert_eq!(trace(wrong), None, "{wrong:.40}");
        }
    }

    #[test]
    fn nesting_of_every_kind_is_bounded_before_the_parser_sees_it() {
        let many = 100_000;
        for (open, middle, close) in [("{a", "", "}"), ("[", "", "]"), ("{b:", "1", "}"), ("(", "", ")")] {
            let nested = format!("{}{middle}{}", open.repeat(many), close.repeat(many));
            for query in [nested.clone(), format!("{{a(x:{nested})}}"), format!("query($x:{nested}) {{a}}")] {
                assert_eq!(refusal(&query), ErrorCode::LimitExceeded);
            }
        }
        let brackets = "[".repeat(many);
        for hidden in [format!("\"\"\"a\"{brackets}"), format!("\"]\n{brackets}"), format!("\"\"\"\\\"\"\"{brackets}")]
        {
            assert_eq!(refusal(&format!("{{a(x:[{hidden}")), ErrorCode::ValidationFailed);
        }
        for text in
            [format!("\"{brackets}\""), format!("\"\"\"{brackets}\\\"\"\" \"\"\""), format!("1) # {brackets}\n b(c: 1")]
        {
            assert!(prepared(&format!("{{a(x:{text})}}")).is_ok(), "brackets in a text are text: {text:.20}");
        }
    }

    #[test]
    fn fragments_can_not_be_used_to_multiply() {
        let bomb: String = (0..30).map(|i| format!("fragment f{i} on Q {{ ...f{0} ...f{0} }} ", i + 1)).collect();
        assert_eq!(refusal(&format!("{{ ...f0 }} {bomb} fragment f30 on Q {{ a b }}")), ErrorCode::LimitExceeded);
        let chain: String = (0..5_000).map(|i| format!("fragment f{i} on Q {{ ...f{} }} ", i + 1)).collect();
        assert_eq!(refusal(&format!("{{ ...f0 }} {chain}")), ErrorCode::LimitExceeded);
        assert!(prepared("{ ...f ...f } fragment f on Q { a ...f }").is_ok(), "a cycle ends; the schema refuses it");
    }

    #[test]
    fn one_field_can_not_be_asked_for_again_and_again_below_the_root() {
        let times = |field: &str, times: usize| (0..times).map(|i| format!("a{i}: {field} ")).collect::<String>();
        for field in ["config", "__typename"] {
            assert!(prepared(&format!("{{ p {{ n {{ {} }} }} }}", times(field, REPEATS_MAX))).is_ok());
            let [many, half] = [times(field, REPEATS_MAX + 1), times(field, REPEATS_MAX / 2 + 1)];
            for query in [
                format!("{{ p {{ n {{ {many} }} }} }}"),
                format!("{{ p {{ {half} ...on P {{ {half} }} }} }}"),
                format!("{{ p {{ ...f ...f }} }} fragment f on P {{ ...g }} fragment g on P {{ {half} }}"),
            ] {
                let refused = prepared(&query).expect_err("it must be refused");
                assert_eq!(refused.limit, Some((LimitName::QueryRepeats, REPEATS_MAX as u64)), "{query}");
            }
            assert!(prepared(&format!("{{ {} }}", times(field, 100))).is_ok(), "the root holds one of each");
        }
    }

    proptest! {
        /// Whatever comes, it is an answer.
        #[test]
        fn any_text_is_judged(query in "[\\[\\](){}\"#\\\\a-c:$!\n .]{0,200}") {
            let _ = prepared(&query);
        }
    }
}
