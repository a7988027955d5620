//! The conformance suite of the stores: every case runs against PostgreSQL, against PostgreSQL
//! behind PgBouncer in transaction mode, and against SQLite; those that work on runs also against PostgreSQL with a
//! partitioned table of runs.
//! What only PostgreSQL can get wrong follows after it.

mod acknowledgement_races;
mod acknowledgement_times;
mod acknowledgements;
mod actors;
mod audit;
mod audit_guards;
mod batching;
mod bed;
mod budgets;
mod cancelled_calls;
mod claims;
mod completion;
mod connection_facts;
mod connections;
mod constraints;
mod database_urls;
mod errors;
mod failing_batches;
mod fair_queuing;
mod fixtures;
mod groups;
mod guards;
mod hostile_connections;
mod hostile_rows;
mod invalid_runs;
mod inventory;
mod large_contexts;
mod moved_runs;
mod onboarding;
mod overview;
mod plan;
mod poison_runs;
mod pools;
mod pruning;
mod recording;
mod refusals;
mod repeated_members;
mod reused_ids;
mod schema;
mod sweep;
mod thundering_herd;
mod tokens_and_sessions;
mod webhook_circuits;
mod webhooks;

mod batches_and_other_commits;
mod column_dependents;
mod column_types;
mod compression;
mod migrate_beside_another_application;
mod migrate_enforce;
mod migration_locks;
mod pages_of_a_connection;
mod partitions;
mod relation_kinds;
mod serializable;
mod sqlite_file;
mod stale_snapshots;
mod sweep_lock;
mod tls;
mod waiting_calls;
mod waiting_rules;
mod wake_ups;

/// A test for each case, on one kind of store.
macro_rules! on_store {
    ($bed:ident: $($group:ident: $($case:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$group::$case(&super::bed::Bed::$bed().await).await;
            }
        )+)+
    };
}

/// One test per case and store, e.g. `postgres::two_workers_one_run_is_claimed_once`.
macro_rules! conformance {
    (runs { $($runs:tt)+ } others { $($others:tt)+ }) => {
        mod postgres {
            on_store!(postgres: $($runs)+ $($others)+);
        }
        mod postgres_behind_pgbouncer {
            on_store!(pooled: $($runs)+ $($others)+);
        }
        mod postgres_partitioned {
            on_store!(partitioned: $($runs)+);
        }
        mod sqlite {
            on_store!(sqlite: $($runs)+ $($others)+);
        }
    };
}

