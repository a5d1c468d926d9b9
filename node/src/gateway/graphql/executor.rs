//! Runs requests, and validates those that are like a valid one no further.
//!
//! Clients have few documents, and send them again and again with other values. What the rules say of a request depends on
//! its document, on which of its operations is asked for, and on what the values are: whether a number is whole, which
//! fields an object has, which word stands for an enum's value. So of a request that is equal to a valid one in all of that
//! only the bounds are looked at: depth and complexity.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use async_graphql::parser::types::{TypeKind, TypeSystemDefinition};
use async_graphql::{Data, Executor, Request, Response, Value, parser};
use futures_util::stream::BoxStream;
use quick_cache::sync::Cache;

use super::MilleSchema;
use crate::gateway::errors::is_request_error;

/// Requests that are remembered. Those that are met least go first.
const KNOWN_MAX: usize = 512;
/// Bytes of what is remembered of one. Beyond it a request is validated each time.
const KNOWN_BYTES_MAX: usize = 4 * 1024;

/// What runs requests. Cheap to clone; the clones remember together.
#[derive(Clone)]
pub struct MilleExecutor<S = MilleSchema> {
    /// Keeps all rules.
    strict: S,
    /// Keeps the bounds alone.
    trusting: S,
    /// The names of all enums' values: of no other text does it matter to a rule what it says. If they are unknown, nothing is
    /// trusted.
    words: Option<Arc<HashSet<String>>>,
    valid: Arc<Cache<String, ()>>,
}

impl<S: Executor> MilleExecutor<S> {
    /// Over one schema twice: with all rules, and with its bounds alone. `sdl` is what it says of itself.
    pub(super) fn new(strict: S, trusting: S, sdl: &str) -> Self {
        let words = words(sdl).map(Arc::new);
        Self { strict, trusting, words, valid: Arc::new(Cache::new(KNOWN_MAX)) }
    }

    /// What the rules look at in a request. `None`: it is too much.
    fn likeness(&self, request: &Request) -> Option<String> {
        let words = self.words.as_deref().filter(|_| request.query.len() <= KNOWN_BYTES_MAX)?;
        let mut likeness = String::with_capacity(request.query.len() + 64);
        add_name(&mut likeness, '?', &request.query);
        add_name(&mut likeness, '!', request.operation_name.as_deref().unwrap_or_default());
        for (name, value) in request.variables.iter() {
            add_name(&mut likeness, '$', name);
            add_kind(&mut likeness, value, words);
            if likeness.len() > KNOWN_BYTES_MAX {
                return None;
            }
        }
        Some(likeness)
    }
}

/// Adds what the rules look at in a value.
fn add_kind(likeness: &mut String, value: &Value, words: &HashSet<String>) {
    if likeness.len() > KNOWN_BYTES_MAX {
        return; // nobody will look at it
    }
    match value {
        Value::Null => likeness.push('n'),
        Value::Boolean(true) => likeness.push('t'),
        Value::Boolean(false) => likeness.push('f'),
        Value::Number(number) if number.is_u64() => likeness.push(if number.is_i64() { 'u' } else { 'U' }),
        Value::Number(number) => likeness.push(if number.is_i64() { 'i' } else { 'd' }),
        Value::String(text) if words.contains(text) => add_name(likeness, '=', text),
        Value::String(_) => likeness.push('s'),
        Value::Binary(_) => likeness.push('b'),
        Value::Enum(name) => add_name(likeness, '#', name),
        Value::List(items) => {
            likeness.push('[');
            items.iter().for_each(|item| add_kind(likeness, item, words));
            likeness.push(']');
        }
        Value::Object(fields) => {
            likeness.push('{');
            for (name, value) in fields {
                add_name(likeness, '.', name);
                add_kind(likeness, value, words);
            }
            likeness.push('}');
        }
    }
}

/// A client may choose it freely, so what follows it is told from it by its length.
fn add_name(likeness: &mut String, sign: char, name: &str) {
    let _ = write!(likeness, "{sign}{}:{name}", name.len());
}

impl<S: Executor> Executor for MilleExecutor<S> {
    async fn execute(&self, request: Request) -> Response {
        let Some(likeness) = self.likeness(&request) else { return self.strict.execute(request).await };
        if self.valid.get(&likeness).is_some() {
            return self.trusting.execute(request).await;
        }
        let response = self.strict.execute(request).await;
        if !is_request_error(&response) {
            self.valid.insert(likeness, ());
        }
        response
    }

    /// Subscriptions are few beside what they bring, and are validated each time.
    fn execute_stream(&self, request: Request, session_data: Option<Arc<Data>>) -> BoxStream<'static, Response> {
        self.strict.execute_stream(request, session_data)
    }
}

