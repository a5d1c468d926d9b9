//! Settings of leaving: how much time a drain takes, and how old a socket may grow.

use std::time::Duration;

use clap::{Args, value_parser};
use mille_shared::limits;

use super::ConfigError;
use crate::drain::DrainSettings;
use crate::shutdown::SOCKET_PATIENCE;

/// The flags.
#[derive(Debug, Clone, Args)]
pub struct LeavingArguments {
    /// From the first 503 of /readyz to the first socket that is closed: as long as load balancers need to notice. 0 to 300.
    #[arg(long, env = "MILLE_DRAIN_NOTICE_SECONDS", default_value_t = limits::DRAIN_NOTICE.as_secs(),
          value_parser = value_parser!(u64).range(0..=300))]
    pub drain_notice_seconds: u64,
    /// Sockets are closed one by one over this time. 0 to 3600.
    #[arg(long, env = "MILLE_DRAIN_WINDOW_SECONDS", default_value_t = limits::DRAIN_WINDOW.as_secs(),
          value_parser = value_parser!(u64).range(0..=3_600))]
    pub drain_window_seconds: u64,
    /// How long stopping in order may take in all, notice and window included; whatever has not ended then is left. The
    /// process that starts and stops nodes must wait for longer before it kills.
    #[arg(long, env = "MILLE_SHUTDOWN_SECONDS", default_value_t = limits::SHUTDOWN_DEADLINE.as_secs())]
    pub shutdown_seconds: u64,
    /// The age at which a socket is sent to look for another node, at the latest; a fifth less at the earliest. So nodes that
    /// were added get their share. 0: never.
    #[arg(long, env = "MILLE_CONNECTION_AGE_MAX_SECONDS", default_value_t = 0)]
    pub connection_age_max_seconds: u64,
}

/// What is left of the deadline when notice and window are over: for sockets that are slow to go, then for projects and the
/// store.
const REST_SECONDS: u64 = SOCKET_PATIENCE.as_secs() + 5;

impl LeavingArguments {
    pub(super) fn settings(&self) -> Result<DrainSettings, ConfigError> {
        let (notice, window) = (self.drain_notice_seconds, self.drain_window_seconds);
        let least = notice + window + REST_SECONDS;
        if self.shutdown_seconds < least {
            return Err(ConfigError::Contradiction(format!(
                "MILLE_SHUTDOWN_SECONDS ({}) must be at least {least}: MILLE_DRAIN_NOTICE_SECONDS ({notice}), \
                 MILLE_DRAIN_WINDOW_SECONDS ({window}) and {REST_SECONDS} for the rest",
                self.shutdown_seconds
            )));
        }
        Ok(DrainSettings {
            notice: Duration::from_secs(notice),
            window: Duration::from_secs(window),
            deadline: Duration::from_secs(self.shutdown_seconds),
            connection_age_max: (self.connection_age_max_seconds > 0)
                .then(|| Duration::from_secs(self.connection_age_max_seconds)),
        })
    }
}
