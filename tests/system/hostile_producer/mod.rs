//! A producer that is hostile, with exactly the rights that `deploy/` gives to producers: rows and
//! hints of every shape beside healthy ones, against the real binary under its own role.
//!
//! What is written is drawn from a seed, always the same one, so that the suite never fails by chance.
//! `VERIFYD_TEST_HOSTILE_SEED` names another one, or says `random`; each test prints its own.
//! `VERIFYD_TEST_HOSTILE_ROUNDS` says for how long.

mod embedded;
mod hints;
mod large_contexts;
mod scene;
mod servers;
mod shapes;
mod surfaces;

use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::io::Write as _;

/// What is drawn from where nothing else is asked for.
const SEED: u64 = 20_261_128;

/// Draws values of strategies, the same ones for the same seed.
#[derive(Debug)]
pub struct Draw(TestRunner);

impl Draw {
    /// From the seed that the environment names, or from that of every day.
    pub fn new(what: &str) -> Self {
        let seed: u64 = match std::env::var("VERIFYD_TEST_HOSTILE_SEED").as_deref() {
            Err(_) => SEED,
            Ok("random") => rand::random(),
            Ok(text) => text.parse().expect("a number, or random"),
        };
        let _ = writeln!(
            std::io::stderr(),
            "{what}: VERIFYD_TEST_HOSTILE_SEED={seed}"
        );
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self(TestRunner::new_with_rng(Config::default(), random))
    }

    pub fn one<S: Strategy>(&mut self, strategy: &S) -> S::Value {
        strategy.new_tree(&mut self.0).unwrap().current()
    }

    pub fn some<S: Strategy>(&mut self, number: usize, strategy: &S) -> Vec<S::Value> {
        (0..number).map(|_| self.one(strategy)).collect()
    }
}

/// How many rounds: one with the catalogue, the others drawn.
pub fn rounds() -> usize {
    let long = std::env::var_os("VERIFYD_TEST_LONG").is_some_and(|value| !value.is_empty());
    std::env::var("VERIFYD_TEST_HOSTILE_ROUNDS")
        .ok()
        .map_or(if long { 4 } else { 2 }, |text| {
            text.parse().expect("a number")
        })
}
