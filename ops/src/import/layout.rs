//! Places plan nodes that come without a position: left to right, each after all its inputs.
//!
//! Layers by the longest way from a plan node without inputs; within a layer, the order that keeps a plan node
//! near its inputs. No claim to beauty: a start that nobody is ashamed to move things around in.

use mille_shared::limits::COORDINATE_ABS_MAX;

/// Distance between layers, where there is room for it.
const LAYER_STEP: f64 = 260.0;

/// Distance within a layer, where there is room for it.
const ROW_STEP: f64 = 110.0;

/// Where each of `count` plan nodes goes. `edges` are pairs of indexes and must have no cycle; plan nodes on one
/// would all stay in the first layer.
pub(crate) fn place(count: usize, edges: &[(usize, usize)]) -> Vec<(f64, f64)> {
    let layers = layers(count, edges);
    let mut columns: Vec<Vec<usize>> = Vec::new();
    for (node, &layer) in layers.iter().enumerate() {
        columns.resize(columns.len().max(layer + 1), Vec::new());
        columns[layer].push(node);
    }
    let mut inputs: Vec<Vec<usize>> = vec![Vec::new(); count];
    for &(source, target) in edges {
        inputs[target].push(source);
    }

    let layer_step = LAYER_STEP.min(COORDINATE_ABS_MAX / as_f64(columns.len()));
    let mut places = vec![(0.0, 0.0); count];
    for (layer, column) in columns.iter_mut().enumerate() {
        let height = |node: usize| -> f64 {
            let sources = &inputs[node];
            if sources.is_empty() {
                return 0.0;
            }
            sources.iter().map(|&source| places[source].1).sum::<f64>() / as_f64(sources.len())
        };
        // Stable, so plan nodes with the same inputs keep the order of the file.
        column.sort_by(|&left, &right| height(left).total_cmp(&height(right)));
        let row_step = ROW_STEP.min(COORDINATE_ABS_MAX / as_f64(column.len()));
        let top = -row_step * as_f64(column.len() - 1) / 2.0;
        for (row, &node) in column.iter().enumerate() {
            places[node] = ((as_f64(layer) * layer_step).round(), (top + as_f64(row) * row_step).round());
        }
    }
    places
}

/// The longest way to each plan node, counted in edges.
fn layers(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut outputs: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut waiting_for = vec![0_usize; count];
    for &(source, target) in edges {
        outputs[source].push(target);
        waiting_for[target] += 1;
    }
    let mut ready: Vec<usize> = (0..count).filter(|&node| waiting_for[node] == 0).collect();
    let mut layers = vec![0; count];
    while let Some(node) = ready.pop() {
        for &output in &outputs[node] {
            layers[output] = layers[output].max(layers[node] + 1);
            waiting_for[output] -= 1;
            if waiting_for[output] == 0 {
                ready.push(output);
            }
        }
    }
    layers
}

/// Exact for anything we count here.
fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_node_is_right_of_all_its_inputs() {
        let edges = [(0, 1), (1, 2), (0, 2), (3, 2)];
        let places = place(4, &edges);
        for (source, target) in edges {
            assert!(places[source].0 < places[target].0, "{source} -> {target}: {places:?}");
        }
    }

    #[test]
    fn no_two_plan_nodes_share_a_place() {
        let edges: Vec<(usize, usize)> = (1..200).map(|node| (node / 3, node)).collect();
        let mut places: Vec<(i64, i64)> = place(200, &edges).into_iter().map(|(x, y)| (x as i64, y as i64)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 200);
    }

    #[test]
    fn the_longest_and_the_broadest_plan_stay_within_the_canvas() {
        let chain: Vec<(usize, usize)> = (1..1000).map(|node| (node - 1, node)).collect();
        for places in [place(1000, &chain), place(1000, &[])] {
            assert!(places.iter().all(|&(x, y)| x.abs() <= COORDINATE_ABS_MAX && y.abs() <= COORDINATE_ABS_MAX));
        }
    }

    #[test]
    fn nothing_is_placed_nowhere() {
        assert_eq!(place(0, &[]), []);
        assert_eq!(place(1, &[]), [(0.0, 0.0)]);
    }
}
