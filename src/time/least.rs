//! The least of many values of which one changes at a time.

use super::EventTime;

/// What one of them is: `None` doesn't count, `Some(None)` is less than any time.
type Value = Option<Option<EventTime>>;

/// A tree whose leaves are the values, and in which each other node has the least of the two below it.
#[derive(Debug, Clone, Default)]
pub(super) struct Least {
    /// The root is at 1, the nodes below n at 2n and 2n + 1.
    nodes: Vec<Value>,
}

impl Least {
    /// Takes these values, numbered from 0, in place of all that it had.
    pub(super) fn fill(&mut self, values: impl ExactSizeIterator<Item = Value>) {
        let leaves = values.len().next_power_of_two();
        self.nodes.clear();
        self.nodes.resize(leaves, None);
        self.nodes.extend(values);
        self.nodes.resize(2 * leaves, None);
        for node in (1..leaves).rev() {
            self.nodes[node] = least(self.nodes[2 * node], self.nodes[2 * node + 1]);
        }
    }

    /// The value of that number counts from now on, and is this.
    pub(super) fn set(&mut self, number: usize, value: Option<EventTime>) {
        let mut node = self.nodes.len() / 2 + number;
        self.nodes[node] = Some(value);
        while node > 1 {
            node /= 2;
            let least = least(self.nodes[2 * node], self.nodes[2 * node + 1]);
            if self.nodes[node] == least {
                return;
            }
            self.nodes[node] = least;
        }
    }

    /// The least of those that count.
    pub(super) fn least(&self) -> Value {
        self.nodes.get(1).copied().flatten()
    }
}

fn least(a: Value, b: Value) -> Value {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_a_search_finds(
            mut values in prop::collection::vec(prop::option::of(prop::option::of(-5i64..5)), 1..40),
            changes in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(-5i64..5)), 0..40),
        ) {
            let time = |value: Option<i64>| value.map(EventTime::from_micros);
            let found = |values: &[Option<Option<i64>>]| values.iter().flatten().copied().min().map(time);
            let mut tree = Least::default();
            tree.fill([None; 3].into_iter());
            tree.fill(values.iter().map(|value| value.map(time)));
            prop_assert_eq!(tree.least(), found(&values));
            for (at, value) in changes {
                let at = at.index(values.len());
                values[at] = Some(value);
                tree.set(at, time(value));
                prop_assert_eq!(tree.least(), found(&values));
            }
        }
    }
}
