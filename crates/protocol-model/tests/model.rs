//! The protocol of `docs/explanation/protocol.md` as a model, and every history of it up to a number of
//! faults.

#![allow(clippy::unwrap_used, reason = "this is a test")]
#![allow(clippy::print_stdout, reason = "the counts are worth reading")]

use protocol_model::faults::Scope;
use protocol_model::history::{
    ALL_SPENT, ATTEMPTS, CLAIMS, CURRENT_TOKEN, EARLIER, FORCED_COMPLETION, LEFT_ALIVE,
    ONE_TERMINAL_WRITE, OVERTAKEN, QUEUE_AWAY, QUIESCENT, SPARED, TAKEOVER, TERMINAL_IS_FINAL,
    TOO_LATE, WAIT, WAITING,
};
use protocol_model::protocol::{Poison, Protocol};
use protocol_model::store::Mechanism;
use protocol_model::{history, progress, store};
use stateright::{Checker, Expectation, Model};
use std::collections::BTreeSet;
use std::time::Instant;

/// What exploring every state found.
struct Explored {
    /// Promises that are broken somewhere.
    broken: BTreeSet<&'static str>,
    /// Signs that were nowhere to be seen.
    unseen: BTreeSet<&'static str>,
}

/// Explores every state; prints a way to each broken promise.
fn explore(name: &str, protocol: Protocol) -> Explored {
    let began = Instant::now();
    let checker = protocol.checker().spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    assert!(checker.is_done());
    let discoveries = checker.discoveries();
    let mut explored = Explored {
        broken: BTreeSet::new(),
        unseen: BTreeSet::new(),
    };
    for property in protocol.properties() {
        let found = discoveries.get(property.name);
        if property.expectation == Expectation::Sometimes {
            if found.is_none() {
                explored.unseen.insert(property.name);
            }
        } else if let Some(path) = found {
            explored.broken.insert(property.name);
            println!("  broken: {}", property.name);
            for action in path.clone().into_actions() {
                println!("    {action:?}");
            }
        }
    }
    explored
}

