"""What guards against each scenario of docs/reliability.md, and how to take it away.

test_guards.py takes one away after the other, and sees the named test fail.
"""

from __future__ import annotations

from typing import NamedTuple

CHECKPOINT = 'tests/faults/test_checkpoint_faults.py::'
DATA = 'tests/faults/test_data_faults.py::'
INPUT = 'tests/faults/test_input_faults.py::'
PROCESS = 'tests/faults/test_process_faults.py::'
RUN = 'tests/faults/test_run_faults.py::'
SIGNAL = 'tests/faults/test_signal_faults.py::'


class Guard(NamedTuple):
  """A piece of source without which a test fails.

  Attributes:
    scenario: Its number in docs/reliability.md.
    path: Source file, in the package.
    old: The guard; found exactly once in the file.
    new: What disables it.
    test: Node id of a test that fails then; the quickest one.
  """

  scenario: int
  path: str
  old: str
  new: str
  test: str


# Two or three lines an entry, not seven.
# fmt: off
GUARDS = (
  Guard(1, 'training/checkpoint_series.py', 'for path in self._remove_unfinished():', 'for path in []:',
        CHECKPOINT + 'test_scenario_01_kill_9_during_a_save[3]'),
  Guard(1, 'training/train.py', 'start_step=first_step', 'start_step=0',
        CHECKPOINT + 'test_scenario_01_a_training_killed_and_resumed_is_the_same_bit_for_bit'),
  Guard(2, 'training/checkpoints.py', 'if strict:', 'if True:',
        CHECKPOINT + 'test_scenario_02_the_latest_checkpoint_is_truncated'),
  Guard(2, 'training/checkpoints.py', 'if strict:', 'if False:',
        CHECKPOINT + 'test_scenario_02_strict_resume_refuses'),
  Guard(3, 'checkpoint_io.py', 'if digests.get(name) != _digest(array)', 'if False',
        CHECKPOINT + 'test_scenario_03_a_flip_anywhere_in_the_values_is_noticed[0.5]'),
  Guard(3, 'training/checkpoints.py', 'damaged = True', 'pass',
        CHECKPOINT + 'test_scenario_03_a_damaged_best_checkpoint_gives_way'),
  Guard(4, 'training/checkpoint_series.py',
        '(path / _METADATA).exists() or (path / _PARAMETERS).exists()', 'True',
        CHECKPOINT + 'test_scenario_04_stray_directories'),
  Guard(5, 'training/checkpoint_series.py', 'response.result()', 'pass',
        'tests/training/test_checkpoints.py::test_a_save_that_fails_is_a_failed_run'),
  Guard(5, 'training/checkpoint_series.py', 'self._remove_unfinished()\n      raise', 'pass\n      raise',
        CHECKPOINT + 'test_scenario_05_the_disk_is_full'),
  Guard(6, 'training/stop.py', '_SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)', '()',
        SIGNAL + 'test_scenario_06_a_signal_to_a_process_of_its_own[2-130]'),
  Guard(7, 'training/run_evaluation.py', 'before_batch=self._stop.check', 'before_batch=None',
        SIGNAL + 'test_scenario_07_a_signal_in_the_evaluation'),
  Guard(7, 'training/stop.py', 'del frame', 'assert self.received is None',
        SIGNAL + 'test_scenario_07_signals_during_a_save[3]'),
  Guard(7, 'training/stop.py', 'if self.received is not None and kind is None:', 'if False:',
        SIGNAL + 'test_scenario_07_a_signal_while_the_last_checkpoint_is_written'),
  Guard(8, 'training/stop.py',
        'if threading.current_thread() is threading.main_thread():',
        'signal.signal(signal.SIGTERM, signal.SIG_DFL)\n    if False:',
        PROCESS + 'test_scenario_08_sigterm_to_one_of_two'),
  Guard(9, 'commands/train.py', ', heartbeat_timeout=args.heartbeat_timeout', '',
        PROCESS + 'test_scenario_09_kill_9_of_one_of_two'),
  Guard(10, 'training/train_step.py', 'jnp.where(finite, x, y)', 'x',
        RUN + 'test_scenario_10_one_batch_is_not_finite_and_left_out'),
  Guard(10, 'training/log.py', 'if not np.isfinite(values[name]):', 'if False:',
        RUN + 'test_scenario_10_one_batch_is_not_finite_and_stops_the_run'),
  Guard(11, 'training/log.py', 'if count > self._max_skipped:', 'if False:',
        RUN + 'test_scenario_11_too_many_in_a_row'),
  Guard(12, 'training/workdir.py', '_check_same(workdir, _stored_form(config), label_set)', 'pass',
        RUN + 'test_scenario_12_resume_with_another_network[fields0-message0]'),
  Guard(12, 'training/run.py',
        "if label_set.num_classes != config['model']['num_classes']:", 'if False:',
        RUN + 'test_scenario_12_files_of_another_run'),
  Guard(13, 'training/train.py',
        'if first_step > num_steps or (first_step == num_steps and evaluated):', 'if False:',
        RUN + 'test_scenario_13_a_finished_run_is_started_again'),
  Guard(13, 'training/workdir.py', 'if different:', 'if False:',
        RUN + 'test_scenario_13_another_run_in_a_used_directory'),
  Guard(14, 'datasets/train_batches.py', "if 'terminated unexpectedly' not in str(error):", 'if True:',
        RUN + 'test_scenario_14_a_reading_process_is_killed[reader]'),
  Guard(14, 'datasets/train_batches.py', 'while os.getppid() == parent:', 'while True:',
        RUN + 'test_scenario_14_a_reading_process_is_killed[parent]'),
  Guard(15, 'training/run_steps.py', "if 'RESOURCE_EXHAUSTED' not in str(error):", 'if True:',
        RUN + 'test_scenario_15_too_little_memory'),
  Guard(16, 'datasets/validation.py', 'if image_id not in label_files', 'if False',
        DATA + 'test_scenario_16_a_file_without_its_other_half_is_listed_before_training'),
  Guard(16, 'datasets/validation.py', 'if image_id not in image_files', 'if False',
        DATA + 'test_scenario_16_a_file_without_its_other_half_is_listed_before_training'),
  Guard(16, 'datasets/folder.py', 'if not pairs and not alone:', 'if False:',
        DATA + 'test_scenario_16_a_file_without_its_other_half_is_listed_before_training'),
  Guard(17, 'labels.py', 'if labels.min(initial=0) < 0:', 'if False:',
        DATA + 'test_scenario_17_a_label_id_out_of_range_is_named_with_its_count'),
  Guard(17, 'datasets/images.py', 'if ids.max() > 255:', 'if False:',
        DATA + 'test_scenario_17_a_label_id_out_of_range_is_named_with_its_count'),
  Guard(17, 'labels.py', 'if labels.min(initial=0) < 0:', 'if False:',
        DATA + 'test_scenario_17_id_255_is_void_where_that_is_configured_only'),
  Guard(17, 'datasets/pair_check.py',
        'attempt(lambda: label_set.encode(label[1], pair.label.where))', 'np.zeros(1, np.uint8)',
        DATA + 'test_scenario_17_prepare_finds_label_ids_out_of_range'),
  Guard(18, 'datasets/pair_check.py', 'if image_size != label_size:', 'if False:',
        DATA + 'test_scenario_18_image_and_label_of_different_sizes_are_named_with_both'),
  Guard(19, 'datasets/images.py',
        "if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], 'big'):",
        'if False:',
        DATA + 'test_scenario_19_a_damaged_file_is_named_and_left_out_only_when_asked'),
  Guard(19, 'datasets/images.py', "while kind != b'IEND':", "while kind != b'IDAT':",
        DATA + 'test_scenario_19_a_damaged_file_is_named_and_left_out_only_when_asked'),
  Guard(19, 'datasets/bad_pairs.py', 'if len(self.messages) > self.limit:', 'if False:',
        DATA + 'test_scenario_19_one_damaged_file_more_than_permitted_is_refused'),
  Guard(19, 'datasets/prepare.py', "skip_bad if split == 'train' else 0", 'skip_bad',
        DATA + 'test_scenario_19_prepare_leaves_out_training_pairs_only_when_asked'),
  Guard(19, 'datasets/cache.py', 'bad.say(len(source))', 'pass',
        DATA + 'test_scenario_19_training_goes_on_without_a_permitted_pair_and_says_so_again'),
  Guard(20, 'datasets/images.py',
        'ids = np.asarray(_load(PngImagePlugin.PngImageFile, data, where))',
        "ids = np.asarray(_load(PngImagePlugin.PngImageFile, data, where).convert('L'))",
        DATA + 'test_scenario_20_palette_and_16_bit_labels_hold_their_ids'),
  Guard(20, 'datasets/images.py', 'if header.color_type not in (_GREY, _PALETTE):', 'if False:',
        DATA + 'test_scenario_20_a_label_in_colours_is_refused'),
  Guard(20, 'datasets/label_colors.py', 'if unknown.any():', 'if False:',
        DATA + 'test_scenario_20_colours_are_decoded_where_the_label_set_declares_them'),
  Guard(21, 'datasets/images.py', 'image = image.transpose(_UPRIGHT[orientation])', 'pass',
        INPUT + 'test_scenario_21_pictures_of_any_kind_are_predicted_by_stated_rules'),
  Guard(21, 'datasets/images.py', "if image.mode.startswith('I'):", 'if False:',
        INPUT + 'test_scenario_21_pictures_of_any_kind_are_predicted_by_stated_rules'),
  Guard(21, 'datasets/images.py', '1 if as_stored else _orientation(image)', '_orientation(image)',
        INPUT + 'test_scenario_21_pictures_of_any_kind_are_predicted_by_stated_rules'),
  Guard(21, 'commands/predict.py', 'as_stored=args.as_stored', 'as_stored=False',
        INPUT + 'test_scenario_21_pictures_of_any_kind_are_predicted_by_stated_rules'),
  Guard(22, 'datasets/images.py', 'if not 0 < width * height <= MAX_PIXELS:', 'if not width * height:',
        INPUT + 'test_scenario_22_a_decompression_bomb_costs_next_to_nothing'),
  Guard(22, 'commands/predict.py', 'check_image_header(path)', 'pass',
        INPUT + 'test_scenario_22_a_bomb_in_a_folder_is_named_before_the_network_is_loaded'),
  Guard(23, 'datasets/stored_files.py', 'if reason := _why_unsafe(member):', 'if reason := None:',
        DATA + 'test_scenario_23_an_unsafe_archive_is_refused_and_nothing_written'),
  Guard(23, 'datasets/stored_files.py', 'if stat.S_ISLNK(member.external_attr >> 16):', 'if False:',
        DATA + 'test_scenario_23_an_unsafe_archive_is_refused_and_nothing_written'),
  Guard(24, 'datasets/folder.py', "unicodedata.normalize('NFC', ", 'str(',
        DATA + 'test_scenario_24_unicode_spaces_and_upper_case_names_are_found'),
  Guard(24, 'datasets/folder.py', 'path.suffix.lower() not in EXTENSIONS', 'path.suffix not in EXTENSIONS',
        DATA + 'test_scenario_24_unicode_spaces_and_upper_case_names_are_found'),
  Guard(24, 'datasets/camvid.py', 'if not pairs and not problems:', 'if False:',
        DATA + 'test_scenario_24_names_that_differ_otherwise_and_an_empty_list_are_reported'),
  Guard(25, 'weights/restricted_pickle.py', 'if name not in self._functions:', 'if False:',
        INPUT + 'test_scenario_25_code_in_weights_is_refused_and_named'),
  Guard(26, 'weights/convert.py', 'if found:', 'if False:',
        INPUT + 'test_scenario_26_weights_of_another_network_are_listed_and_nothing_is_written'),
  Guard(26, 'weights/readers.py', 'if prefix and not digest.startswith(prefix[1]):', 'if False:',
        INPUT + 'test_scenario_26_a_wrong_checksum_is_refused'),
  Guard(27, 'evaluation/evaluate.py',
        'evaluation_examples(split, jax.process_index(), jax.process_count())', 'evaluation_examples(split)',
        PROCESS + 'test_scenario_27_evaluation_is_the_same_for_any_batch_and_number_of_processes'),
  Guard(28, 'evaluation/metrics.py', 'if not num_valid:', 'if False:',
        DATA + 'test_scenario_28_a_ground_truth_that_is_all_void_is_an_error'),
  Guard(28, 'evaluation/metrics.py', 'tp / union if union else None', 'tp / max(union, 1)',
        DATA + 'test_scenario_28_an_absent_class_is_shown_and_not_in_the_mean'),
  Guard(29, 'training/checkpoints.py', 'self._latest.wait()', 'pass',
        'tests/training/test_checkpoints.py::test_a_save_that_fails_is_a_failed_run'),
  Guard(29, 'training/run_steps.py',
        'checkpoints.save_latest(state)\n              if', 'pass\n              if',
        CHECKPOINT + 'test_scenario_29_the_process_exits_right_after_the_last_step'),
  Guard(30, 'files.py',
        'if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):', 'if False:',
        RUN + 'test_scenario_30_paths_are_checked_before_anything_is_compiled'),
  Guard(30, 'files.py', 'or not os.access(existing, os.W_OK | os.X_OK)', '',
        RUN + 'test_scenario_30_a_read_only_directory'),
  Guard(30, 'datasets/folder.py', 'if not folder.is_dir():', 'if False:',
        RUN + 'test_scenario_30_paths_are_checked_before_anything_is_compiled'),
)
# fmt: on