/// The names of all values of a schema's enums.
fn words(sdl: &str) -> Option<HashSet<String>> {
    let mut words = HashSet::new();
    for definition in parser::parse_schema(sdl).ok()?.definitions {
        if let TypeSystemDefinition::Type(of) = definition
            && let TypeKind::Enum(of) = of.node.kind
        {
            words.extend(of.values.into_iter().map(|value| value.node.value.node.to_string()));
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use async_graphql::{
        EmptyMutation, EmptySubscription, Enum, InputObject, Json, Object, Schema, ValidationMode, Variables,
    };
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Enum, Clone, Copy, PartialEq, Eq)]
    enum Mark {
        Good,
        Bad,
    }

    #[derive(InputObject)]
    struct Place {
        x: f64,
        layer: Option<i32>,
        mark: Option<Mark>,
    }

    struct Query;

    #[Object]
    impl Query {
        async fn named(&self, id: String, times: Option<u64>) -> String {
            format!("{id} {times:?}")
        }

        async fn marked(&self, marks: Vec<Mark>) -> usize {
            marks.iter().filter(|mark| **mark == Mark::Good).count()
        }

        async fn placed(&self, at: Place, about: Option<Json<serde_json::Value>>) -> f64 {
            let marks = at.mark.map_or(0, |mark| i32::from(mark == Mark::Bad));
            at.x + f64::from(at.layer.unwrap_or_default() + marks) + f64::from(about.is_some())
        }
    }

    fn schema(mode: ValidationMode) -> Schema<Query, EmptyMutation, EmptySubscription> {
        Schema::build(Query, EmptyMutation, EmptySubscription).validation_mode(mode).limit_complexity(3).finish()
    }

    const DOCUMENTS: [&str; 5] = [
        "query ($a: String!, $b: Int) { named(id: $a, times: $b) }",
        "query ($a: [Mark!]!) { marked(marks: $a) }",
        "query ($a: Place!, $b: JSON) { placed(at: $a, about: $b) }",
        "query ($a: Mark!, $b: Float!) { placed(at: { x: $b, mark: $a }) marked(marks: [$a, GOOD]) }",
        "query A($a: String!) { named(id: $a) } query B($b: Int!) { a: named(id: \"\", times: $b) b: __typename c: __typename d: __typename }",
    ];

    fn request(document: usize, name: Option<&str>, variables: serde_json::Value) -> Request {
        let request = Request::new(DOCUMENTS[document]).variables(Variables::from_json(variables));
        match name {
            Some(name) => request.operation_name(name),
            None => request,
        }
    }

    fn both(
        executor: &MilleExecutor<Schema<Query, EmptyMutation, EmptySubscription>>,
        asked: impl Fn() -> Request,
    ) -> (String, String) {
        let of = |response: Option<Response>| {
            let mut response = response.expect("an answer at once");
            // Of the errors of several operations either may come first.
            response.errors.sort_by(|one, other| one.message.cmp(&other.message));
            serde_json::to_string(&response).expect("JSON")
        };
        (of(executor.execute(asked()).now_or_never()), of(executor.strict.execute(asked()).now_or_never()))
    }

    fn executor() -> MilleExecutor<Schema<Query, EmptyMutation, EmptySubscription>> {
        let strict = schema(ValidationMode::Strict);
        let sdl = strict.sdl();
        MilleExecutor::new(strict, schema(ValidationMode::Fast), &sdl)
    }

    #[test]
    fn what_is_like_a_valid_request_is_trusted_and_what_only_looks_so_is_not() {
        let executor = executor();
        let ask = |document, variables: serde_json::Value| {
            let (answer, strict) = both(&executor, || request(document, None, variables.clone()));
            assert_eq!(answer, strict);
            executor.valid.len()
        };
        assert_eq!(ask(0, json!({"a": "x", "b": 1})), 1);
        assert_eq!(ask(0, json!({"a": "another", "b": 7})), 1, "like the one before");
        assert_eq!(ask(0, json!({"a": "x", "b": 1.5})), 1, "not valid: times is whole");
        assert_eq!(ask(1, json!({"a": ["GOOD"]})), 2);
        assert_eq!(ask(1, json!({"a": ["BETTER"]})), 2, "no value of the enum");
        assert_eq!(ask(1, json!({"a": ["BAD"]})), 3, "another one");
        assert_eq!(ask(2, json!({"a": {"x": 1.5, "layer": 3}})), 4);
        assert_eq!(ask(2, json!({"a": {"x": 2.5, "layer": 4, "more": 1}})), 4, "one field too many");
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|bool| json!(bool)),
            prop_oneof![
                Just(json!(1)),
                Just(json!(-1)),
                Just(json!(1.5)),
                Just(json!(u64::MAX)),
                Just(json!(i64::MAX))
            ],
            prop::sample::select(vec!["GOOD", "BAD", "good", "x", ""]).prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|items| json!(items)),
                prop::collection::hash_map(prop::sample::select(vec!["x", "layer", "mark", "more"]), inner, 0..4)
                    .prop_map(|fields| json!(fields)),
            ]
        })
    }

    /// Values that fit, more often than chance has it.
    fn fitting() -> impl Strategy<Value = serde_json::Value> {
        let mark = || prop::sample::select(vec![json!("GOOD"), json!("BAD"), json!("WORSE")]);
        let number = || prop::sample::select(vec![json!(0), json!(2.5), json!(-3), json!(4_000_000_000_u64)]);
        prop_oneof![
            prop::collection::vec(mark(), 0..3).prop_map(|marks| json!(marks)),
            (number(), number(), mark()).prop_map(|(x, layer, mark)| json!({"x": x, "layer": layer, "mark": mark})),
            mark(),
            number(),
            value(),
        ]
    }

    proptest! {
        /// Whatever was asked before, the answer is that of all rules.
        #[test]
        fn every_request_is_answered_as_if_it_were_the_first(
            asked in prop::collection::vec((0..DOCUMENTS.len(), prop::option::of("[AB]"), fitting(), fitting()), 1..40),
        ) {
            let executor = executor();
            for (document, name, a, b) in asked {
                let variables = json!({"a": a, "b": b});
                let name = name.as_deref().filter(|_| document == DOCUMENTS.len() - 1);
                let (answer, strict) = both(&executor, || request(document, name, variables.clone()));
                prop_assert_eq!(answer, strict);
            }
        }
    }
}
