"""Which tests hold each of the 34 fault cases: bad input, damage, crashes, hostile files, interruptions.

Number -> what happens, and the tests (below tests/, class names left out).
"""

from __future__ import annotations

CASES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "0 bytes, random bytes, text named .mp4",
        ("e2e/test_faults_containers.py::test_no_media_at_all",),
    ),
    2: (
        "an .mp4 cut off before its index",
        ("e2e/test_faults_containers.py::test_cut_off_before_the_index",),
    ),
    3: (
        "an .mp4 cut in the middle",
        (
            "e2e/test_faults_containers.py::test_cut_in_the_middle_keeps_the_first_half",
            "e2e/test_faults_containers.py::test_of_a_clip_cut_too_short_nothing_is_scored_where_that_is_asked_for",
        ),
    ),
    4: (
        "flipped bits in the media",
        (
            "e2e/test_faults_containers.py::test_flipped_bits_cost_packets_and_are_counted",
            "e2e/test_faults_containers.py::test_damage_that_the_decoder_hides_is_told",
            "e2e/test_faults_containers.py::test_the_same_file_gives_the_same_row_again",
        ),
    ),
    5: (
        "a damaged index that raises what is no FFmpegError",
        (
            "e2e/test_faults_containers.py::test_an_index_that_names_no_codec_raises_outside_ffmpegs_errors",
            "e2e/test_faults_containers.py::test_a_damaged_index_is_a_row_whatever_it_makes_of_the_reader",
        ),
    ),
    6: (
        "a decoder that crashes",
        (
            "unit/test_workers.py::test_a_crash_costs_its_own_clip_and_is_tried_twice",
            "unit/test_workers.py::test_a_clip_goes_on_where_its_worker_died",
        ),
    ),
    7: (
        "a decoder that hangs",
        ("unit/test_workers.py::test_a_hang_ends_at_its_deadline",),
    ),
    8: (
        "play lists, scripts and addresses in disguise",
        (
            "e2e/test_faults_containers.py::test_scripts_in_disguise_open_nothing",
            "e2e/test_faults_containers.py::test_an_avi_with_a_play_list_for_subtitles_opens_nothing",
            "e2e/test_faults_containers.py::test_addresses_in_a_manifest_are_no_files",
        ),
    ),
    9: (
        "what is no regular file, links that leave the folder, odd names",
        (
            "e2e/test_faults_names.py::test_names_survive_into_both_tables_and_formulas_are_escaped",
            "e2e/test_faults_names.py::test_only_regular_files_of_the_folder_are_clips",
            "e2e/test_faults_names.py::test_links_that_leave_the_folder_are_followed_when_asked_and_a_loop_ends",
            "e2e/test_faults_names.py::test_a_manifest_that_names_no_regular_files_has_a_row_for_each",
        ),
    ),
    10: (
        "pictures that are too large",
        (
            "e2e/test_faults_pictures.py::test_pictures_over_the_limit_are_named_as_that",
            "e2e/test_faults_pictures.py::test_pictures_over_the_limit_and_ten_hours_take_no_memory",
            "unit/media/test_video.py::test_a_picture_that_lies_about_its_size_is_refused_by_the_decoder",
        ),
    ),
    11: (
        "ten hours, 1000 frames a second, durations that lie",
        (
            "e2e/test_faults_pictures.py::test_pictures_over_the_limit_and_ten_hours_take_no_memory",
            "e2e/test_faults_pictures.py::test_a_duration_that_lies_is_measured",
            "e2e/test_faults_pictures.py::test_times_are_stamps_and_no_counts",
            "unit/media/test_memory.py::test_memory_is_flat",
        ),
    ),
    12: (
        "unusual pictures: one frame, 2 px, odd sizes, rotated, 10 bit, bad time stamps, interlaced, no decoder",
        (
            "e2e/test_faults_pictures.py::test_unusual_pictures_show_their_face",
            "e2e/test_faults_pictures.py::test_a_rotated_face_is_scored_upright",
            "e2e/test_faults_pictures.py::test_two_pixels_hold_nobody",
            "e2e/test_faults_pictures.py::test_a_codec_without_an_allowed_decoder_is_named",
            "unit/media/test_video.py::test_frames_of_variable_rate_are_chosen_by_their_stamps",
        ),
    ),
    13: (
        "any subset of picture, sound and words, and none",
        (
            "e2e/test_faults_absence.py::test_every_subset_of_streams_is_scored_as_what_it_is",
            "e2e/test_faults_absence.py::test_a_file_with_neither_picture_nor_sound",
        ),
    ),
    14: (
        "black pictures, no face, several faces, a face now and then",
        (
            "e2e/test_faults_pictures.py::test_black_pictures_show_nobody_and_never_the_face_before",
            "e2e/test_faults_pictures.py::test_pictures_without_a_face_leave_the_sound",
            "e2e/test_faults_pictures.py::test_a_face_in_a_tenth_of_the_frames_is_counted",
            "e2e/test_faults_pictures.py::test_of_several_people_the_largest_is_scored",
        ),
    ),
    15: (
        "silence, clipping, any rate and number of channels, no samples, sound of another length or start",
        (
            "e2e/test_faults_absence.py::test_unusual_sound_is_resampled_and_heard",
            "e2e/test_faults_absence.py::test_sound_without_a_sample_or_a_number_is_none",
            "e2e/test_faults_absence.py::test_silence_is_an_absent_voice_and_no_words",
            "e2e/test_faults_absence.py::test_sound_of_a_part_of_the_clip",
            "unit/media/test_load.py::test_late_sound_stays_at_its_time",
        ),
    ),
    16: (
        "transcripts that are empty, huge, hostile or in other scripts; formulas",
        (
            "e2e/test_faults_absence.py::test_a_transcript_is_words_or_none_and_told",
            "e2e/test_faults_absence.py::test_hostile_transcripts_cost_seconds",
            "e2e/test_faults_absence.py::test_formulas_in_a_manifest_are_escaped_in_the_table_alone",
            "unit/media/test_transcript.py::test_reading_takes_time_in_proportion_to_the_length",
            "unit/media/test_text.py::test_a_long_text_costs_no_more_than_a_page",
        ),
    ),
    17: (
        "features, weights, labels, losses and scores that are no numbers",
        (
            "e2e/test_faults_numbers.py::test_a_score_that_is_no_number_is_an_empty_cell_in_its_own_row",
            "e2e/test_faults_numbers.py::test_vectors_that_are_no_numbers_fail_their_own_row",
            "unit/test_onnx_file.py::test_weights_that_are_no_numbers",
            "unit/data/test_manifest.py::test_what_is_wrong_with_a_row",
            "unit/test_train.py::test_a_loss_that_is_not_finite_names_the_clips",
        ),
    ),
    18: (
        "labels on another scale, reversed signs, missing traits, duplicate ids, constant traits",
        (
            "unit/data/test_manifest.py::test_what_is_wrong_with_a_row",
            "unit/data/test_manifest.py::test_headers",
            "unit/data/test_faults.py::test_wrong_scales_are_named_with_what_they_look_like",
            "unit/data/test_faults.py::test_a_neuroticism_that_is_stability_is_named",
            "unit/data/test_faults.py::test_a_declared_opposite_must_run_against",
            "unit/data/test_faults.py::test_a_trait_that_is_constant_in_a_split",
            "unit/test_check.py::test_wrong_labels_are_named_row_by_row_and_summed_up",
            "unit/test_evaluate_bad_input.py::test_flipped_labels_are_found_and_named",
        ),
    ),
    19: (
        "a person in training and in test",
        (
            "unit/data/test_splits.py::test_parts_are_disjoint_cover_and_never_divide_a_person",
            "unit/data/test_leakage.py::test_the_refusal_counts_and_says_what_to_do",
            "unit/test_train.py::test_a_split_that_shares_persons_is_refused_before_any_compute",
            "unit/test_evaluate_bad_input.py::test_persons_in_two_splits",
            "unit/test_card.py::test_card_says_leakage_findings_and_provenance",
        ),
    ),
    20: (
        "checkpoints that run code",
        (
            "unit/test_untrusted.py::test_a_state_that_asks_for_code",
            "unit/test_untrusted.py::test_a_checkpoint_runs_nothing_when_training_goes_on",
            "unit/test_weights.py::test_a_torch_file_runs_no_code",
        ),
    ),
    21: (
        "safetensors that are none",
        (
            "unit/test_untrusted.py::test_safetensors_that_are_none",
            "unit/test_untrusted.py::test_a_member_whose_weights_are_not_its_own",
        ),
    ),
    22: (
        "graphs with outside weights, links, other operators, other opsets, changed bytes",
        (
            "unit/test_onnx_file.py::test_weights_outside_of_the_graph_are_refused",
            "unit/test_onnx_file.py::test_a_graph_that_asks_for_more_than_arithmetic",
            "unit/test_onnx_file.py::test_another_opset",
            "unit/test_onnx_file.py::test_a_graph_of_another_form_than_its_facts",
            "unit/test_bundle.py::test_one_altered_byte",
            "unit/test_bundle.py::test_links_are_refused",
            "unit/test_bundle.py::test_names_outside_are_refused",
        ),
    ),
    23: (
        "configs that name code, never end, or hold unknown keys",
        (
            "unit/test_untrusted.py::test_yaml_that_asks_for_more_than_data",
            "unit/test_untrusted.py::test_a_config_names_parts_and_numbers_and_no_code",
            "unit/test_config.py::test_part_problems_are_located_with_suggestions",
        ),
    ),
    24: (
        "packed files that never end (no .zip or .tar is unpacked; tables may be packed)",
        (
            "unit/test_untrusted.py::test_a_manifest_that_unpacks_without_end",
            "unit/test_untrusted.py::test_features_that_unpack_without_end",
        ),
    ),
    25: (
        "kill -9 of a job at fifty points",
        ("e2e/test_jobs.py::test_kill_9_at_fifty_points",),
    ),
    26: (
        "a full disk, two jobs on one output",
        (
            "e2e/test_jobs.py::test_a_full_disk_loses_no_row_that_is_there",
            "e2e/test_jobs.py::test_a_disk_that_is_full_at_the_end_keeps_the_results_of_before",
            "e2e/test_jobs.py::test_a_second_job_on_one_output_is_refused",
        ),
    ),
    27: (
        "input, model or options changed between a run and its resume",
        (
            "unit/test_predict.py::test_a_file_that_changed_is_scored_again_with_its_group",
            "unit/test_predict.py::test_another_model_is_refused",
            "unit/test_predict.py::test_other_clips_and_limits_are_refused",
        ),
    ),
    28: (
        "a kill while a checkpoint is saved",
        (
            "e2e/test_killed_training.py::test_a_kill_during_a_save_costs_at_most_its_epoch",
            "unit/test_train.py::test_the_last_checkpoint_knows_the_best_of_its_own_epoch",
        ),
    ),
    29: (
        "a batch too large for the memory",
        ("unit/test_embedding.py::test_a_batch_too_large_for_the_memory_is_halved_and_no_row_suffers",),
    ),
    30: (
        "a clip alone, in a batch, padded, in another order",
        (
            "unit/test_runtime.py::test_alone_in_a_batch_and_padded_are_equal",
            "unit/test_predict.py::test_workers_and_batches_change_no_byte",
            "contract/test_configs.py::test_alone_in_a_batch_and_padded_are_equal",
        ),
    ),
    31: (
        "ONNX Runtime against torch",
        (
            "unit/test_export.py::test_a_graph_that_differs_is_refused_and_nothing_is_left",
            "contract/test_configs.py::test_onnx_is_torch_for_every_set_of_streams",
            "contract/test_configs.py::test_onnx_is_torch_at_every_batch_size_and_length",
        ),
    ),
    32: (
        "SIGINT and SIGTERM",
        ("e2e/test_jobs.py::test_a_signal_ends_a_job_that_can_go_on",),
    ),
    33: (
        "a folder of which a tenth is bad",
        ("e2e/test_jobs.py::test_a_tenth_of_bad_files_costs_no_more_than_a_tenth",),
    ),
    34: (
        "no network",
        ("e2e/test_no_network.py::test_predicting_opens_no_socket",),
    ),
}
