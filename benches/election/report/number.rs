//! Numbers in readable form.

/// The unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Seconds,
    Mebibytes,
    Kibibytes,
    Percent,
    PerSecond,
    Count,
}

impl Unit {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Mebibytes => "MiB",
            Self::Kibibytes => "KiB",
            Self::Percent => "%",
            Self::PerSecond => "/s",
            Self::Count => "",
        }
    }

    /// A time in milliseconds; other units are unchanged.
    pub(crate) fn in_milliseconds(self, value: f64) -> f64 {
        if self == Self::Seconds { value * 1e3 } else { value }
    }

    /// The number with its unit.
    pub(crate) fn of(self, value: f64) -> String {
        match self {
            Self::Count => short(value),
            Self::PerSecond => format!("{}/s", short(value)),
            _ => format!("{} {}", short(value), self.symbol()),
        }
    }
}

/// A limit: exact if chosen, to a thousandth if derived from a measurement.
pub(crate) fn limit(value: f64) -> String {
    ((value * 1e3).round() / 1e3).to_string()
}

/// Three significant digits, with thousands set apart.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    // Rounded before the comparison, so that 9.999 is not "10.00".
    let rounds_below = |limit: f64, places: f64| (value.abs() * places).round() / places < limit;
    if value == 0.0 {
        "0".to_owned()
    } else if rounds_below(0.1, 1000.0) {
        format!("{value:.3}")
    } else if rounds_below(10.0, 100.0) {
        format!("{value:.2}")
    } else if rounds_below(100.0, 10.0) {
        format!("{value:.1}")
    } else {
        thousands(value)
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let mut grouped = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_three_digits_and_no_more() {
        let read = [0.0, 0.0123, 0.5, 4.128, 9.999, 12.34, 99.96, 123.4, 1234.5, 1_234_567.0].map(short);
        let expected = ["0", "0.012", "0.50", "4.13", "10.0", "12.3", "100", "123", "1,234", "1,234,567"];
        assert_eq!(read, expected);
    }

    #[test]
    fn a_limit_is_written_as_it_was_set() {
        assert_eq!([400.0, 1.5, 0.1, 4.244_645_999_999_999_5].map(limit), ["400", "1.5", "0.1", "4.245"]);
    }

    #[test]
    fn what_was_not_measured_is_no_number() {
        assert_eq!(short(f64::NAN), "?");
        assert_eq!(Unit::Milliseconds.of(f64::INFINITY), "? ms");
    }

    #[test]
    fn a_rate_stands_by_its_unit() {
        assert_eq!(Unit::PerSecond.of(1500.0), "1,500/s");
        assert_eq!(Unit::Percent.of(0.02), "0.020 %");
    }
}
