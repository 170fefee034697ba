//! After the last fault, every vacancy ends within the documented bound.

use super::{Case, Invariant};

pub(super) struct Takeover;

impl Invariant for Takeover {
    fn name(&self) -> &'static str {
        "takeover in time"
    }

    fn broken_by(&self, case: &Case<'_>) -> Vec<String> {
        let Some(healed) = case.history.healed() else { return Vec::new() };
        let vacancies = case.terms.vacancies(healed, case.history.end());
        let bound = case.bounds.takeover;
        let long = vacancies.into_iter().filter(|(from, to)| to.since(*from) > bound);
        long.map(|(from, to)| {
            let (from, lasted) = (case.history.seconds(from), to.since(from));
            format!(
                "no leader for {lasted:?} from {from:.3} s on, with all faults over; the bound is {bound:?}"
            )
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};

    fn bound() -> u64 {
        bounds().takeover.as_millis() as u64
    }

    #[test]
    fn finds_a_vacancy_that_is_too_long_also_one_that_never_ends() {
        let late = vec![healed(10), proved(11 + bound(), "a", 1, 90_000), closed(60_000)];
        assert_eq!(broken(&Takeover, late).len(), 1);
        let never = vec![healed(10), closed(11 + bound())];
        assert_eq!(broken(&Takeover, never).len(), 1);
        let later =
            vec![healed(10), proved(11, "a", 1, 20), proved(21 + bound(), "a", 2, 99_000), closed(60_000)];
        assert_eq!(broken(&Takeover, later).len(), 1);
    }

    #[test]
    fn lets_one_end_at_the_bound_and_counts_from_the_last_fault() {
        let in_time = vec![healed(40_000), proved(40_000 + bound(), "a", 1, 99_000), closed(90_000)];
        assert_eq!(broken(&Takeover, in_time), [""; 0]);
    }

    #[test]
    fn says_nothing_of_the_time_after_the_end() {
        let events = vec![healed(10), proved(10, "a", 1, 30), closed(40), exited(90_000, "a", Some(0))];
        assert_eq!(broken(&Takeover, events), [""; 0]);
    }
}
