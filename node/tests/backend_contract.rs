//! The contract of the backends: one set of promises, held against the embedded backend and against real Redis servers: a
//! single one, one that sentinels watch over, and a cluster. `MILLE_TEST_REDIS=embedded,single,sentinel,cluster` chooses.
//!
//! Each promise gets a fresh store. Redis is a `redis-server` that the test starts on a free port and stops again; if it
//! is not installed, the tests fail and say so. What only a server can do to us (lose its functions, cut a connection,
//! not answer) is promised for it alone, as is what only a cluster or a failover can do (`shards.rs`, `forgotten.rs`).

#[path = "backend_contract/channels.rs"]
mod channels;
#[path = "backend_contract/directory.rs"]
mod directory;
#[path = "backend_contract/forgotten.rs"]
mod forgotten;
#[path = "backend_contract/full.rs"]
mod full;
#[path = "backend_contract/kit.rs"]
mod kit;
#[path = "backend_contract/logs.rs"]
mod logs;
#[path = "backend_contract/outage.rs"]
mod outage;
#[path = "backend_contract/presence.rs"]
mod presence;
#[path = "backend_contract/quotas.rs"]
mod quotas;
#[path = "backend_contract/revocations.rs"]
mod revocations;
#[path = "backend_contract/server.rs"]
mod server;
#[path = "backend_contract/shards.rs"]
mod shards;
#[path = "backend_contract/snapshots.rs"]
mod snapshots;
#[path = "backend_contract/topologies.rs"]
mod topologies;

macro_rules! contract {
    ($($part:ident { $($promise:ident)* })*) => {
        mod embedded {
            $(mod $part { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    if crate::kit::is_chosen("embedded") {
                        crate::$part::$promise(crate::kit::Store::embedded()).await;
                    }
                }
            )* })*
        }
        contract_with_redis! { single $($part { $($promise)* })* }
        contract_with_redis! { sentinel $($part { $($promise)* })* }
        contract_with_redis! { cluster $($part { $($promise)* })* }
    };
}

macro_rules! contract_with_redis {
    ($kind:ident $($part:ident { $($promise:ident)* })*) => {
        mod $kind {
            $(mod $part { $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    if crate::kit::is_chosen(stringify!($kind)) {
                        crate::$part::$promise(crate::kit::Store::$kind().await).await;
                    }
                }
            )* })*
        }
    };
}

contract! {
    logs {
        a_log_begins_once
        entries_are_numbered_without_a_hole
        a_log_that_moved_takes_nothing
        what_changed_nothing_is_remembered_as_long_as_what_it_found
        so_many_are_remembered_that_changed_nothing
        a_repeat_is_told_and_adds_nothing
        pages_lead_through_the_whole_log
        a_page_of_large_entries_ends_early_and_leads_on
        heads_come_in_the_order_asked_for
        a_deleted_log_leaves_nothing
        an_epoch_in_which_changes_were_lost_is_left
        what_is_restored_gets_the_numbers_it_had
        a_log_that_is_gone_is_put_back
        concurrent_writers_lose_nothing
    }
    snapshots {
        a_snapshot_goes_only_forward_and_only_where_the_log_agrees
        a_snapshot_is_found_by_place
        operations_are_remembered_as_long_as_their_entries
        trimming_leaves_a_way_to_every_place
    }
    channels {
        commits_are_heard_in_the_order_of_the_log
        a_trace_is_told_beside_its_entry_and_kept_nowhere
        a_message_reaches_whoever_listens
        a_probe_is_heard_by_its_own_node
        what_does_not_fit_is_told
        a_connection_made_anew_says_so_and_delivers
    }
    directory {
        a_project_is_found_by_its_members
        a_plan_is_found_in_its_project
        what_many_projects_have_is_told_of_each
        a_deleted_project_leaves_nothing
        an_owner_always_stays
        two_owners_can_not_both_leave
    }
    presence {
        presence_is_kept_per_node_and_connection
        presence_expires_unless_renewed
        a_lease_expires_unless_renewed
    }
    revocations {
        a_revocation_is_known_everywhere_until_its_end
        of_two_revocations_of_a_user_the_later_moment_and_the_later_end_count
        many_revocations_are_all_listed
    }
    quotas {
        a_bucket_gives_no_more_than_it_holds_and_fills_again
        places_are_given_once_over_all_nodes
        what_a_dead_node_held_comes_free
    }
}