conformance! {
runs {
    claims:
        a_queued_run_is_claimed_with_a_lease,
        what_is_not_queued_or_not_ours_is_not_claimed,
        two_workers_one_run_is_claimed_once,
        a_released_run_waits_until_not_before,
        a_throttled_attempt_does_not_count_and_a_failed_one_does,
        spent_attempts_make_the_next_claim_exhausted,
        a_run_put_back_from_outside_supersedes_the_open_attempt,
        a_release_needs_the_current_token,
        a_release_cannot_end_as_completed,
        a_run_whose_row_a_trigger_keeps_is_refused;
    completion:
        a_completion_writes_run_report_and_attempt,
        other_keys_of_context_are_kept,
        no_member_stays_that_looks_like_verifyds,
        what_is_null_or_blank_counts_as_left_out,
        members_of_a_target_scope_stay_as_they_are,
        a_context_that_is_no_object_is_kept_beside_the_report,
        a_blocked_run_names_reason_and_next_steps,
        a_completed_run_is_never_claimed_or_completed_again,
        a_stale_worker_cannot_complete_after_a_takeover,
        a_forged_token_completes_nothing,
        two_holders_race_to_complete_and_one_wins,
        a_refused_completion_writes_nothing,
        a_completion_of_which_a_trigger_keeps_the_row_is_refused,
        a_completion_keeps_of_a_refused_context_what_its_claim_says,
        a_forced_completion_keeps_of_a_large_context_what_verifyd_reads,
        what_was_dropped_is_still_said_when_a_run_is_queued_again,
        the_latest_report_never_moves_back,
        without_a_connection_no_latest_report_is_written;
    sweep:
        a_bare_insert_is_found,
        what_was_delivered_is_not_delivered_again_too_early,
        a_lost_delivery_is_repeated_when_asked_for,
        undispatched_runs_are_due_again,
        oldest_first_and_no_more_than_the_batch,
        what_waits_and_was_delivered_is_passed_a_window_at_a_time,
        a_run_that_was_committed_late_is_found_behind,
        what_a_sweep_has_no_room_for_is_the_next_ones,
        not_before_holds_back_a_delivery,
        a_dead_worker_loses_its_runs,
        a_worker_that_was_never_seen_is_dead,
        a_passed_deadline_ends_the_lease,
        a_live_lease_is_left_alone,
        a_retired_worker_loses_its_runs,
        a_running_run_without_a_lease_is_queued_after_one_lease_time,
        a_stray_attempt_does_not_hold_up_the_sweep,
        a_run_that_the_database_refuses_to_queue_costs_the_others_nothing,
        a_run_that_was_taken_meanwhile_is_not_left_out,
        a_reclaimed_run_is_exhausted_when_its_attempts_are_spent,
        rows_of_another_type_are_never_touched,
        sweeps_of_two_replicas_deliver_a_run_once,
        left_over_deliveries_are_forgotten,
        left_over_deliveries_that_wait_are_forgotten;
    poison_runs:
        the_last_attempt_is_claimed_in_isolation_only,
        a_last_attempt_without_a_lost_worker_needs_no_isolation,
        failed_completions_back_off_and_end_in_a_forced_completion,
        a_worker_releases_its_orphans,
        only_its_own_orphans_are_released,
        a_context_that_cannot_be_read_does_not_keep_the_run;
    refusals:
        a_refused_result_is_known_to_the_last_claim,
        a_run_that_is_lost_after_a_refused_result_is_lost,
        a_refused_run_is_found_behind_completed_ones,
        a_refused_requeue_is_recorded_until_the_run_is_queued,
        a_refused_requeue_is_not_recorded_once_the_run_is_queued,
        what_cannot_be_recorded_of_refused_requeues_is_recorded_later;
    recording:
        a_recorded_run_is_queued_and_delivered,
        several_runs_are_recorded_in_their_order_or_none,
        unless_active_returns_the_active_run,
        unless_active_under_many_callers_records_one,
        runs_are_paged_and_filtered,
        counts_and_the_oldest,
        a_run_waits_from_when_it_is_due,
        the_wait_of_an_earlier_run_of_its_id_is_no_wait,
        workers_beat_and_retire,
        a_status_that_does_not_exist_is_named;
    repeated_members:
        of_members_that_a_context_repeats_only_verifyds_stays,
        a_completed_run_keeps_its_report_beside_repeated_members;
    schema:
        sizes_of_tables_are_known;
    constraints:
        no_blocked_run_without_a_report,
        no_half_completed_run,
        other_types_are_free,
        what_a_rule_of_the_application_refuses_is_found_by_trying,
        what_a_rule_of_the_application_refuses_of_permissions_is_found_by_trying,
        what_a_rule_of_the_application_changes_is_found_by_reading_it_back,
        what_a_trigger_takes_back_after_a_completion_is_found,
        a_rule_of_one_tenant_is_not_taken_for_one_of_all,
        a_rule_of_the_oldest_tenants_is_not_taken_for_one_of_all,
        refused_claims_of_runs_that_wait_are_found,
        claims_of_runs_that_were_released_are_tried_once_they_have_waited,
        replicas_that_try_writing_at_the_same_time_disturb_nobody;
    moved_runs:
        a_trigger_that_moves_a_run_is_found,
        a_trigger_that_moves_a_new_run_is_found,
        what_a_guard_raises_is_of_no_trigger,
        a_trigger_that_fills_the_tenant_of_a_run_is_accepted,
        a_trigger_that_deletes_what_is_completed_is_warned_of;
    invalid_runs:
        an_invalid_run_that_is_not_completed_is_named_whatever_its_age;
    guards:
        a_completed_run_survives_a_save_of_an_older_copy,
        a_completed_run_keeps_its_report_under_any_context,
        a_blocked_run_keeps_reason_and_next_steps,
        what_is_not_verifyds_may_be_changed_on_a_completed_run,
        whose_run_it_is_never_changes,
        a_queued_run_may_be_changed,
        guards_that_were_removed_are_added_again,
        runs_of_another_type_are_free;
    pruning:
        only_old_completed_runs_go_with_what_belongs_to_them,
        a_batch_is_bounded_and_goes_on_where_the_last_one_ended,
        what_is_still_pointed_to_is_kept,
        attempts_of_runs_that_others_deleted_go;
    batching:
        many_are_claimed_and_completed_each_as_if_by_itself,
        each_claim_of_many_has_its_own_answer,
        one_that_is_refused_takes_no_other_with_it,
        what_comes_with_a_claim_is_what_asking_would_give,
        an_inventory_is_compared_again_after_a_while;
    fair_queuing:
        each_tenant_has_its_oldest_run_next,
        only_runs_that_are_due_and_ours_are_next,
        runs_that_can_never_be_claimed_keep_their_tenant_in_the_queue,
        tenants_without_a_connection_share_one_place;
    groups:
        each_group_claims_and_dispatches_its_own_runs,
        a_hint_of_another_group_is_handed_over,
        waiting_runs_of_other_groups_hold_up_no_sweep,
        a_dead_workers_run_is_queued_by_any_group_and_dispatched_by_its_own,
        a_group_without_workers_keeps_no_delivery_of_a_run_that_is_gone,
        fair_queuing_chooses_runs_of_the_group,
        tenants_of_other_groups_are_passed_a_part_at_a_time,
        runs_of_any_group_show_whether_writing_works;
}
others {
    budgets:
        an_application_that_was_never_throttled_has_no_budget,
        replicas_take_permits_one_after_another,
        refusals_of_replicas_at_once_add_up,
        a_budget_ends_ten_minutes_after_the_last_refusal,
        a_sweep_forgets_budgets_that_are_long_over;
    reused_ids:
        attempts_of_an_earlier_run_never_count,
        an_open_attempt_of_an_earlier_run_is_worth_nothing,
        an_attempt_of_its_own_counts_without_the_time_of_the_first_claim,
        a_restored_backup_begins_with_no_attempt,
        attempts_that_began_after_a_completion_are_not_its_own,
        a_start_that_a_producer_wrote_is_not_taken_for_a_claim,
        what_an_earlier_run_waited_for_is_over,
        a_hint_of_an_earlier_run_is_not_taken_for_its_own,
        recording_bears_what_an_earlier_run_has_left,
        a_report_is_compared_with_none_of_an_earlier_run,
        a_connection_s_id_that_another_tenant_gets_has_no_report,
        what_was_completed_before_a_connection_was_created_is_not_its_own,
        a_time_of_creation_that_is_none_hides_no_report,
        acknowledgements_of_an_earlier_run_are_not_its_own,
        an_inventory_that_an_earlier_run_has_read_is_written_again,
        an_answer_about_an_earlier_run_is_none,
        an_answer_about_an_acknowledgement_that_is_gone_is_none,
        what_is_queued_is_told;
    connection_facts:
        what_was_learnt_is_kept_and_read_with_the_start_of_a_check,
        facts_of_what_is_another_now_do_not_count,
        connections_are_sorted_by_expiry_page_by_page,
        whatever_is_recorded_each_connection_is_on_one_page,
        the_directorys_name_is_added_where_the_producer_left_it_out;
    inventory:
        a_first_refresh_stores_everything,
        an_unchanged_refresh_writes_no_row,
        only_changed_rows_are_written,
        a_removed_grant_is_marked_and_the_mark_is_kept,
        a_grant_that_comes_back_loses_the_mark,
        a_grant_that_is_not_listed_any_more_is_marked,
        other_tenants_are_not_touched,
        no_inventory_keeps_the_last_known_one,
        refreshes_of_one_tenant_are_serialised;
    plan:
        a_plan_reads_what_is_granted_itself_and_through_whom,
        an_inventory_of_another_run_of_the_same_id_is_none,
        a_plan_sees_its_own_reach_and_provider_only,
        a_plan_comes_in_pages_whatever_stands_in_the_rows;
    hostile_connections:
        a_connection_that_cannot_be_used_is_listed_with_its_reason,
        a_connection_without_a_directory_is_listed_with_its_reason;
    hostile_rows:
        a_time_that_is_none_stops_nothing,
        the_expiry_of_a_credential_is_read_alike_everywhere,
        what_can_never_be_claimed_costs_nobody_anything,
        a_context_of_any_shape_ends_and_is_kept,
        a_large_context_is_refused_when_it_is_recorded,
        a_connection_that_cannot_be_read_is_named_and_hides_no_other;
    large_contexts:
        what_a_claim_takes_is_listed_whatever_its_size,
        what_is_just_above_the_limit_is_not_read_and_named,
        what_no_list_looks_into_is_shown_without_its_content,
        numbers_of_any_length_stay_as_they_are,
        many_members_of_a_target_scope_cost_a_few_passes_over_them;
    connections:
        a_connection_is_added_and_read,
        a_failing_seal_inserts_nothing,
        a_tenant_of_another_workspace_is_refused,
        a_connection_is_disabled_and_enabled,
        a_credential_is_replaced,
        a_credential_is_resealed_only_from_the_old_payload,
        connections_are_paged,
        credentials_are_paged_with_their_connections;
    schema:
        migrate_is_repeatable,
        two_processes_may_migrate_at_once,
        a_fresh_database_has_no_version,
        a_migrated_schema_fits,
        an_empty_database_lacks_every_table,
        ping_names_the_server;
    errors:
        an_unmigrated_database_is_a_schema_error,
        a_lock_that_is_not_granted_is_contention,
        a_dropped_call_leaves_nothing_behind,
        a_refusal_does_not_quote_the_row,
        what_a_trigger_raises_is_a_refusal_whatever_its_code;
    pools:
        a_connection_counts_as_used_until_its_call_ends;
    tokens_and_sessions:
        a_token_is_found_by_its_hash_alone,
        a_revoked_token_is_worthless_and_its_sessions_end,
        a_token_expires_by_the_databases_clock,
        a_person_is_one_token_that_changes_with_each_sign_in_and_ends,
        first_sign_ins_of_a_person_at_once_are_one_creation,
        the_use_of_a_token_is_noted_once_a_minute,
        a_token_whose_use_cannot_be_noted_is_valid,
        a_session_lives_as_long_as_it_and_its_token,
        a_key_is_answered_once,
        an_abandoned_key_is_taken_over_by_the_same_request_only,
        keys_are_forgotten_in_chunks,
        a_key_under_many_callers_is_first_once;
    overview:
        a_connection_is_shown_with_its_latest_report_and_active_run,
        an_active_run_is_shown_among_thousands,
        connections_are_filtered_and_paged,
        what_is_out_of_reach_is_not_shown,
        connections_are_counted_by_their_latest_report,
        a_trend_follows_the_chain_of_reports,
        a_trend_bears_what_others_wrote,
        a_trend_follows_ids_of_19_digits,
        history_counts_what_was_completed_lately,
        the_longest_waiting_runs_come_first,
        a_due_run_behind_many_that_wait_is_found;
    acknowledgement_times:
        it_does_not_outlive_its_expiry_or_its_withdrawal,
        a_time_of_any_form_means_the_same_everywhere;
    acknowledgements:
        an_acknowledgement_is_recorded_once_for_a_check_of_a_run,
        only_completed_runs_of_the_type_take_one,
        it_carries_on_while_status_and_reason_stay_the_same,
        what_later_runs_said_decides_at_once,
        what_a_deleted_run_said_is_not_taken_for_granted,
        it_stays_within_its_connection_and_tenant,
        a_report_of_any_shape_is_survived,
        it_changes_nothing_of_the_run,
        acknowledgements_are_paged_and_filtered,
        pruning_keeps_what_still_stands,
        what_cannot_be_acknowledged_is_named;
    actors:
        who_did_it_is_kept_and_read_in_every_way,
        what_was_noted_for_an_earlier_row_of_the_id_does_not_count,
        it_goes_with_its_run;
    audit:
        each_change_leaves_one_entry_and_no_secret,
        what_is_rolled_back_leaves_no_entry,
        entries_that_others_wrote_stop_no_list,
        entries_are_read_within_reach_filtered_and_paged;
    audit_guards:
        entries_never_change_and_only_old_ones_are_deleted,
        no_id_ends_the_trail,
        a_lost_guard_of_the_trail_is_named_and_restored;
    acknowledgement_races:
        acknowledging_beside_completions_loses_nothing;
    onboarding:
        a_state_that_cannot_be_read_is_named,
        recording_points_the_session_to_the_run,
        a_session_of_others_is_refused_and_nothing_recorded,
        a_session_out_of_reach_does_not_exist,
        a_session_without_a_tenant_takes_those_of_its_workspace,
        an_active_run_of_another_tenant_is_not_returned,
        a_pointer_to_what_is_newer_stays,
        fifty_starts_for_one_session_end_at_the_newest_run;
    failing_batches:
        behind_a_batch_that_loses_its_connection_the_next_one_starts;
    webhooks:
        a_completion_records_a_delivery_for_each_endpoint_that_wants_it,
        a_run_that_is_not_completed_is_not_announced,
        the_way_there_and_back_is_two_changes,
        a_delivery_is_leased_once_until_the_lease_has_passed,
        endpoints_alternate_and_failing_ones_come_last,
        a_message_is_tried_again_given_up_and_replayed,
        an_endpoint_that_is_gone_is_left_alone_until_enabled,
        a_rotated_secret_leaves_the_one_before_for_a_while,
        a_secret_that_cannot_be_sealed_adds_no_endpoint,
        what_has_ended_is_forgotten_after_its_time;
    webhook_circuits:
        a_circuit_opens_records_without_trying_and_closes_after_a_probe,
        a_probe_whose_sender_died_is_followed_by_another,
        attempts_that_were_under_way_when_it_opened_leave_the_circuit_alone,
        a_wait_that_a_receiver_asks_for_holds_for_its_endpoint,
        an_open_circuit_holds_up_no_other_endpoint,
        open_circuits_take_no_place_of_what_is_tried,
        what_is_pending_for_too_long_is_given_up,
        what_was_given_up_while_it_was_sent_and_arrived_is_delivered;
    thundering_herd:
        a_thundering_herd_completes_every_run_once;
}
}
