"""The settings of a run against the authors' table, and what is refused, with which words."""

import json
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction

import pytest

from esc_lib.models import ARCHITECTURES
from esc_lib.training.config import TrainConfig
from esc_lib.training.recipes import recipe


@pytest.mark.parametrize(("dataset", "epochs"), [("esc50", 600), ("esc10", 600), ("urbansound8k", 400)])
def test_envnets_recipe_is_the_authors(dataset, epochs):
    config = recipe("envnet", dataset)
    assert (config.architecture, config.dataset) == ("envnet", dataset)
    assert config.epochs == epochs
    assert config.learning_rate == 0.01
    assert config.schedule == (0.5, 0.75)
    assert config.lr_gamma == 0.1
    assert config.momentum == 0.9
    assert config.weight_decay == 5e-4
    assert config.batch_size == 64
    assert config.crops == 10
    assert (config.sample_rate, config.crop_samples) == (16000, 24014)
    assert config.trim_silence is (dataset != "urbansound8k")


@pytest.mark.parametrize(("dataset", "folds"), [("synthetic", 5), ("esc10", 5), ("esc50", 5), ("urbansound8k", 10)])
def test_without_a_word_the_last_fold_is_the_test(dataset, folds):
    config = recipe("envnet", dataset)
    assert config.eval_folds == (folds,)
    assert config.train_folds == tuple(range(1, folds))


def test_training_folds_are_all_others_unless_named():
    assert recipe("envnet", "esc50", eval_folds=[2]).train_folds == (1, 3, 4, 5)
    assert recipe("envnet", "esc50", eval_folds=[1, 5]).train_folds == (2, 3, 4)
    chosen = recipe("envnet", "esc50", eval_folds=[2], train_folds=[4, 5])
    assert (chosen.train_folds, chosen.eval_folds) == ((4, 5), (2,))


def test_changes_reach_the_settings():
    config = recipe("envnet", "synthetic", epochs=3, batch_size=5, learning_rate=0.5, schedule=[0.25], seed=9)
    assert (config.epochs, config.batch_size, config.learning_rate, config.schedule, config.seed) == (
        3, 5, 0.5, (0.25,), 9,
    )  # fmt: skip


def rule(base, gamma, schedule, epochs, epoch):
    """base * gamma ** #{f: e > f E}, in exact decimals."""
    steps = sum(epoch > Fraction(str(fraction)) * epochs for fraction in schedule)
    return float(Fraction(str(base)) * Fraction(str(gamma)) ** steps)


@pytest.mark.parametrize("schedule", [(), (0.5,), (0.5, 0.75), (0.3, 0.6, 0.9), (0.1, 0.2, 0.7)])
@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 7, 8, 10, 50, 99, 100, 400, 600])
def test_learning_rate_of_every_epoch_follows_the_authors_rule(epochs, schedule):
    config = recipe("envnet", "esc50", epochs=epochs, schedule=schedule)
    found = [config.learning_rate_at(epoch) for epoch in range(1, epochs + 1)]
    expected = [rule(0.01, 0.1, schedule, epochs, epoch) for epoch in range(1, epochs + 1)]
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_fraction_that_binary_cannot_hold_steps_no_epoch_early():
    # 0.29 * 100 is 28.999999999999996 in float64, 0.57 * 100 is 56.99999999999999
    config = recipe("envnet", "esc50", epochs=100, schedule=[0.29, 0.57])
    assert [config.learning_rate_at(e) for e in (29, 30, 57, 58)] == [0.01, 0.001, 0.001, 0.0001]


def test_learning_rate_steps_right_after_half_and_three_quarters():
    config = recipe("envnet", "esc50")
    assert [config.learning_rate_at(e) for e in (1, 300, 301, 450, 451, 600)] == [
        0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001,
    ]  # fmt: skip
    other = recipe("envnet", "esc50", epochs=4, learning_rate=0.2, lr_gamma=0.5)
    assert [other.learning_rate_at(e) for e in (1, 2, 3, 4)] == [0.2, 0.2, 0.1, 0.05]


