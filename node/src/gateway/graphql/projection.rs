//! What a client selects of the delta stream, written without being executed.
//!
//! Executing a selection takes a future per field, and a tree of values that is then written down. A delta event has few
//! fields, none takes arguments and none can fail. So a selection of them is looked at once, and each event is written
//! straight from where it stands: to the byte what executing it comes to.

use async_graphql::SelectionField;
use async_graphql::resolver_utils::EnumType;
use serde::Serialize;

use super::events::{PatchOperation, PlanDagDeltaEvent};

/// A selection of `planDagDeltaChanged`.
#[derive(Debug)]
pub(super) struct Projection {
    /// The name of the stream's field in the answer.
    name: Box<str>,
    fields: Vec<Field<Part>>,
}

/// A field that is selected.
#[derive(Debug)]
struct Field<P> {
    /// Its name in the answer.
    name: Box<str>,
    part: P,
}

/// What there is of an event.
#[derive(Debug)]
enum Part {
    TypeName,
    ProjectId,
    PlanId,
    Kind,
    Version,
    Revision,
    PreviousRevision,
    UserId,
    ClientId,
    OperationId,
    Timestamp,
    Operations(Vec<Field<StepPart>>),
    Reason,
}

/// What there is of a step of a patch.
#[derive(Debug)]
enum StepPart {
    TypeName,
    Op,
    Path,
    Value,
    From,
}

type Result = serde_json::Result<()>;

impl Projection {
    /// What a field of the stream selects. To be asked only of documents without directives. `None`: it must be executed.
    pub(super) fn of(field: SelectionField<'_>) -> Option<Self> {
        let part = |field: SelectionField<'_>| {
            Some(match field.name() {
                "__typename" => Part::TypeName,
                "projectId" => Part::ProjectId,
                "planId" => Part::PlanId,
                "kind" => Part::Kind,
                "version" => Part::Version,
                "revision" => Part::Revision,
                "previousRevision" => Part::PreviousRevision,
                "userId" => Part::UserId,
                "clientId" => Part::ClientId,
                "operationId" => Part::OperationId,
                "timestamp" => Part::Timestamp,
                "operations" => Part::Operations(fields(field, step_part)?),
                "reason" => Part::Reason,
                _ => return None,
            })
        };
        Some(Self { name: name(field), fields: fields(field, part)? })
    }

    /// The answer that tells of an event.
    pub(super) fn write(&self, event: &PlanDagDeltaEvent) -> serde_json::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"{\"data\":{");
        value(&mut out, &self.name)?;
        out.push(b':');
        object(&mut out, &self.fields, |out, part| write_part(out, part, event))?;
        out.extend_from_slice(b"}}");
        Ok(out)
    }
}

fn step_part(field: SelectionField<'_>) -> Option<StepPart> {
    Some(match field.name() {
        "__typename" => StepPart::TypeName,
        "op" => StepPart::Op,
        "path" => StepPart::Path,
        "value" => StepPart::Value,
        "from" => StepPart::From,
        _ => return None,
    })
}

fn name(field: SelectionField<'_>) -> Box<str> {
    field.alias().unwrap_or_else(|| field.name()).into()
}

/// What a field selects. `None`: of what it does not know, and of a name that comes twice, whose values would be merged.
fn fields<P>(field: SelectionField<'_>, part: impl Fn(SelectionField<'_>) -> Option<P>) -> Option<Vec<Field<P>>> {
    let mut fields: Vec<Field<P>> = Vec::new();
    for selected in field.selection_set() {
        let name = name(selected);
        if fields.iter().any(|field| field.name == name) {
            return None;
        }
        fields.push(Field { name, part: part(selected)? });
    }
    Some(fields)
}

fn write_part(out: &mut Vec<u8>, part: &Part, event: &PlanDagDeltaEvent) -> Result {
    let told = &event.told;
    match part {
        Part::TypeName => value(out, "PlanDagDeltaEvent"),
        Part::ProjectId => value(out, &event.project.0),
        Part::PlanId => value(out, &event.plan.0),
        Part::Kind => value(out, &name_of(told.kind())),
        Part::Version => value(out, &told.place().version()),
        Part::Revision => value(out, &told.place().to_string()),
        Part::PreviousRevision => value(out, &told.previous().map(|revision| revision.to_string())),
        Part::UserId => value(out, told.user_id()),
        Part::ClientId => value(out, told.client_id()),
        Part::OperationId => value(out, &told.operation_id()),
        Part::Timestamp => value(out, &told.at().to_string()),
        Part::Operations(fields) => {
            list(out, told.operations(), |out, step| object(out, fields, |out, part| write_step_part(out, part, &step)))
        }
        Part::Reason => value(out, &told.reason()),
    }
}