fn assert_holds(name: &str, protocol: Protocol, unseen: &[&'static str]) {
    let explored = explore(name, protocol);
    assert_eq!(explored.broken, BTreeSet::new());
    assert_eq!(explored.unseen, unseen.iter().copied().collect());
}

/// Faults of every kind in one history. More by hand: three are 3 million states, four 17 million.
fn faults() -> u8 {
    std::env::var("VERIFYD_MODEL_FAULTS").map_or(2, |n| n.parse().unwrap())
}

#[test]
fn every_promise_holds_under_any_faults() {
    let faults = faults();
    let unseen: &[_] = match faults {
        0..3 => &[ALL_SPENT, FORCED_COMPLETION],
        3..6 => &[FORCED_COMPLETION],
        _ => &[],
    };
    assert_holds("any faults", Protocol::new(1, faults), unseen);
}

/// Processes look for attempts that they have lost sight of at any moment, also in vain.
#[test]
fn every_promise_holds_whenever_a_process_looks() {
    let protocol = Protocol::new(1, 1).curious();
    let unseen = [ALL_SPENT, FORCED_COMPLETION, WAITING];
    assert_holds("curious", protocol, &unseen);
}

#[test]
fn every_promise_holds_when_all_attempts_are_spent() {
    let protocol = Protocol::new(1, 3).only(Scope::Attempts);
    assert_holds("lost attempts", protocol, &[QUEUE_AWAY, FORCED_COMPLETION]);
}

#[test]
fn every_promise_holds_for_two_runs() {
    let protocol = Protocol::new(2, 1).only(Scope::Crashes);
    let unseen = [
        ALL_SPENT,
        FORCED_COMPLETION,
        QUEUE_AWAY,
        LEFT_ALIVE,
        OVERTAKEN,
        TOO_LATE,
        WAITING,
    ];
    assert_holds("two runs", protocol, &unseen);
}

/// A run that kills whoever works on it comes to its end all the same.
#[test]
fn every_promise_holds_for_a_poison_run() {
    let protocol = Protocol::new(1, 1).only(Scope::Crashes);
    let disturbed = [QUEUE_AWAY, LEFT_ALIVE, OVERTAKEN, TOO_LATE];
    assert_holds("poison", protocol.poisoned(Poison::Completed), &disturbed);
    let unseen = [&disturbed[..], &[FORCED_COMPLETION]].concat();
    assert_holds("poison, asked", protocol.poisoned(Poison::Asked), &unseen);
}

/// And so does the run beside it, in processes that work on both at a time.
#[test]
fn every_promise_holds_beside_a_poison_run() {
    let unseen = [LEFT_ALIVE, OVERTAKEN, TOO_LATE];
    let protocol = beside_poison(Poison::Completed);
    assert_holds("beside poison", protocol, &unseen);
    let unseen = [&unseen[..], &[FORCED_COMPLETION]].concat();
    let protocol = beside_poison(Poison::Asked);
    assert_holds("beside poison, asked", protocol, &unseen);
}

/// Two runs in processes of two slots. Fewer attempts than elsewhere: there are states enough.
fn beside_poison(poison: Poison) -> Protocol {
    Protocol {
        slots: 2,
        polling: true,
        ..Protocol::new(2, 0).attempts(2, 1).poisoned(poison)
    }
}

/// An id is given to another run: after TRUNCATE … RESTART IDENTITY, in a restored backup. One attempt, so
/// that those of the earlier run would be all.
fn given_again() -> Protocol {
    let protocol = Protocol::new(1, 2).attempts(1, 1);
    protocol.only(Scope::GivenAgain)
}

#[test]
fn every_promise_holds_for_an_id_that_is_given_again() {
    assert_holds("given again", given_again(), &[QUEUE_AWAY]);
}

#[test]
fn nothing_goes_on_for_ever() {
    for (name, protocol) in [
        ("any faults", Protocol::new(1, 2)),
        ("lost attempts", Protocol::new(1, 3).only(Scope::Attempts)),
        ("given again", given_again()),
        ("poison", Protocol::new(1, 0).poisoned(Poison::Completed)),
    ] {
        let edges = progress::sure_steps(&protocol);
        let left = progress::left_by_peeling(&edges);
        println!("{name}: {} states, {left} on a cycle", edges.len());
        assert_eq!(left, 0);
    }
}

#[test]
fn a_cycle_is_seen() {
    let line = [vec![1], vec![2], vec![]];
    let circle = [vec![1], vec![2], vec![1]];
    assert_eq!(progress::left_by_peeling(&line), 0);
    assert_eq!(progress::left_by_peeling(&circle), 2);
}

/// Each promise can be broken: by taking away the mechanism that keeps it, and by nothing else.
#[test]
fn without_its_mechanism_a_promise_is_broken() {
    use Mechanism::{
        AttemptLimit, ClaimCompareAndSet, DatabaseFirst, ExhaustedIsolated, FirstDelivery,
        ForcedCompletion, LastChanceIsolated, LeaseCheck, LockBeforeTokenCheck, NotedBeforeClaim,
        OrphanTokenCheck, Reclaim, Redelivery, ReleaseOrphaned, SetAside, StatusCheckOfComplete,
        StatusCheckOfRelease, TokenCheck, WaitKept,
    };
    let any = Protocol::new(1, 1);
    let outside = Protocol::new(1, 2).only(Scope::Outside);
    let losses = Protocol::new(1, 3).only(Scope::Crashes);
    let deadly = Protocol::new(1, 0).poisoned(Poison::Completed);
    let beside_asked = beside_poison(Poison::Asked);
    let beside_completed = beside_poison(Poison::Completed);
    let mutants: &[(Mechanism, Protocol, &[&'static str])] = &[
        (TokenCheck, any, &[CURRENT_TOKEN]),
        (LockBeforeTokenCheck, any, &[CURRENT_TOKEN]),
        (StatusCheckOfComplete, any, &[ONE_TERMINAL_WRITE]),
        (StatusCheckOfRelease, outside, &[TERMINAL_IS_FINAL]),
        (ClaimCompareAndSet, any, &[TAKEOVER, TERMINAL_IS_FINAL]),
        (LeaseCheck, any, &[TAKEOVER]),
        (Reclaim, any, &[QUIESCENT]),
        (Redelivery, any, &[QUIESCENT]),
        (FirstDelivery, any, &[QUIESCENT]),
        (WaitKept, any, &[WAIT]),
        (AttemptLimit, losses, &[ATTEMPTS]),
        (LastChanceIsolated, beside_asked, &[SPARED]),
        (ExhaustedIsolated, beside_completed, &[SPARED]),
        (ForcedCompletion, deadly, &[CLAIMS]),
        (SetAside, given_again(), &[EARLIER]),
        (ReleaseOrphaned, any, &[QUIESCENT]),
        (OrphanTokenCheck, any.curious(), &[TAKEOVER]),
        (NotedBeforeClaim, any.curious(), &[TAKEOVER]),
        (DatabaseFirst, any.curious(), &[TAKEOVER]),
    ];
    let mut wrong = Vec::new();
    for &(mechanism, protocol, promises) in mutants {
        let name = format!("without {mechanism:?}");
        let broken = explore(&name, protocol.without(mechanism)).broken;
        if broken != promises.iter().copied().collect() {
            wrong.push((mechanism, broken));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let kept: BTreeSet<_> = mutants.iter().flat_map(|(_, _, names)| *names).collect();
    for promise in history::promises() {
        assert!(
            kept.contains(&promise.name),
            "no mutant breaks: {}",
            promise.name
        );
    }
}

/// A new function of the store that writes needs a transition here.
#[test]
fn the_transitions_have_the_names_of_the_stores_functions() {
    let reads = ["open_attempts", "workers", "counts_of_group"];
    // `record` for several runs at once.
    let several = ["record_many"];
    let ports = [
        "claims",
        "sweep",
        "orphans",
        "groups",
        "recording",
        "workers",
    ];
    let ports = ports.map(|port| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        std::fs::read_to_string(format!("{root}/src/ports/{port}.rs")).unwrap()
    });
    let functions: BTreeSet<&str> = ports
        .iter()
        .flat_map(|port| port.split("    async fn ").skip(1))
        .map(|rest| rest.split_once('(').unwrap().0)
        .collect();
    let known: BTreeSet<&str> = store::TRANSITIONS
        .iter()
        .copied()
        .chain(reads)
        .chain(several)
        .collect();
    assert_eq!(functions, known);
}

/// And the statements and constants that the transitions name are those of the product.
#[test]
fn the_statements_that_the_model_names_are_there() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let mut sources = String::new();
    for folder in ["src/store", "src/store/postgres"] {
        for entry in std::fs::read_dir(format!("{root}{folder}")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                sources.push_str(&read(&path));
            }
        }
    }
    for other in ["ports/claims.rs", "engine/reconciler/sweep.rs"] {
        sources.push_str(&read(format!("{root}src/{other}").as_ref()));
    }
    let model = read(format!("{root}crates/protocol-model/src/store.rs").as_ref());
    let comments = model.lines().filter_map(|line| line.split_once("//"));
    let mut named = BTreeSet::new();
    for (_, comment) in comments {
        // Of single words only what stands alone is a name: these are short.
        let words = comment.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        named.extend(words.filter(|word| word.contains('_') && word.len() > 3));
    }
    assert!(named.len() > 12, "{named:?}");
    for name in named {
        assert!(sources.contains(&format!("const {name}: ")), "{name}");
    }
}
