//! The rules of a plan, written down a second time: from the contract, not from the node's code.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// Every rule that a document breaks, as sentences. Empty for a plan that is in order.
#[must_use]
pub fn broken_rules(document: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let nodes = list(&document["nodes"]);
    let edges = list(&document["edges"]);
    let kinds: HashMap<&str, &str> = nodes.iter().map(|node| (text(&node["id"]), text(&node["nodeType"]))).collect();
    if kinds.len() != nodes.len() {
        broken.push("two plan nodes have one id".to_owned());
    }
    let edge_ids: HashSet<&str> = edges.iter().map(|edge| text(&edge["id"])).collect();
    if edge_ids.len() != edges.len() {
        broken.push("two edges have one id".to_owned());
    }
    let mut pairs = HashSet::new();
    let mut inputs: HashMap<&str, usize> = HashMap::new();
    for edge in edges {
        let (id, source, target) = (text(&edge["id"]), text(&edge["source"]), text(&edge["target"]));
        if source == target {
            broken.push(format!("edge {id} is a self loop"));
        }
        for end in [source, target] {
            if !kinds.contains_key(end) {
                broken.push(format!("edge {id} ends at {end}, which is no plan node"));
            }
        }
        if !pairs.insert((source, target, text(&edge["metadata"]["dataType"]))) {
            broken.push(format!("edge {id} is there twice"));
        }
        if kinds.get(source) == Some(&"OutputNode") {
            broken.push(format!("edge {id} leaves an OutputNode"));
        }
        if kinds.get(target) == Some(&"DataSourceNode") {
            broken.push(format!("edge {id} enters a DataSourceNode"));
        }
        *inputs.entry(target).or_default() += 1;
    }
    for (id, count) in &inputs {
        if *count > 1 && kinds.get(id) != Some(&"MergeNode") {
            broken.push(format!("{id} has {count} inputs and is no MergeNode"));
        }
    }
    if has_cycle(&kinds, edges) {
        broken.push("there is a cycle".to_owned());
    }
    broken
}

/// Whether two JSON values mean the same to a client: 1 and 1.0 do, since JavaScript has one kind of number.
#[must_use]
pub fn same_value(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_value(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same_value(value, other)))
        }
        _ => left == right,
    }
}

/// Takes away plan nodes without input until none is left; what stays is a cycle.
fn has_cycle(kinds: &HashMap<&str, &str>, edges: &[Value]) -> bool {
    let mut open: HashMap<&str, usize> = kinds.keys().map(|id| (*id, 0)).collect();
    for edge in edges {
        *open.entry(text(&edge["target"])).or_default() += 1;
    }
    let mut free: Vec<&str> = open.iter().filter(|(_, inputs)| **inputs == 0).map(|(id, _)| *id).collect();
    let mut taken = 0;
    while let Some(id) = free.pop() {
        taken += 1;
        for edge in edges.iter().filter(|edge| text(&edge["source"]) == id) {
            let target = text(&edge["target"]);
            if let Some(inputs) = open.get_mut(target) {
                *inputs -= 1;
                if *inputs == 0 {
                    free.push(target);
                }
            }
        }
    }
    taken < open.len()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(kinds: &[(&str, &str)], edges: &[(&str, &str)]) -> Value {
        let nodes: Value = kinds.iter().map(|(id, kind)| json!({"id": id, "nodeType": kind})).collect();
        let edges: Value = edges
            .iter()
            .enumerate()
            .map(|(index, (source, target))| {
                json!({"id": format!("e{index}"), "source": source, "target": target, "metadata": {"dataType": "GRAPH_DATA"}})
            })
            .collect();
        json!({"nodes": nodes, "edges": edges})
    }

    const THREE: [(&str, &str); 3] = [("a", "TransformNode"), ("b", "TransformNode"), ("m", "MergeNode")];

    #[test]
    fn a_plan_in_order_breaks_no_rule() {
        assert_eq!(broken_rules(&plan(&THREE, &[("a", "b"), ("a", "m"), ("b", "m")])), Vec::<String>::new());
    }

    #[test]
    fn every_rule_is_noticed_when_it_is_broken() {
        let broken = [
            plan(&THREE, &[("a", "b"), ("b", "a")]),
            plan(&THREE, &[("a", "b"), ("b", "m"), ("m", "a")]),
            plan(&THREE, &[("a", "a")]),
            plan(&THREE, &[("a", "z")]),
            plan(&THREE, &[("a", "m"), ("a", "m")]),
            plan(&THREE, &[("a", "b"), ("m", "b")]),
            plan(&[("a", "TransformNode"), ("a", "TransformNode")], &[]),
            plan(&[("a", "OutputNode"), ("b", "GraphNode")], &[("a", "b")]),
            plan(&[("a", "GraphNode"), ("b", "DataSourceNode")], &[("a", "b")]),
        ];
        for document in broken {
            assert!(!broken_rules(&document).is_empty(), "{document}");
        }
    }

    #[test]
    fn numbers_are_the_same_by_value_and_nothing_else_is_forgiven() {
        assert!(same_value(&json!({"x": 1, "y": [2.0]}), &json!({"y": [2], "x": 1.0})));
        assert!(!same_value(&json!({"x": 1}), &json!({"x": 2})));
        assert!(!same_value(&json!({"x": null}), &json!({})));
        assert!(!same_value(&json!([1, 2]), &json!([2, 1])));
    }
}