fn write_step_part(out: &mut Vec<u8>, part: &StepPart, step: &PatchOperation<'_>) -> Result {
    match part {
        StepPart::TypeName => value(out, "PatchOperation"),
        StepPart::Op => value(out, &name_of(step.verb())),
        StepPart::Path => value(out, step.place()),
        StepPart::Value => value(out, &step.new_value()),
        StepPart::From => value(out, &step.origin()),
    }
}

fn object<P>(out: &mut Vec<u8>, fields: &[Field<P>], write: impl Fn(&mut Vec<u8>, &P) -> Result) -> Result {
    out.push(b'{');
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        value(out, &field.name)?;
        out.push(b':');
        write(out, &field.part)?;
    }
    out.push(b'}');
    Ok(())
}

fn list<T>(out: &mut Vec<u8>, items: Vec<T>, write: impl Fn(&mut Vec<u8>, T) -> Result) -> Result {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item)?;
    }
    out.push(b']');
    Ok(())
}

fn value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result {
    serde_json::to_writer(out, value)
}

/// A value of an enum, as the schema names it.
fn name_of<T: EnumType>(value: T) -> Option<&'static str> {
    T::items().iter().find(|item| item.value == value).map(|item| item.name)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_graphql::{Context, Object, Schema, Subscription};
    use futures_util::{FutureExt, Stream, StreamExt, stream};
    use mille_core::{Applied, Plan, chain};
    use mille_shared::change::{Change, Fact};
    use mille_shared::delta::{JsonText, PatchOp, PatchOperation};
    use mille_shared::log::{ChainHash, Head, LogEntry};
    use mille_shared::plan::PlanMetadata;
    use mille_shared::{ClientId, OperationId, PlanId, ProjectId, Revision, Timestamp, UserId};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::project::PlanEvent;

    struct Query;

    #[Object]
    impl Query {
        async fn is_here(&self) -> bool {
            true
        }
    }

    /// A stream of one event, which leaves what was selected of it.
    struct Stage {
        event: PlanEvent,
        left: Arc<Mutex<Option<Projection>>>,
    }

    impl Stage {
        fn event(&self) -> PlanDagDeltaEvent {
            PlanDagDeltaEvent::of(ProjectId(7), PlanId(-9), self.event.clone()).expect("an event of the stream")
        }
    }

    #[Subscription]
    impl Stage {
        async fn plan_dag_delta_changed(&self, ctx: &Context<'_>) -> impl Stream<Item = PlanDagDeltaEvent> + use<> {
            *self.left.lock().expect("no poison") = Projection::of(ctx.field());
            stream::iter([self.event()])
        }
    }

    /// What executing a document says of an event, and what writing it does. `None`: the document is none, or must be executed.
    fn both(query: &str, event: &PlanEvent) -> Option<(String, String)> {
        let left = Arc::new(Mutex::new(None));
        let stage = |left| Stage { event: event.clone(), left };
        let schema = Schema::build(Query, async_graphql::EmptyMutation, stage(Arc::clone(&left))).finish();
        let response = schema.execute_stream(query).next().now_or_never().flatten().expect("an answer at once");
        let executed = response.is_ok().then(|| serde_json::to_string(&response).expect("JSON"))?;
        let projection = left.lock().expect("no poison").take()?;
        let written = projection.write(&stage(Arc::default()).event()).expect("JSON");
        Some((executed, String::from_utf8(written).expect("UTF-8")))
    }

    fn change(facts: Vec<Fact>, text: &str) -> Change {
        Change {
            operation_id: OperationId::new(text),
            user_id: UserId::new("ada"),
            client_id: ClientId::new(text),
            at: Timestamp::from_unix_ms(1_700_000_000_123),
            facts,
        }
    }

    fn entry(seq: u64, after: ChainHash, facts: Vec<Fact>, text: &str) -> LogEntry {
        let payload = serde_json::to_string(&change(facts, text)).expect("JSON");
        let revision = Revision { epoch: 3, seq };
        LogEntry { revision, hash: chain::link(after, revision, &payload), payload: payload.into() }
    }

    /// A plan of two plan nodes and an edge.
    fn snapshot(text: &str) -> PlanEvent {
        let metadata = PlanMetadata { name: Some(text.to_owned()), ..PlanMetadata::default() };
        let first = entry(0, ChainHash::ROOT, vec![Fact::Created { metadata }], text);
        let mut plan = Plan::begin(&first).expect("a plan");
        let (at, label) = ("2026-01-02T03:04:05.678Z", json!({"label": text, "description": null}));
        let node = |id: &str| {
            json!({"is": "node_added", "node": {
                "id": id, "nodeType": "DataSourceNode", "position": {"x": -0.5, "y": 1e21}, "sourcePosition": "left",
                "targetPosition": null, "metadata": label, "config": text, "createdAt": at, "updatedAt": at,
                "datasourceExecution": null, "graphExecution": null,
            }})
        };
        let edge = json!({"is": "edge_added", "edge": {
            "id": "e", "source": "a", "target": "b", "metadata": {"label": text, "dataType": "GRAPH_DATA"},
            "createdAt": at, "updatedAt": at,
        }});
        let facts = serde_json::from_value(json!([node("a"), node("b"), edge])).expect("facts");
        plan.apply(&entry(1, first.hash, facts, text)).expect("a plan with elements");
        PlanEvent::Snapshot { plan: Arc::new(plan), reason: "requested" }
    }

    fn changed(patch: Vec<PatchOperation>, text: &str) -> PlanEvent {
        PlanEvent::Changed(Arc::new(Applied {
            head: Head { revision: Revision { epoch: 3, seq: 8 }, hash: ChainHash::ROOT },
            previous: Revision { epoch: 3, seq: 7 },
            change: change(Vec::new(), text),
            payload: "{}".into(),
            patch,
            touches: Vec::new(),
        }))
    }

    #[test]
    fn it_says_what_executing_says() {
        let query = "subscription { told: planDagDeltaChanged { __typename projectId planId kind version \
                     ...places userId who: clientId operationId timestamp operations { __typename op path value from } \
                     ... on PlanDagDeltaEvent { reason } } } fragment places on PlanDagDeltaEvent { revision previousRevision }";
        let step = PatchOperation {
            op: PatchOp::Replace,
            path: "/nodes/0/position".to_owned(),
            value: JsonText::of(&json!({"z": 1.5, "a": [null, true, "\u{1}\"é"], "n": -0.0, "big": u64::MAX})).ok(),
            from: None,
        };
        let many = vec![step.clone(); 40];
        for event in
            [changed(vec![step], "a \"word\"\n"), changed(many, ""), changed(Vec::new(), ""), snapshot("größer")]
        {
            let (executed, written) = both(query, &event).expect("a document that need not be executed");
            assert_eq!(written, executed);
        }
    }

    #[test]
    fn what_would_be_merged_is_executed() {
        let event = changed(Vec::new(), "x");
        let merged = "subscription { planDagDeltaChanged { operations { op } operations { path } } }";
        assert_eq!(both(merged, &event), None);
        assert!(both(&merged.replacen("operations", "first: operations", 1), &event).is_some());
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|bool| json!(bool)),
            any::<i64>().prop_map(|number| json!(number)),
            any::<f64>().prop_map(|number| json!(number)),
            any::<String>().prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
                prop::collection::hash_map("[a-z\"]{0,3}", inner, 0..4).prop_map(|entries| json!(entries)),
            ]
        })
    }

    fn step() -> impl Strategy<Value = PatchOperation> {
        use PatchOp::{Add, Copy, Move, Remove, Replace, Test};
        let op = prop::sample::select(vec![Add, Remove, Replace, Move, Copy, Test]);
        (op, any::<String>(), prop::option::of(value()), prop::option::of(any::<String>())).prop_map(
            |(op, path, value, from)| {
                let value = value.map(|value| JsonText::of(&value).expect("JSON"));
                PatchOperation { op, path, value, from }
            },
        )
    }

    /// Some fields, with or without another name.
    fn selection(of: &'static [&'static str]) -> impl Strategy<Value = String> {
        let field = (prop::sample::select(of), prop::option::of(0..40_u8));
        prop::collection::vec(field, 1..8).prop_map(|fields| {
            let named = fields.into_iter().map(|(field, alias)| match alias {
                Some(alias) if !field.starts_with("...") => format!("a{alias}: {field}"),
                _ => field.to_owned(),
            });
            named.collect::<Vec<_>>().join(" ")
        })
    }

    const EVENT: &[&str] = &[
        "__typename",
        "projectId",
        "planId",
        "kind",
        "version",
        "revision",
        "previousRevision",
        "userId",
        "clientId",
        "operationId",
        "timestamp",
        "reason",
        "operations { STEP }",
        "... { revision }",
        "...part",
    ];
    const STEP: &[&str] = &["__typename", "op", "path", "value", "from", "... on PatchOperation { path }"];

    proptest! {
        /// Whatever is selected of whatever event, writing it says what executing it says.
        #[test]
        fn any_selection_is_written_as_it_is_executed(
            event in selection(EVENT), part in selection(&EVENT[..12]), of_step in selection(STEP),
            patch in prop::collection::vec(step(), 0..3), text in any::<String>(), is_change in any::<bool>(),
        ) {
            let spread = if event.contains("...part") { format!("fragment part on PlanDagDeltaEvent {{ {part} }}") } else { String::new() };
            let query = format!("subscription {{ planDagDeltaChanged {{ {event} }} }} {spread}").replace("STEP", &of_step);
            let event = if is_change { changed(patch, &text) } else { snapshot(&text) };
            // Of two fields with one name either may be refused, or they would be merged.
            let compared = both(&query, &event);
            prop_assume!(compared.is_some());
            let (executed, written) = compared.unwrap_or_default();
            prop_assert_eq!(written, executed, "{}", query);
        }
    }
}
