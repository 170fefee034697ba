//! The measured failovers, as a table.

use std::{fmt, time::Duration};

use super::watch::Failover;

#[derive(Debug, Default)]
pub(super) struct Failovers(Vec<Failover>);

impl Failovers {
    pub(super) fn add(&mut self, failover: Failover) {
        self.0.push(failover);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Failovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "round  killed   next leader    failover")?;
        for (place, Failover { killed, next, took }) in self.0.iter().enumerate() {
            let (killed, next) = (killed.to_string(), next.to_string());
            writeln!(f, "{:>5}  {killed:<7}  {next:<11}  {:>7} ms", place + 1, millis(*took))?;
        }
        let mut sorted: Vec<_> = self.0.iter().map(|failover| failover.took).collect();
        sorted.sort_unstable();
        for (what, span) in [("median", median(&sorted)), ("max", sorted.last().copied())] {
            let span = span.map(millis).unwrap_or_default();
            writeln!(f, "{:>27}  {span:>7} ms", what)?;
        }
        Ok(())
    }
}

/// Returns the median; of an even number the mean of the two in the middle.
fn median(sorted: &[Duration]) -> Option<Duration> {
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    let lower = if sorted.len() % 2 == 1 { upper } else { sorted.get(middle.checked_sub(1)?)? };
    Some((*lower + *upper) / 2)
}

/// Rounds to whole milliseconds: a pipe and a busy machine add more than a fraction.
pub(super) fn millis(span: Duration) -> u128 {
    (span + Duration::from_micros(500)).as_millis()
}

#[cfg(test)]
mod tests {
    use super::{super::watch::DemoServer, *};

    const ONE: DemoServer = DemoServer::ALL[0];
    const TWO: DemoServer = DemoServer::ALL[1];
    const THREE: DemoServer = DemoServer::ALL[2];

    #[test]
    fn each_failover_then_the_median_and_the_longest() {
        let mut failovers = Failovers::default();
        for (killed, next, took) in [(ONE, THREE, 299_600), (THREE, ONE, 1_250_000), (ONE, TWO, 401_499)] {
            failovers.add(Failover { killed, next, took: Duration::from_micros(took) });
        }
        let expected = "\
round  killed   next leader    failover
    1  server1  server3          300 ms
    2  server3  server1         1250 ms
    3  server1  server2          401 ms
                     median      401 ms
                        max     1250 ms
";
        assert_eq!(failovers.to_string(), expected);
    }

    #[test]
    fn the_median_of_two_lies_between_them() {
        let ms = Duration::from_millis;
        assert_eq!(median(&[ms(100), ms(201)]), Some(Duration::from_micros(150_500)));
        assert_eq!(median(&[ms(7)]), Some(ms(7)));
        assert_eq!(median(&[]), None);
    }
}
