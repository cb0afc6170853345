//! The suite that every backend must pass, written against the trait alone.
//!
//! [`conformance_suite!`](crate::conformance_suite) turns it into one `#[test]`
//! per scenario. The scenarios run over the group of [`testing`](crate::testing),
//! whose checks hold after every effect.

mod factory;
pub mod scenarios;

pub use factory::Factory;

/// Makes one `#[test]` of every scenario, for a [`Factory`].
#[macro_export]
macro_rules! conformance_suite {
    ($factory:path) => {
        $crate::conformance_suite! { $factory:
            a_single_node_commits_alone
            three_nodes_commit_the_same_commands
            five_nodes_commit_with_two_down
            nothing_commits_without_a_quorum
            an_idle_cluster_keeps_its_leader
            leadership_moves_to_the_named_replica
            a_learner_receives_the_log_and_never_leads
            a_follower_names_the_leader
            equal_inputs_give_equal_effects
            a_leader_that_crashes_at_any_step_loses_nothing_acknowledged
            a_replica_restarts_from_every_persist_point
            all_crash_together_and_keep_what_was_acknowledged
            nothing_is_acknowledged_before_it_is_durable
            a_lost_log_is_refused
            lost_duplicated_delayed_and_reordered_messages_do_no_harm
            a_partitioned_leader_is_replaced_and_rejoins
            a_leader_whose_disk_stalls_is_replaced_and_rejoins
            a_replica_whose_disk_stalls_starts_no_election
            a_single_node_outlasts_a_stalled_disk
            a_returning_replica_does_not_disturb_a_healthy_leader
            messages_of_an_earlier_incarnation_do_no_harm
            a_lagging_replica_catches_up_by_log
            a_long_log_travels_in_messages_of_bounded_size
            a_lagging_replica_catches_up_by_snapshot
            a_fetch_that_fails_is_tried_again
            a_replica_that_crashes_while_it_installs_a_snapshot_recovers
            an_election_while_a_snapshot_becomes_durable_does_no_harm
            the_log_window_stays_bounded
            a_read_sees_everything_acknowledged_before_it
            a_deposed_leader_serves_no_read
            reads_across_a_leader_change_are_answered
            a_read_without_a_quorum_is_rejected
            too_many_reads_are_pushed_back
            overload_pushes_back_and_passes
            a_payload_that_is_too_large_is_refused
            garbage_from_peers_is_an_error_and_nothing_else
            a_contradictory_configuration_is_refused
        }
    };
    ($factory:path: $($scenario:ident)*) => {
        $(
            #[test]
            fn $scenario() {
                $crate::conformance::scenarios::$scenario($factory);
            }
        )*
    };
}