@pytest.mark.parametrize(
    ("key", "hint"), [("lerning_rate", "learning_rate"), ("epoch", "epochs"), ("eval_fold", "eval_folds")]
)
def test_a_mistyped_setting_is_refused_with_the_right_one(key, hint):
    with pytest.raises(ValueError, match=f"'{key}'.*'{hint}'"):
        recipe("envnet", "esc50", **{key: 1})


def test_a_setting_like_no_other_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'xyzzy'.*epochs.*seed"):
        recipe("envnet", "esc50", xyzzy=1)


def test_unknown_network_or_set_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'resnet'.*envnet"):
        recipe("resnet", "esc50")
    with pytest.raises(ValueError, match="'esc5'.*esc10.*esc50.*urbansound8k"):
        recipe("envnet", "esc5")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(train_folds=[1, 2], eval_folds=[2, 3]), r"\[2\].*train_folds.*eval_folds"),
        (dict(eval_folds=[6]), r"eval_folds is \[6\].*\[1, 2, 3, 4, 5\]"),
        (dict(eval_folds=[0]), r"eval_folds is \[0\]"),
        (dict(eval_folds=["1"]), r"eval_folds is \['1'\]"),
        (dict(train_folds=[]), r"train_folds is \[\]"),
        (dict(train_folds=[]), r"train_folds is \[\]"),
        (dict(train_folds=[1, 9]), r"train_folds is \[1, 9\]"),
        (dict(train_folds=[1, 1]), r"train_folds is \[1, 1\]"),
        (dict(eval_folds=[2.0]), r"eval_folds is \[2.0\]"),
        (dict(eval_folds=[True]), r"eval_folds is \[True\]"),
        (dict(eval_folds=[1, 2, 3, 4, 5]), r"train_folds is \[\]"),  # nothing is left to learn from
    ],
)
def test_impossible_folds_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        recipe("envnet", "esc50", **changes)


