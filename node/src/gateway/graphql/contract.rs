//! The schema against the contract: every promised type, field and argument is there, spelt and typed as promised; and
//! the whole schema against the file that is kept of it, so that no change of it goes unseen.

use std::collections::BTreeSet;
use std::path::Path;

use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{
    FieldDefinition, InputValueDefinition, TypeDefinition, TypeKind, TypeSystemDefinition,
};
use async_graphql::{Response, Value};

use super::schema::builder;

/// What clients may rely on, a type per line. Arguments and fields in any order.
const CONTRACT: &str = include_str!("contract.txt");

fn sdl() -> String {
    builder(false).finish().sdl()
}

/// The schema's members, a line each: `Type.field(argument: Type = default): Type`, `Enum.VALUE`.
fn members() -> BTreeSet<String> {
    let document = parse_schema(sdl()).expect("a schema of ours parses");
    let mut members = BTreeSet::new();
    for definition in &document.definitions {
        if let TypeSystemDefinition::Type(definition) = definition {
            members.extend(members_of(&definition.node));
        }
    }
    members
}

fn members_of(definition: &TypeDefinition) -> Vec<String> {
    let name = &definition.name.node;
    match &definition.kind {
        TypeKind::Object(object) => {
            object.fields.iter().map(|field| format!("{name}.{}", of_field(&field.node))).collect()
        }
        TypeKind::InputObject(input) => {
            input.fields.iter().map(|field| format!("{name}.{}", of_input(&field.node))).collect()
        }
        TypeKind::Enum(values) => {
            values.values.iter().map(|value| format!("{name}.{}", value.node.value.node)).collect()
        }
        TypeKind::Scalar | TypeKind::Interface(_) | TypeKind::Union(_) => vec![format!("{name}")],
    }
}

fn of_field(field: &FieldDefinition) -> String {
    let mut arguments: Vec<String> = field.arguments.iter().map(|argument| of_input(&argument.node)).collect();
    arguments.sort();
    let arguments = if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(", ")) };
    format!("{}{arguments}: {}", field.name.node, field.ty.node)
}

fn of_input(input: &InputValueDefinition) -> String {
    let default = input.default_value.as_ref().map(|value| format!(" = {}", value.node)).unwrap_or_default();
    format!("{}: {}{default}", input.name.node, input.ty.node)
}

/// `Type: member; member` as members. An edit's common arguments stand as `EDIT`.
fn promised() -> BTreeSet<String> {
    let lines = CONTRACT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let members = lines.flat_map(|line| {
        let (name, members) = line.split_once(": ").expect("a line is a type and its members");
        members.split("; ").map(move |member| format!("{name}.{}", with_sorted_arguments(member)))
    });
    members.collect()
}

fn with_sorted_arguments(member: &str) -> String {
    let Some((name, rest)) = member.split_once('(') else { return member.to_owned() };
    let (arguments, kind) = rest.split_once("): ").expect("arguments end");
    let arguments = arguments.replace("EDIT", "planId: Int, operationId: String, expectedRevision: String");
    let mut arguments: Vec<&str> = arguments.split(", ").collect();
    arguments.sort_unstable();
    format!("{name}({}): {kind}", arguments.join(", "))
}

#[test]
fn every_promised_name_is_there_as_promised() {
    let members = members();
    let missing: Vec<String> = promised().into_iter().filter(|member| !members.contains(member)).collect();
    assert!(missing.is_empty(), "the schema lacks\n  {}", missing.join("\n  "));
}

#[test]
fn the_schema_is_the_one_that_is_kept() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.graphql");
    let now = sdl();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &now).expect("schema.graphql can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == now,
        "the schema changed: run this test with UPDATE_SCHEMA=1 and look at what changes in schema.graphql"
    );
}

async fn refusal(query: &str, dev: bool) -> Option<String> {
    let response: Response = builder(dev).finish().execute(query).await;
    response.errors.first().map(|error| error.message.clone())
}

/// Whether a query is let through to its resolvers, which then lack a session.
async fn is_let_through(query: &str, dev: bool) -> bool {
    refusal(query, dev).await.is_some_and(|message| message.contains("nobody is known"))
}

/// Every field of a type and of the types below it.
fn whole(type_name: &str) -> String {
    let document = parse_schema(sdl()).expect("a schema of ours parses");
    let definitions = document.definitions.iter().filter_map(|definition| match definition {
        TypeSystemDefinition::Type(definition) => Some(&definition.node),
        _ => None,
    });
    let types: Vec<&TypeDefinition> = definitions.collect();
    select(&types, type_name)
}

