//! Numbers that a component shows to operators, each with its name.

/// A number that goes up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge {
    /// Its name in `/metrics`.
    pub name: &'static str,
    /// What it counts, in which unit.
    pub help: &'static str,
    /// Its value now.
    pub value: u64,
    /// How those of several volumes of one process become one.
    pub fold: GaugeFold,
}

/// How the values of several volumes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaugeFold {
    /// They are added up: of counts and sizes.
    Sum,
    /// The greatest is shown: of what is so or is not so.
    Most,
    /// The least that is not 0 is shown: of limits that are 0 where there is none.
    LeastLimit,
}

impl GaugeFold {
    fn of(self, one: u64, other: u64) -> u64 {
        match self {
            Self::Sum => one.saturating_add(other),
            Self::LeastLimit if one > 0 && other > 0 => one.min(other),
            Self::Most | Self::LeastLimit => one.max(other),
        }
    }
}

/// Folds the gauges of one more volume into those of others, by their names.
pub fn fold(whole: &mut Vec<Gauge>, gauges: Vec<Gauge>) {
    for gauge in gauges {
        match whole.iter_mut().find(|other| other.name == gauge.name) {
            Some(other) => other.value = gauge.fold.of(other.value, gauge.value),
            None => whole.push(gauge),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_volumes_say_becomes_one_number_whatever_their_order() {
        for (how, values, expected) in [
            (GaugeFold::Sum, [3, 0, 4], 7),
            (GaugeFold::Most, [0, 1, 1], 1),
            (GaugeFold::Most, [0, 0, 0], 0),
            (GaugeFold::LeastLimit, [0, 9, 5], 5),
            (GaugeFold::LeastLimit, [0, 0, 0], 0),
        ] {
            let gauge = |value| Gauge { name: "a", help: "A.", value, fold: how };
            let beside = Gauge { name: "b", ..gauge(1) };
            for turned in 0..values.len() {
                let (mut values, mut whole) = (values, Vec::new());
                values.rotate_left(turned);
                values.into_iter().for_each(|value| fold(&mut whole, vec![gauge(value), beside]));
                assert_eq!((whole.len(), whole[0].value), (2, expected), "{how:?} {values:?}");
            }
        }
    }
}
