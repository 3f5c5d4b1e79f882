//! Which receivers get an alert.

use super::Route;
use crate::record::alert::AlertEvent;
use std::collections::BTreeMap;

/// The indices in `receivers`, ascending, of those that get `event`.
///
/// The first route whose labels all match decides. Where none does, every receiver gets it: an alert that nobody
/// thought of is not lost in silence.
pub fn route(routes: &[Route], receivers: &[String], event: &AlertEvent) -> Vec<usize> {
    match first(routes, &event.labels).map(|at| &routes[at]) {
        None => (0..receivers.len()).collect(),
        Some(route) => {
            let named = |receiver: &String| route.to.iter().any(|to| to.value == *receiver);
            (0..receivers.len()).filter(|i| named(&receivers[*i])).collect()
        }
    }
}

/// The place of the first route whose labels all match.
pub(super) fn first(routes: &[Route], labels: &BTreeMap<String, String>) -> Option<usize> {
    let matches = |route: &Route| route.matching.iter().all(|(name, value)| labels.get(name) == Some(value));
    routes.iter().position(matches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Located;
    use crate::sink::readable::tests::event;

    /// Labels that must match, and receivers.
    type Entry<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

    fn check(routes: &[Entry<'_>], labels: &[(&str, &str)]) -> Vec<usize> {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let routes: Vec<Route> = routes
            .iter()
            .map(|(matching, to)| Route {
                matching: owned(matching),
                to: to.iter().map(|t| Located::nowhere((*t).to_owned())).collect(),
                ..Route::default()
            })
            .collect();
        let mut event = event();
        event.labels = owned(labels);
        route(&routes, &["ops".to_owned(), "page".to_owned()], &event)
    }

    #[test]
    fn the_first_match_decides() {
        let p0: Entry<'_> = (&[("severity", "P0")], &["page", "ops", "page"]);
        let rest: Entry<'_> = (&[], &["ops"]);
        assert_eq!(check(&[p0, rest], &[("severity", "P0")]), [0, 1]);
        assert_eq!(check(&[rest, p0], &[("severity", "P0")]), [0]);
        assert_eq!(check(&[p0, rest], &[("severity", "P1")]), [0]);
        assert_eq!(check(&[], &[]), [0, 1], "no entry means every receiver");
        assert_eq!(check(&[p0], &[]), [0, 1], "nothing is lost in silence");
    }
}
