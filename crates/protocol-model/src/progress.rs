//! Whether the steps that are sure to happen can go on for ever.
//!
//! Stateright's `eventually` misses behaviours that end in a cycle, so it is not used. In its place
//! stand two facts: no cycle of sure steps (here), and nothing sure to happen only where all is
//! terminal (`history::QUIESCENT`). Together they say: from every state, as soon as faults cease,
//! each order of the remaining steps comes to an end, and that end is terminal. Neither fairness
//! nor luck is needed: steps that only may happen (a paused process goes on, the queue is back)
//! count for nothing in either.

use crate::actions::Kind;
use crate::protocol::Protocol;
use crate::state::State;
use stateright::Model;
use std::collections::HashMap;

/// For each state, by number, those that sure steps lead to.
pub fn sure_steps(protocol: &Protocol) -> Vec<Vec<u32>> {
    let mut numbers: HashMap<State, u32> = HashMap::new();
    let mut states = protocol.init_states();
    for (number, state) in (0..).zip(&states) {
        numbers.insert(*state, number);
    }
    let mut edges = Vec::new();
    let mut actions = Vec::new();
    while let Some(state) = states.get(edges.len()).copied() {
        let mut sure = Vec::new();
        protocol.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = protocol.next_state(&state, action) else {
                continue;
            };
            let number = *numbers.entry(next).or_insert_with(|| {
                states.push(next);
                u32::try_from(states.len() - 1).unwrap()
            });
            if action.kind() == Kind::Sure {
                sure.push(number);
            }
        }
        edges.push(sure);
    }
    edges
}

/// How many nodes lie on a cycle, or behind one: taking away what nothing leads to leaves these.
pub fn left_by_peeling(edges: &[Vec<u32>]) -> usize {
    let mut incoming = vec![0_u32; edges.len()];
    for &to in edges.iter().flatten() {
        incoming[to as usize] += 1;
    }
    let mut open: Vec<usize> = (0..edges.len()).filter(|&n| incoming[n] == 0).collect();
    let mut left = edges.len();
    while let Some(n) = open.pop() {
        left -= 1;
        for &to in &edges[n] {
            incoming[to as usize] -= 1;
            if incoming[to as usize] == 0 {
                open.push(to as usize);
            }
        }
    }
    left
}