@pytest.mark.parametrize("name", ["train_folds", "eval_folds", "schedule"])
def test_a_single_number_for_a_list_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        recipe("envnet", "esc50", **{name: 2})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "crops", "eval_every", "keep_n"])
@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, float("nan"), "3", True, None])
def test_counts_are_whole_numbers_from_one(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        recipe("envnet", "esc50", **{name: value})


@pytest.mark.parametrize("value", [-1, 1.0, "3", True, None])
def test_seed_is_a_whole_number_from_zero(value):
    with pytest.raises(ValueError, match="^seed is "):
        recipe("envnet", "esc50", seed=value)
    assert recipe("envnet", "esc50", seed=0).seed == 0


@pytest.mark.parametrize("name", ["learning_rate", "momentum", "weight_decay", "lr_gamma"])
@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf"), "1e-3", True, None])
def test_rates_are_numbers_from_zero(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        recipe("envnet", "esc50", **{name: value})


def test_a_rate_that_yaml_read_as_text_is_explained():
    with pytest.raises(ValueError, match="YAML.*1.0e-3"):
        recipe("envnet", "esc50", learning_rate="1e-3")


@pytest.mark.parametrize("value", [[0.75, 0.5], [80, 100], [1.0], [0.0], [-0.5], ["0.5"], [float("nan")], [True]])
def test_schedule_is_rising_fractions(value):
    with pytest.raises(ValueError, match="^schedule is "):
        recipe("envnet", "esc50", schedule=value)


@pytest.mark.parametrize(
    "changes", [dict(schedule=[0.5]), dict(schedule=[], warmup=2), dict(schedule=[], one_cycle=1.0)]
)
def test_one_cycle_is_a_schedule_of_its_own_and_below_one(changes):
    with pytest.raises(ValueError, match="^one_cycle is "):
        recipe("envnet", "esc50", **{"one_cycle": 0.2, **changes})


@pytest.mark.parametrize("value", [1, "yes", None])
def test_trim_silence_is_true_or_false(value):
    with pytest.raises(ValueError, match="^trim_silence is "):
        recipe("envnet", "esc50", trim_silence=value)


@pytest.mark.parametrize(("name", "value"), [("sample_rate", 0), ("sample_rate", "16000"), ("crop_samples", 24000)])
def test_input_is_the_networks(name, value):
    with pytest.raises(ValueError, match=name):
        recipe("envnet", "esc50", **{name: value})


def test_settings_survive_json():
    config = recipe("envnet", "esc10", eval_folds=[1, 3], epochs=7, learning_rate=0.03, seed=2**40, trim_silence=False)
    values = json.loads(json.dumps(config.to_dict()))
    again = TrainConfig.from_dict(values)
    assert again == config
    assert (again.eval_folds, again.schedule) == ((1, 3), (0.5, 0.75))  # tuples: JSON has lists only
    assert set(values) == {f.name for f in fields(TrainConfig)}


def test_an_unknown_key_in_a_file_is_refused_by_name():
    with pytest.raises(ValueError, match="'lr'"):
        TrainConfig.from_dict({**recipe("envnet", "esc10").to_dict(), "lr": 1.0})


def test_a_missing_key_in_a_file_is_refused_by_name():
    values = recipe("envnet", "esc10").to_dict()
    del values["epochs"], values["schedule"]
    with pytest.raises(ValueError, match="epochs, schedule"):
        TrainConfig.from_dict(values)


def test_a_file_without_what_has_a_default_is_read():
    values = recipe("envnet", "esc10").to_dict()
    del values["momentum"], values["keep_n"]
    assert TrainConfig.from_dict(values) == recipe("envnet", "esc10")


def test_settings_do_not_change_once_made():
    with pytest.raises(FrozenInstanceError):
        recipe("envnet", "esc10").epochs = 5


# What the papers did ---------------------------------------------------------------------------------------------

M_NETS = ["m3", "m5", "m11", "m18", "m34res"]
DATASETS = ["esc50", "esc10", "urbansound8k"]

# network, set, epochs of standard and of between-class learning, learning rate, schedule, warm-up
BETWEEN_CLASS_TABLE = [
    ("envnet", "esc50", 600, 1200, 0.01, (0.5, 0.75), 0),
    ("envnetv2", "esc50", 1000, 2000, 0.1, (0.3, 0.6, 0.9), 10),
    ("envnet", "esc10", 600, 1200, 0.01, (0.5, 0.75), 0),
    ("envnetv2", "esc10", 600, 1200, 0.01, (0.5, 0.75), 0),
    ("envnet", "urbansound8k", 400, 800, 0.01, (0.5, 0.75), 0),
    ("envnetv2", "urbansound8k", 600, 1200, 0.1, (0.3, 0.6, 0.9), 10),
]


def has(config, **expected):
    """Compares settings by name, so that a failure tells all that differ."""
    assert {name: getattr(config, name) for name in expected} == expected
    return True


@pytest.mark.parametrize(("network", "dataset", "standard", "mixed", "rate", "schedule", "warmup"), BETWEEN_CLASS_TABLE)
def test_the_envnets_recipes_are_the_authors_table(network, dataset, standard, mixed, rate, schedule, warmup):
    common = dict(
        learning_rate=rate, schedule=schedule, lr_gamma=0.1, warmup=warmup, batch_size=64, optimizer="sgd",
        momentum=0.9, nesterov=True, weight_decay=5e-4, crops=10, pad=True, min_peak=0, freeze_epoch=0, start_from="",
        trim_silence=dataset != "urbansound8k",
    )  # fmt: skip
    assert has(recipe(network, dataset), epochs=standard, between_class=False, strong_augmentation=False, **common)
    assert has(recipe(network, dataset, between_class=True), epochs=mixed, between_class=True, **common)


@pytest.mark.parametrize(
    ("network", "rate", "samples"),
    [
        ("envnet", 16000, 24014),
        ("envnetv2", 44100, 66650),
        ("wavemsnet", 44100, 66150),
        ("wavemsnet_logmel", 44100, 66150),
        ("acdnet", 20000, 30225),
        *((name, 8000, 32000) for name in M_NETS),
    ],
)
@pytest.mark.parametrize("dataset", [*DATASETS, "synthetic"])
def test_inputs_are_those_of_the_papers(network, rate, samples, dataset):
    assert has(recipe(network, dataset), sample_rate=rate, crop_samples=samples)


def warm_rule(config, epoch):
    """The authors' rule with its warm-up: one tenth up to that epoch, whatever the schedule says."""
    if epoch <= config.warmup:
        return config.learning_rate / 10
    return rule(config.learning_rate, config.lr_gamma, config.schedule, config.epochs, epoch)


@pytest.mark.parametrize(("network", "dataset"), [row[:2] for row in BETWEEN_CLASS_TABLE] + [("acdnet", "esc50")])
@pytest.mark.parametrize("changes", [{}, dict(between_class=True), dict(epochs=12), dict(warmup=5, lr_gamma=0.5)])
def test_warm_up_has_a_tenth_of_the_learning_rate(network, dataset, changes):
    config = recipe(network, dataset, **changes)
    found = [config.learning_rate_at(epoch) for epoch in range(1, config.epochs + 1)]
    expected = [warm_rule(config, epoch) for epoch in range(1, config.epochs + 1)]
    assert found == pytest.approx(expected, rel=1e-9)


def test_envnetv2_starts_gently_on_esc50():
    config = recipe("envnetv2", "esc50")
    assert [config.learning_rate_at(e) for e in (1, 10, 11, 300, 301, 600, 601, 900, 901, 1000)] == [
        0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001,
    ]  # fmt: skip


@pytest.mark.parametrize("dataset", DATASETS)
def test_wavemsnets_recipe_is_the_authors(dataset):
    config = recipe("wavemsnet", dataset)
    assert has(
        config, learning_rate=0.01, batch_size=32, epochs=160, lr_gamma=0.1, warmup=0, optimizer="sgd", momentum=0.9,
        nesterov=False, weight_decay=5e-4, min_peak=0.005, crops=18, trim_silence=False, pad=False,
        between_class=False, strong_augmentation=False, freeze_epoch=0, start_from="",
    )  # fmt: skip
    assert [config.learning_rate_at(e) for e in (1, 60, 61, 120, 121, 140, 141, 160)] == [
        0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001, 0.00001, 0.00001,
    ]  # fmt: skip


@pytest.mark.parametrize("dataset", DATASETS)
def test_wavemsnets_second_phase_is_the_forks(dataset):
    config = recipe("wavemsnet_logmel", dataset)
    assert has(
        config, learning_rate=0.01, batch_size=32, epochs=400, lr_gamma=0.1, warmup=0, optimizer="sgd", momentum=0.9,
        nesterov=False, weight_decay=1e-4, min_peak=0.005, crops=18, trim_silence=False, pad=False,
        between_class=False, strong_augmentation=False, freeze_epoch=1,
    )  # fmt: skip
    assert [config.learning_rate_at(e) for e in (1, 80, 81, 140, 141, 200, 201, 400)] == [
        0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001, 0.00001, 0.00001,
    ]  # fmt: skip


@pytest.mark.parametrize("network", M_NETS)
def test_the_m_nets_learn_from_whole_clips_of_urbansound8k(network):
    config = recipe(network, "urbansound8k")
    assert has(
        config, sample_rate=8000, crop_samples=32000, optimizer="adam", learning_rate=0.001, weight_decay=1e-4,
        batch_size=128, warmup=0, crops=1, pad=False, trim_silence=False, min_peak=0,
        between_class=False, strong_augmentation=False, freeze_epoch=0, eval_folds=(10,),
    )  # fmt: skip
    assert 100 <= config.epochs <= 400
    assert config.train_folds == tuple(range(1, 10))
    assert {config.learning_rate_at(e) for e in range(1, config.epochs + 1)} == {0.001}


@pytest.mark.parametrize("network", M_NETS)
@pytest.mark.parametrize("dataset", ["esc10", "esc50"])
def test_the_m_nets_learn_from_crops_of_esc(network, dataset):
    assert has(
        recipe(network, dataset), crop_samples=32000, optimizer="adam", weight_decay=1e-4, pad=True, trim_silence=True,
        crops=10, between_class=False, strong_augmentation=False,
    )  # fmt: skip


@pytest.mark.parametrize("dataset", DATASETS)
def test_acdnets_recipe_is_the_authors(dataset):
    config = recipe("acdnet", dataset)
    assert has(
        config, epochs=2000, batch_size=64, learning_rate=0.1, lr_gamma=0.1, warmup=10, optimizer="sgd", momentum=0.9,
        nesterov=True, weight_decay=5e-4, between_class=True, strong_augmentation=True, pad=True, min_peak=0, crops=10,
        freeze_epoch=0,
    )  # fmt: skip
    assert [config.learning_rate_at(e) for e in (1, 10, 11, 600, 601, 1200, 1201, 1800, 1801, 2000)] == [
        0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001,
    ]  # fmt: skip


# Between-class learning and strong augmentation ------------------------------------------------------------------


@pytest.mark.parametrize("network", ["envnet", "envnetv2", "wavemsnet", "m5"])
@pytest.mark.parametrize("dataset", DATASETS)
def test_between_class_learning_takes_twice_the_epochs(network, dataset):
    standard = recipe(network, dataset)
    assert has(recipe(network, dataset, between_class=True), between_class=True, epochs=2 * standard.epochs)
    assert has(recipe(network, dataset, between_class=False), between_class=False, epochs=standard.epochs)
    assert has(recipe(network, dataset, strong_augmentation=True), between_class=False, epochs=standard.epochs)


@pytest.mark.parametrize("network", ARCHITECTURES)
def test_epochs_that_are_asked_for_are_not_doubled(network):
    assert recipe(network, "esc50", between_class=True, epochs=7).epochs == 7


def test_acdnets_epochs_are_those_of_between_class_learning_already():
    assert recipe("acdnet", "esc50", between_class=True).epochs == 2000
    assert recipe("acdnet", "esc50", strong_augmentation=False).epochs == 2000


# All networks, all sets, all new settings ------------------------------------------------------------------------


@pytest.mark.parametrize("network", ARCHITECTURES)
@pytest.mark.parametrize("dataset", [*DATASETS, "synthetic"])
def test_every_network_has_a_recipe_for_every_set_that_survives_json(network, dataset):
    for changes in ({}, dict(between_class=True, strong_augmentation=True)):
        config = recipe(network, dataset, **changes)
        assert has(config, architecture=network, dataset=dataset)
        values = json.loads(json.dumps(config.to_dict()))
        assert TrainConfig.from_dict(values) == config
        assert set(values) == {f.name for f in fields(TrainConfig)}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("optimizer", ["SGD", "rmsprop", "", None, 1, ["sgd"]]),
        ("nesterov", [1, 0, "true", None]),
        ("between_class", [1, 0, "yes", None]),
        ("strong_augmentation", [1, 0, "yes", None]),
        ("pad", [1, 0, "no", None]),
        ("min_peak", [-0.1, 1.5, float("nan"), float("inf"), "5e-3", True, None]),
        ("warmup", [-1, 1.0, 2.5, "3", True, None]),
        ("freeze_epoch", [-1, 1.0, 2.5, "3", True, None]),
        ("start_from", ["runs/some", None, 1, False]),
    ],
)
def test_wrong_values_of_the_other_settings_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} is "):
            recipe("envnet", "esc50", **{name: value})


@pytest.mark.parametrize(("network", "right"), [("acdnet", (30225, 66650)), ("m5", (32000, 16000, 4))])
def test_only_lengths_that_the_network_takes_are_accepted(network, right):
    for value in right:
        assert recipe(network, "esc50", crop_samples=value).crop_samples == value
    for value in (0, -4, 3, 30225.0, "32000", True, None, *([30224, 32000] if network == "acdnet" else [])):
        with pytest.raises(ValueError, match="^crop_samples is "):
            recipe(network, "esc50", crop_samples=value)


def test_only_the_log_mel_network_starts_from_another_run():
    assert recipe("wavemsnet_logmel", "esc50", start_from="runs/some").start_from == "runs/some"
    for network in ARCHITECTURES:
        assert recipe(network, "esc50", start_from="").start_from == ""
        if network != "wavemsnet_logmel":
            with pytest.raises(ValueError, match="^start_from is 'runs/some'.*wavemsnet_logmel"):
                recipe(network, "esc50", start_from="runs/some")
