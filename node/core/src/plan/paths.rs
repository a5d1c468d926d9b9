//! The paths of a whole document: whether its edges close a cycle, and which of them do.
//!
//! One pass tells whether there is a cycle anywhere, so a document without one costs as much as it is long. Which edges close
//! one depends on their order, and only where there is one each edge is asked. Plan nodes are numbers here, since whoever
//! asks for paths passes many.

use std::collections::HashMap;

use mille_shared::PlanNodeId;

/// Plan nodes and where their edges lead.
#[derive(Debug)]
pub(super) struct Paths<'a> {
    numbers: HashMap<&'a PlanNodeId, usize>,
    /// By number: where its edges lead.
    targets: Vec<Vec<usize>>,
    /// By number: the last search that came by.
    passed: Vec<usize>,
    searches: usize,
}

impl<'a> Paths<'a> {
    /// No paths yet between these plan nodes.
    pub(super) fn between(nodes: impl IntoIterator<Item = &'a PlanNodeId>) -> Self {
        let mut numbers = HashMap::new();
        for id in nodes {
            let next = numbers.len();
            numbers.entry(id).or_insert(next);
        }
        let count = numbers.len();
        Self { numbers, targets: vec![Vec::new(); count], passed: vec![0; count], searches: 0 }
    }

    /// Takes an edge in, without asking what it closes. One between others than these plan nodes leads nowhere.
    pub(super) fn add(&mut self, source: &PlanNodeId, target: &PlanNodeId) {
        if let (Some(&source), Some(&target)) = (self.numbers.get(source), self.numbers.get(target)) {
            self.targets[source].push(target);
        }
    }

    /// Whether any path leads back to where it begins. Linear in plan nodes and edges.
    pub(super) fn have_cycle(&self) -> bool {
        let mut inputs = vec![0_usize; self.targets.len()];
        self.targets.iter().flatten().for_each(|&target| inputs[target] += 1);
        let mut free: Vec<usize> = (0..inputs.len()).filter(|&node| inputs[node] == 0).collect();
        let mut left = inputs.len();
        // Whoever has no input is on no cycle: take them away until only cycles and what is behind them are left.
        while let Some(node) = free.pop() {
            left -= 1;
            for &target in &self.targets[node] {
                inputs[target] -= 1;
                if inputs[target] == 0 {
                    free.push(target);
                }
            }
        }
        left > 0
    }

    /// How often it was asked where a path leads.
    #[cfg(test)]
    pub(super) fn searches(&self) -> usize {
        self.searches
    }

    /// Whether a path leads from one plan node to another. Linear in the edges it passes.
    pub(super) fn lead(&mut self, from: &PlanNodeId, to: &PlanNodeId) -> bool {
        let (Some(&from), Some(&to)) = (self.numbers.get(from), self.numbers.get(to)) else { return false };
        self.searches += 1;
        self.passed[from] = self.searches;
        let mut open = vec![from];
        while let Some(node) = open.pop() {
            if node == to {
                return true;
            }
            for &target in &self.targets[node] {
                if self.passed[target] != self.searches {
                    self.passed[target] = self.searches;
                    open.push(target);
                }
            }
        }
        false
    }
}
