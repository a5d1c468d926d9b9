//! From where on a node gives something up: what an operator may choose.
//!
//! Four values for each measure, for the levels in their order: wider cursor ticks, thinned presence, no new connections, no
//! new operations. A value so high that it is never reached takes the measure out.

use std::time::Duration;

use clap::Args;

use super::Thresholds;

/// Thresholds, as flags and variables.
#[derive(Debug, Args)]
pub struct PressureArguments {
    /// How late the event loop may come to what is due: four times, from where on cursors are shown less often, presence is
    /// told later, connections are refused, operations are refused.
    ///
    /// At 50 ms a cursor is a frame late, and people see it; a loop that is half a second behind brings no newcomer through
    /// the handshake in decent time; one that is a second behind answers nobody in time, and what it takes makes it worse.
    #[arg(long, env = "MILLE_PRESSURE_LAG_MS", value_delimiter = ',', default_values_t = [50, 150, 500, 1_000])]
    pub pressure_lag_ms: Vec<u64>,
    /// Bytes that may wait for sockets on this node, in the same way.
    ///
    /// A thousand people who read nothing for a moment are some 64 MiB. Most of it is shared by those who wait for it, so
    /// the highest is the bound of a burst, not the memory it takes. For a node with less than 2 GiB of memory, choose less.
    #[arg(long, env = "MILLE_PRESSURE_SEND_QUEUES_BYTES", value_delimiter = ',',
          default_values_t = [128 << 20, 256 << 20, 512 << 20, 1 << 30])]
    pub pressure_send_queues_bytes: Vec<u64>,
    /// How long Redis may take to answer, in the same way. One that does not answer at all only thins presence: what needs
    /// it is refused as `UNAVAILABLE`.
    ///
    /// On one LAN it answers in a millisecond, and a disk that must be waited for makes it tens. From a quarter of a second on
    /// an edit takes longer than people wait, and every newcomer asks Redis for more than anyone who is here already.
    #[arg(long, env = "MILLE_PRESSURE_REDIS_MS", value_delimiter = ',', default_values_t = [50, 100, 250, 400])]
    pub pressure_redis_ms: Vec<u64>,
}

impl PressureArguments {
    /// The thresholds they mean.
    ///
    /// # Errors
    /// A sentence that names the variable that does not hold four rising values.
    pub fn thresholds(&self) -> Result<Thresholds, String> {
        let lag = four("MILLE_PRESSURE_LAG_MS", &self.pressure_lag_ms)?;
        let queued_bytes = four("MILLE_PRESSURE_SEND_QUEUES_BYTES", &self.pressure_send_queues_bytes)?;
        let store = four("MILLE_PRESSURE_REDIS_MS", &self.pressure_redis_ms)?;
        Ok(Thresholds { lag: lag.map(Duration::from_millis), queued_bytes, store: store.map(Duration::from_millis) })
    }
}

/// Four values, each above the one before and the first above nothing: else a level would be skipped, or kept for good.
fn four(name: &str, values: &[u64]) -> Result<[u64; 4], String> {
    let rising = values.is_sorted_by(|one, next| one < next) && values.first().is_some_and(|first| *first > 0);
    let four = <[u64; 4]>::try_from(values).ok().filter(|_| rising);
    four.ok_or_else(|| {
        let given: Vec<String> = values.iter().map(u64::to_string).collect();
        format!("{name} ({}) must be four values above 0, each above the one before", given.join(","))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        pressure: PressureArguments,
    }

    fn thresholds(arguments: &[&str]) -> Result<Thresholds, String> {
        let arguments = std::iter::once("node").chain(arguments.iter().copied());
        Line::try_parse_from(arguments).expect("the flags themselves are right").pressure.thresholds()
    }

    #[test]
    fn there_are_four_rising_values_for_each_measure() {
        let given = thresholds(&["--pressure-redis-ms", "1,2,3,4"]).expect("four rising values");
        assert_eq!(given.store.map(|time| time.as_millis()), [1, 2, 3, 4]);
        assert_eq!(given.lag[3], Duration::from_secs(1), "the others keep their defaults");
        for wrong in ["1,2,3", "1,2,3,4,5", "0,1,2,3", "1,2,2,3", "4,3,2,1"] {
            let error = thresholds(&["--pressure-lag-ms", wrong]).expect_err(wrong);
            assert!(error.contains("MILLE_PRESSURE_LAG_MS") && error.contains(wrong), "{error}");
        }
    }
}
