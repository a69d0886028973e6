"""The settings of a run against the authors' table, and what is refused, with which words."""

import json
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction

import pytest

from esc_lib.recipes import TrainConfig, recipe


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
        (dict(eval_folds=[]), r"eval_folds is \[\]"),
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
