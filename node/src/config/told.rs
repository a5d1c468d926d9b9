//! Which settings are told to operators: those that should be the same on all nodes. No secret is among them.

use std::collections::BTreeMap;

use super::Config;

impl Config {
    /// The settings in force, by their environment variables, in the units of those.
    #[must_use]
    pub fn told(&self) -> BTreeMap<String, String> {
        let (user, transport, plans) = (&self.limits.user, &self.limits.transport, &self.plans);
        let list = |words: Vec<String>| words.join(",");
        let algorithms = self.auth.algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect();
        [
            ("JWT_ISSUER", self.auth.issuer.clone().unwrap_or_default()),
            ("JWT_AUDIENCE", self.auth.audience.clone().unwrap_or_default()),
            ("JWT_ALGORITHMS", list(algorithms)),
            ("MILLE_JWT_LEEWAY_SECONDS", self.auth.leeway.as_secs().to_string()),
            ("MILLE_ALLOWED_ORIGINS", self.allowed_origins.to_string()),
            ("MILLE_NODE_LEASE_SECONDS", self.node_lease.as_secs().to_string()),
            ("MILLE_REDIS_COMMAND_TIMEOUT_MS", self.redis_command_timeout.as_millis().to_string()),
            ("MILLE_ACK", self.acknowledgement.level.to_string()),
            ("MILLE_ACK_TIMEOUT_MS", self.acknowledgement.timeout.as_millis().to_string()),
            ("MILLE_SNAPSHOT_EVERY_CHANGES", plans.snapshot_every.to_string()),
            ("MILLE_COMMIT_MOMENT_MS", plans.commit_moment_max.as_millis().to_string()),
            ("MILLE_RECENT_CHANGES_BYTES_MAX", plans.recent_bytes_max.to_string()),
            ("MILLE_LOG_RETENTION_CHANGES", plans.retention.changes.to_string()),
            ("MILLE_LOG_RETENTION_SECONDS", plans.retention.age.as_secs().to_string()),
            ("MILLE_LOG_CHANGES_MAX", plans.retention.changes_max.to_string()),
            ("MILLE_PLAN_NODES_MAX", plans.bounds.nodes_max.to_string()),
            ("MILLE_PLAN_EDGES_MAX", plans.bounds.edges_max.to_string()),
            ("MILLE_PLAN_BYTES_MAX", plans.bounds.plan_bytes_max.to_string()),
            ("MILLE_CONFIG_BYTES_MAX", plans.bounds.config_bytes_max.to_string()),
            ("MILLE_METADATA_BYTES_MAX", plans.bounds.metadata_bytes_max.to_string()),
            ("MILLE_COORDINATE_ABS_MAX", plans.bounds.coordinate_abs_max.to_string()),
            ("MILLE_CHANGES_PER_REQUEST_MAX", plans.bounds.changes_max.to_string()),
            ("MILLE_REQUEST_BYTES_MAX", transport.request_bytes_max.to_string()),
            ("MILLE_CONNECTIONS_MAX", self.connections_max.to_string()),
            ("MILLE_USER_CONNECTIONS_MAX", user.connections_max.to_string()),
            ("MILLE_USER_OPERATIONS_PER_SECOND", user.operations.per_second.to_string()),
            ("MILLE_USER_OPERATIONS_BURST", user.operations.burst.to_string()),
            ("MILLE_CONNECTION_OPERATIONS_PER_SECOND", transport.operations_per_second.to_string()),
            ("MILLE_CONNECTION_SUBSCRIPTIONS_MAX", transport.subscriptions_max.to_string()),
            ("MILLE_FAN_OUT_MOMENT_MS", transport.fan_out_moment_max.as_millis().to_string()),
            ("MILLE_REQUEST_BYTES_IN_FLIGHT_MAX", self.limits.request_bytes_in_flight_max.to_string()),
            ("MILLE_SWEEP_SECONDS", self.sweep.as_secs().to_string()),
            ("MILLE_REVOCATION_SECONDS", self.revocation_kept.as_secs().to_string()),
            ("MILLE_DRAIN_NOTICE_SECONDS", self.drain.notice.as_secs().to_string()),
            ("MILLE_DRAIN_WINDOW_SECONDS", self.drain.window.as_secs().to_string()),
            ("MILLE_SHUTDOWN_SECONDS", self.drain.deadline.as_secs().to_string()),
            (
                "MILLE_CONNECTION_AGE_MAX_SECONDS",
                self.drain.connection_age_max.unwrap_or_default().as_secs().to_string(),
            ),
            ("MILLE_DEV", self.dev.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::Arguments;
    use super::*;

    #[test]
    fn what_is_told_is_a_setting_and_no_secret() {
        let secret = "a secret of at least thirty-two bytes";
        let url = "redis://mille:a-password@redis.example";
        let arguments = Arguments::try_parse_from([
            "node",
            "--jwt-secret",
            secret,
            "--jwt-next-secret",
            secret,
            "--redis-url",
            url,
        ]);
        let told = Config::new(arguments.expect("flags")).expect("settings").told();
        let command = Arguments::command();
        let known: Vec<_> = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()).collect();
        for (name, value) in &told {
            assert!(known.contains(&name.as_str()), "{name} is no setting");
            assert!(!value.contains(secret) && !value.contains("a-password"), "{name} tells a secret");
        }
        assert_eq!(told["MILLE_NODE_LEASE_SECONDS"], "10");
    }
}
