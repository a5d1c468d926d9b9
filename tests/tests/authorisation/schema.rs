//! The schema that is kept, and what a document asks of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use async_graphql_parser::types::{
    BaseType, Field, FieldDefinition, ObjectType, OperationType, Selection, SelectionSet, Type, TypeKind,
    TypeSystemDefinition,
};
use async_graphql_parser::{parse_query, parse_schema};
use async_graphql_value::Value as Argument;

/// `Type.field`.
pub(crate) type FieldName = String;

/// Where an operation begins.
pub(crate) const ROOTS: [&str; 3] = ["Query", "Mutation", "Subscription"];

/// The object types of the schema.
pub(crate) struct Schema {
    objects: BTreeMap<String, ObjectType>,
}

impl Schema {
    /// The schema that the node's own tests hold it to.
    pub(crate) fn kept() -> Result<Self> {
        let document = parse_schema(include_str!("../../../node/schema.graphql"))?;
        let objects = document.definitions.into_iter().filter_map(|definition| match definition {
            TypeSystemDefinition::Type(definition) => match definition.node.kind {
                TypeKind::Object(object) => Some((definition.node.name.node.to_string(), object)),
                _ => None,
            },
            _ => None,
        });
        Ok(Self { objects: objects.collect() })
    }

    /// Every field of every object type.
    pub(crate) fn fields(&self) -> BTreeSet<FieldName> {
        let of = |(name, object): (&String, &ObjectType)| -> Vec<FieldName> {
            object.fields.iter().map(|field| format!("{name}.{}", field.node.name.node)).collect()
        };
        self.objects.iter().flat_map(of).collect()
    }

    /// The fields with which operations begin.
    pub(crate) fn root_fields(&self) -> BTreeSet<FieldName> {
        let is_root = |field: &FieldName| field.split_once('.').is_some_and(|(of, _)| ROOTS.contains(&of));
        self.fields().into_iter().filter(is_root).collect()
    }

    /// Those of them that may name a plan beside its project.
    pub(crate) fn fields_with_a_plan_of_a_project(&self) -> BTreeSet<FieldName> {
        self.root_fields()
            .into_iter()
            .filter(|field| {
                let takes = |argument: &str| self.takes(field, argument);
                takes("projectId") && takes("planId")
            })
            .collect()
    }

    fn takes(&self, field: &FieldName, argument: &str) -> bool {
        let Some((object, field)) = field.split_once('.') else { return false };
        self.definition(object, field)
            .is_some_and(|field| field.arguments.iter().any(|one| one.node.name.node == argument))
    }

    fn definition(&self, object: &str, field: &str) -> Option<&FieldDefinition> {
        let fields = &self.objects.get(object)?.fields;
        fields.iter().map(|one| &one.node).find(|one| one.name.node == field)
    }

    /// What a document asks for.
    pub(crate) fn asked(&self, document: &str) -> Result<Asked> {
        let document = parse_query(document)?;
        let (_, operation) = document.operations.iter().next().context("a document has an operation")?;
        let root = match operation.node.ty {
            OperationType::Query => "Query",
            OperationType::Mutation => "Mutation",
            OperationType::Subscription => "Subscription",
        };
        let selections = &operation.node.selection_set.node;
        let mut fields = BTreeSet::new();
        self.collect(root, selections, &mut fields)?;
        let [only] = &selections.items[..] else { bail!("a document of the matrix asks for one field") };
        let Selection::Field(field) = &only.node else { bail!("fragments are not followed") };
        let field = &field.node;
        Ok(Asked { root: format!("{root}.{}", field.name.node), fields, plan_variable: plan_variable(field) })
    }

    fn collect(&self, object: &str, set: &SelectionSet, into: &mut BTreeSet<FieldName>) -> Result<()> {
        for selection in &set.items {
            let Selection::Field(field) = &selection.node else { bail!("fragments are not followed") };
            let field = &field.node;
            let name = &field.name.node;
            let definition = self.definition(object, name).with_context(|| format!("{object}.{name}"))?;
            into.insert(format!("{object}.{name}"));
            let below = named(&definition.ty.node);
            ensure!(
                field.selection_set.node.items.is_empty() || self.objects.contains_key(below),
                "{object}.{name} selects from {below}"
            );
            self.collect(below, &field.selection_set.node, into)?;
        }
        Ok(())
    }
}

/// What a document asks for.
pub(crate) struct Asked {
    /// The field it begins with.
    pub(crate) root: FieldName,
    /// All fields, that one included.
    pub(crate) fields: BTreeSet<FieldName>,
    /// Whether the plan beside the project is the variable `plan`.
    pub(crate) plan_variable: bool,
}

fn plan_variable(field: &Field) -> bool {
    field.arguments.iter().any(|(name, value)| {
        name.node == "planId" && matches!(&value.node, Argument::Variable(variable) if variable == "plan")
    })
}

fn named(kind: &Type) -> &str {
    match &kind.base {
        BaseType::Named(name) => name,
        BaseType::List(inner) => named(inner),
    }
}
