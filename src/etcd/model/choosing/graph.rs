//! Walks through every state of a model once, and keeps how they are connected.
//!
//! A state is *settled* or not. Among the others there must be no cycle and no dead end: then every schedule
//! leads from every state to a settled one, and the longest way there is known. No fairness is assumed, so
//! this is more than "eventually" in a checker that follows single paths.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use stateright::{Expectation, Model};

/// All of a model's states.
pub(super) struct Explored<M: Model> {
    states: usize,
    transitions: usize,
    took: Duration,
    /// The longest way from any state to a settled one.
    longest: usize,
    /// A property that does not hold, and a shortest way to a state that shows it.
    pub(super) violation: Option<(&'static str, Vec<M::Action>)>,
    pub(super) stuck: Option<Stuck<M::Action>>,
}

/// A schedule that never leads to a settled state.
pub(super) struct Stuck<A> {
    way: Vec<A>,
    /// Steps that lead back to where they began; empty at a dead end.
    cycle: Vec<A>,
}

struct Graph {
    /// The state from which each one was found.
    parents: Vec<u32>,
    settled: Vec<bool>,
    /// Where the next states of each one begin in `edges`.
    begins: Vec<usize>,
    edges: Vec<u32>,
}

/// Explores a model. Properties that it states always hold are checked: all, or one of them.
pub(super) fn explore<M: Model>(
    model: &M,
    only: Option<&'static str>,
    is_settled: impl Fn(&M::State) -> bool,
) -> Explored<M>
where
    M::State: Hash,
    M::Action: Clone,
{
    let start = Instant::now();
    let mut properties = model.properties();
    properties
        .retain(|one| one.expectation == Expectation::Always && only.is_none_or(|name| name == one.name));
    let broken =
        |state: &M::State| properties.iter().find(|one| !(one.condition)(model, state)).map(|one| one.name);

    let mut numbers: HashMap<u64, u32> = HashMap::new();
    let mut graph = Graph { parents: Vec::new(), settled: Vec::new(), begins: Vec::new(), edges: Vec::new() };
    let mut open = VecDeque::new();
    for state in model.init_states() {
        numbers.insert(fingerprint(&state), number(graph.parents.len()));
        graph.parents.push(number(graph.parents.len()));
        graph.settled.push(is_settled(&state));
        open.push_back(state);
    }
    let (mut actions, mut violation) = (Vec::new(), None);
    'all: while let Some(state) = open.pop_front() {
        let from = number(graph.begins.len());
        graph.begins.push(graph.edges.len());
        model.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = model.next_state(&state, action) else { continue };
            let unused = number(graph.parents.len());
            let to = match numbers.entry(fingerprint(&next)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    new.insert(unused);
                    graph.parents.push(from);
                    graph.settled.push(is_settled(&next));
                    violation = broken(&next).map(|name| (name, unused));
                    open.push_back(next);
                    unused
                }
            };
            if violation.is_some() {
                break 'all;
            }
            graph.edges.push(to);
        }
    }
    let (longest, stuck) = if violation.is_none() { graph.liveness() } else { (0, None) };
    let replay = |way: &[u32]| replay(model, &numbers, way);
    Explored {
        states: graph.parents.len(),
        transitions: graph.edges.len(),
        took: start.elapsed(),
        longest,
        violation: violation.map(|(name, state)| (name, replay(&graph.way_to(state)))),
        stuck: stuck.map(|cycle| {
            let way = graph.way_to(cycle[0]);
            Stuck { way: replay(&way), cycle: replay_from(model, &numbers, &way, &cycle) }
        }),
    }
}

impl Graph {
    fn next(&self, state: u32) -> &[u32] {
        let end = self.begins.get(state as usize + 1).copied().unwrap_or(self.edges.len());
        &self.edges[self.begins[state as usize]..end]
    }

    fn way_to(&self, state: u32) -> Vec<u32> {
        let mut way = vec![state];
        while let Some(last) = way.last().copied()
            && self.parents[last as usize] != last
        {
            way.push(self.parents[last as usize]);
        }
        way.reverse();
        way
    }

