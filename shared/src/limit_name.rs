//! The names of limits: what a client, a log line and a metric call the bound that somebody met.
//!
//! A refusal says which limit it is (`limitName`), its value (`limit`) and, where time helps, when to come back
//! (`retryAfterMs`). The words are as stable as the error codes.

use std::fmt;

macro_rules! limit_names {
    ($($(#[$meaning:meta])* $name:ident = $word:literal;)*) => {
        /// Which limit a refusal speaks of.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum LimitName {
            $($(#[$meaning])* $name,)*
        }

        impl LimitName {
            /// All of them: what metrics are labelled with.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The word on the wire and in metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

limit_names! {
    /// Operations of one user per second, over the cluster.
    UserOperations = "user_operations";
    /// Operations of one socket per second.
    ConnectionOperations = "connection_operations";
    /// Subscriptions of one socket.
    ConnectionSubscriptions = "connection_subscriptions";
    /// Connections of one user, over the cluster.
    UserConnections = "user_connections";
    /// Connections of a node.
    NodeConnections = "node_connections";
    /// Connections of a node that have not shown a good token.
    UnauthenticatedConnections = "unauthenticated_connections";
    /// Bytes of request bodies that a node reads at a time.
    RequestBytesInFlight = "request_bytes_in_flight";
    /// Bytes of answers over HTTP that one user has not taken yet, on one node.
    AnswerBytesInFlight = "answer_bytes_in_flight";
    /// Presence frames of one connection per second.
    PresenceFrames = "presence_frames";
    /// Bytes of a presence frame.
    PresenceFrameBytes = "presence_frame_bytes";
    /// Bytes of a request or of a frame of a GraphQL socket.
    RequestBytes = "request_bytes";
    /// Nested selections of a query.
    QueryDepth = "query_depth";
    /// What a query's fields weigh together.
    QueryComplexity = "query_complexity";
    /// Brackets inside brackets in a query's text.
    QueryNesting = "query_nesting";
    /// Selections of a query with its fragments expanded.
    QuerySelections = "query_selections";
    /// Times that one field stands in one selection set of a query, with its fragments expanded.
    QueryRepeats = "query_repeats";
    /// Directives on one field.
    QueryDirectives = "query_directives";
    /// Plan nodes in a plan.
    PlanNodes = "plan_nodes";
    /// Edges in a plan.
    PlanEdges = "plan_edges";
    /// Bytes of all texts of a plan.
    PlanBytes = "plan_bytes";
    /// Changes in one operation.
    OperationChanges = "operation_changes";
    /// Operations that wait for one plan's log on one node.
    PendingOperations = "pending_operations";
    /// Bytes of a plan node's config.
    ConfigBytes = "config_bytes";
    /// Bytes of the texts of metadata, or of a description.
    MetadataBytes = "metadata_bytes";
    /// Bytes of a project's or plan's name.
    NameBytes = "name_bytes";
    /// Documents of a project that people are in at a time.
    ProjectDocuments = "project_documents";
    /// Revocations of tokens that are kept at a time.
    Revocations = "revocations";
}

impl LimitName {
    /// What it counts, for people, behind a number: "1000 plan nodes".
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::UserOperations => "operations per second of one user",
            Self::ConnectionOperations => "operations per second on one connection",
            Self::ConnectionSubscriptions => "subscriptions on one connection",
            Self::UserConnections => "connections of one user",
            Self::NodeConnections => "connections to one node",
            Self::UnauthenticatedConnections => "connections without a token to one node",
            Self::RequestBytesInFlight => "bytes of requests at a time",
            Self::AnswerBytesInFlight => "bytes of answers at a time",
            Self::PresenceFrames => "frames per second on one connection",
            Self::PresenceFrameBytes => "bytes in one frame",
            Self::RequestBytes => "bytes in one request",
            Self::QueryDepth => "nested selections",
            Self::QueryComplexity => "points of complexity",
            Self::QueryNesting => "nested brackets",
            Self::QuerySelections => "selections",
            Self::QueryRepeats => "times the same field",
            Self::QueryDirectives => "directives on one field",
            Self::PlanNodes => "plan nodes",
            Self::PlanEdges => "edges",
            Self::PlanBytes => "bytes of text in one plan",
            Self::OperationChanges => "changes in one operation",
            Self::PendingOperations => "operations waiting for one plan",
            Self::ConfigBytes => "bytes of config",
            Self::MetadataBytes => "bytes of metadata",
            Self::NameBytes => "bytes in a name",
            Self::ProjectDocuments => "open documents in one project",
            Self::Revocations => "revocations at a time",
        }
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_limits_share_a_name() {
        let mut words: Vec<_> = LimitName::ALL.iter().map(|name| name.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), LimitName::ALL.len());
    }
}