fn select(types: &[&TypeDefinition], name: &str) -> String {
    let definition = types.iter().find(|definition| definition.name.node == name);
    let Some(TypeKind::Object(object)) = definition.map(|definition| &definition.kind) else { return String::new() };
    let field = |field: &FieldDefinition| {
        let below = field.ty.node.to_string().replace(['[', ']', '!'], "");
        format!("{} {}", field.name.node, select(types, &below))
    };
    let fields: Vec<String> = object.fields.iter().map(|one| field(&one.node)).collect();
    format!("{{ {} }}", fields.join(" "))
}

/// Whoever adds one that looks at what a text says has requests validated that carry such texts (`executor.rs`).
#[test]
fn no_scalar_looks_at_what_a_text_says() {
    let document = parse_schema(sdl()).expect("a schema of ours parses");
    let of = |definition: TypeSystemDefinition| match definition {
        TypeSystemDefinition::Type(of) if matches!(of.node.kind, TypeKind::Scalar) => {
            Some(of.node.name.node.to_string())
        }
        _ => None,
    };
    let scalars: Vec<String> = document.definitions.into_iter().filter_map(of).collect();
    assert_eq!(scalars, ["JSON"]);
}

#[tokio::test]
async fn all_of_a_plan_may_be_asked_for_at_once() {
    let plan = whole("PlanDag");
    for query in [
        format!("{{ getPlanDag(projectId: 1) {plan} }}"),
        format!("{{ projects {} }}", whole("Project")),
        format!("{{ planDagDeltas(projectId: 1, after: \"1-0\") {} }}", whole("PlanDagDeltaPage")),
        format!("{{ a: getPlanDag(projectId: 1) {plan} b: getPlanDag(projectId: 1) {plan} me {} }}", whole("Viewer")),
        format!("mutation {{ updatePlanDagMetadata(projectId: 1, name: \"x\") {plan} }}"),
        "mutation { applyPlanDagChanges(projectId: 1, changes: []) { planDag { revision } } }".to_owned(),
    ] {
        assert!(is_let_through(&query, false).await, "{:?}: {query}", refusal(&query, false).await);
    }
}

#[tokio::test]
async fn the_same_work_under_a_hundred_names_is_refused() {
    let bomb = |field: &str| (0..100).map(|n| format!("a{n}: {field} ")).collect::<String>();
    for query in [
        format!("{{ {} }}", bomb("getPlanDag(projectId: 1) { version }")),
        format!("{{ {} }}", bomb("projectPresence(projectId: 1) { userId }")),
        format!("mutation {{ {} }}", bomb("deleteProject(projectId: 1)")),
        format!("{{ projects {{ {} }} }}", bomb("plans { revision }")),
    ] {
        let message = refusal(&query, false).await.expect("a bomb is refused");
        assert_eq!(message, "Query is too complex.", "{query:.60}");
    }
    let directives = "@skip(if: false) ".repeat(100);
    let message = refusal(&format!("{{ me {directives} {{ id }} }}"), false).await.expect("it is refused");
    assert!(message.starts_with("The number of directives"), "{message}");
}

#[tokio::test]
async fn the_schema_tells_of_itself_only_in_development() {
    let introspection =
        "{ __schema { queryType { name } types { name fields { name type { name ofType { name } } } } } }";
    let response = builder(true).finish().execute(introspection).await;
    assert!(response.errors.is_empty() && response.data != Value::Null, "{:?}", response.errors);
    let response = builder(false).finish().execute(introspection).await;
    assert!(!response.errors.is_empty() || !response.data.to_string().contains("queryType: {"), "{}", response.data);

    let misspelt = "{ getPlanDog(projectId: 1) { version } }";
    assert!(refusal(misspelt, true).await.is_some_and(|message| message.contains("getPlanDag")));
    assert!(refusal(misspelt, false).await.is_some_and(|message| !message.contains("getPlanDag")));
}

#[tokio::test]
async fn who_has_no_session_gets_nothing() {
    for query in [
        "{ me { id } }",
        "{ projects { id } }",
        "{ cluster { redis { mode } } }",
        "mutation { createProject(name: \"x\") { id } }",
    ] {
        assert!(is_let_through(query, false).await, "{query}");
    }
}

#[tokio::test]
async fn a_field_that_may_be_null_fails_alone() {
    let query = "{ lost: getPlanDag(projectId: 1) { version } __typename }";
    let response = builder(false).finish().execute(query).await;
    let data = response.data.into_json().expect("data is JSON");
    assert_eq!(data, serde_json::json!({"lost": null, "__typename": "Query"}));
    let error = serde_json::to_value(&response.errors).expect("errors are JSON");
    assert_eq!(error[0]["path"], serde_json::json!(["lost"]));
    assert!(
        response.errors[0].source::<crate::gateway::errors::ApiError>().is_some(),
        "the cause is kept for its code"
    );
}