    /// Returns the longest way to a settled state, and a dead end or a cycle among the others.
    fn liveness(&self) -> (usize, Option<Vec<u32>>) {
        let unsettled = || (0..number(self.parents.len())).filter(|state| !self.settled[*state as usize]);
        if let Some(end) = unsettled().find(|state| self.next(*state).is_empty()) {
            return (0, Some(vec![end]));
        }
        // Kahn's algorithm: a state that is never free of predecessors is on a cycle, or behind one.
        let mut predecessors = vec![0_u32; self.parents.len()];
        let open = |to: &&u32| !self.settled[**to as usize];
        for from in unsettled() {
            self.next(from).iter().filter(open).for_each(|to| predecessors[*to as usize] += 1);
        }
        let mut ready: Vec<_> = unsettled().filter(|state| predecessors[*state as usize] == 0).collect();
        let mut steps = vec![1_usize; self.parents.len()];
        let (mut longest, mut done) = (0, 0);
        while let Some(from) = ready.pop() {
            done += 1;
            longest = longest.max(steps[from as usize]);
            for to in self.next(from).iter().filter(open) {
                let to = *to as usize;
                steps[to] = steps[to].max(steps[from as usize] + 1);
                predecessors[to] -= 1;
                if predecessors[to] == 0 {
                    ready.push(number(to));
                }
            }
        }
        if done == unsettled().count() { (longest, None) } else { (0, self.cycle(&predecessors)) }
    }

    /// Returns a cycle; each state that is left has a predecessor that is left.
    fn cycle(&self, predecessors: &[u32]) -> Option<Vec<u32>> {
        let left = |state: u32| !self.settled[state as usize] && predecessors[state as usize] > 0;
        let mut before = HashMap::new();
        let all = (0..number(self.parents.len())).filter(|state| left(*state));
        for from in all {
            before.extend(self.next(from).iter().filter(|to| left(**to)).map(|to| (*to, from)));
        }
        let mut seen = HashMap::new();
        let mut back = vec![*before.keys().min()?];
        loop {
            let last = *back.last()?;
            if let Some(begin) = seen.insert(last, back.len() - 1) {
                let mut cycle = back.split_off(begin);
                cycle.reverse();
                return Some(cycle);
            }
            back.push(*before.get(&last)?);
        }
    }
}

/// Returns the actions of a way through the states.
fn replay<M: Model>(model: &M, numbers: &HashMap<u64, u32>, way: &[u32]) -> Vec<M::Action>
where
    M::State: Hash,
    M::Action: Clone,
{
    replay_from(model, numbers, &way[..1], way)
}

/// Returns the actions of `then`, which begins at the end of `way`.
fn replay_from<M: Model>(model: &M, numbers: &HashMap<u64, u32>, way: &[u32], then: &[u32]) -> Vec<M::Action>
where
    M::State: Hash,
    M::Action: Clone,
{
    let is = |state: &M::State, wanted: u32| numbers.get(&fingerprint(state)) == Some(&wanted);
    let mut state =
        model.init_states().into_iter().find(|state| is(state, way[0])).expect("a way has a start");
    let mut taken = Vec::new();
    for wanted in way.iter().chain(then.iter()).skip(1) {
        if is(&state, *wanted) {
            taken.clear();
            continue;
        }
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        let (action, next) = actions
            .into_iter()
            .filter_map(|action| Some((action.clone(), model.next_state(&state, action)?)))
            .find(|(_, next)| is(next, *wanted))
            .expect("each state of a way follows from the one before");
        taken.push(action);
        state = next;
    }
    taken
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a model that fits into memory has fewer states")
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

impl<M: Model> fmt::Display for Explored<M>
where
    M::Action: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, transitions, took, longest, .. } = self;
        write!(f, "{states} states, {transitions} transitions, {took:.1?}")?;
        match (&self.violation, &self.stuck) {
            (Some((property, way)), _) => write!(f, "; not so: {property}, by {way:?}"),
            (None, Some(Stuck { way, cycle })) => write!(f, "; after {way:?} for ever {cycle:?}"),
            (None, None) => {
                write!(f, "; all hold, and each way to a settled state has at most {longest} steps")
            }
        }
    }
}
