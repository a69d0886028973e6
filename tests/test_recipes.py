"""The settings of a run against the papers, and what is refused, with which words."""

import json
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction

import pandas as pd
import pytest

from esc_lib.models import ARCHITECTURES
from esc_lib.paths import RESULTS
from esc_lib.training.config import TrainConfig
from esc_lib.training.recipes import RECIPES, recipe

M_NETS = ["m3", "m5", "m11", "m18", "m34res"]
DATASETS = ["esc50", "esc10", "urbansound8k"]


def assert_has(config, **expected):
    """Compares settings by name, so that a failure tells all that differ."""
    assert {name: getattr(config, name) for name in expected} == expected


# What the papers did --------------------------------------------------------------------------------------------------

# network, set, epochs of standard and of between-class learning, learning rate, schedule, warm-up
BETWEEN_CLASS_TABLE = [
    ("envnet", "esc50", 600, 1200, 0.01, (0.5, 0.75), 0),
    ("envnetv2", "esc50", 1000, 2000, 0.1, (0.3, 0.6, 0.9), 10),
    ("envnet", "esc10", 600, 1200, 0.01, (0.5, 0.75), 0),
    ("envnetv2", "esc10", 600, 1200, 0.01, (0.5, 0.75), 0),
    ("envnet", "urbansound8k", 400, 800, 0.01, (0.5, 0.75), 0),
    ("envnetv2", "urbansound8k", 600, 1200, 0.1, (0.3, 0.6, 0.9), 10),
]


@pytest.mark.parametrize(("network", "dataset", "standard", "mixed", "rate", "schedule", "warmup"), BETWEEN_CLASS_TABLE)
def test_the_envnets_recipes_are_the_authors_table(network, dataset, standard, mixed, rate, schedule, warmup):
    common = dict(
        architecture=network, dataset=dataset, learning_rate=rate, schedule=schedule, lr_gamma=0.1, warmup=warmup,
        batch_size=64, optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=5e-4, crops=10, pad=True, min_peak=0,
        freeze_epoch=0, start_from="", one_cycle=0, trim_silence=dataset != "urbansound8k",
    )  # fmt: skip
    assert_has(recipe(network, dataset), epochs=standard, between_class=False, strong_augmentation=False, **common)
    assert_has(recipe(network, dataset, between_class=True), epochs=mixed, between_class=True, **common)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(
    ("network", "epochs", "weight_decay", "freeze_epoch"),
    [("wavemsnet", 160, 5e-4, 0), ("wavemsnet_logmel", 400, 1e-4, 1)],
)
def test_wavemsnets_recipe_is_the_authors_and_of_phase_2_the_forks(
    network, epochs, weight_decay, freeze_epoch, dataset
):
    assert_has(
        recipe(network, dataset), learning_rate=0.01, batch_size=32, epochs=epochs, lr_gamma=0.1, warmup=0,
        optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=weight_decay, min_peak=0.005, crops=18,
        trim_silence=False, pad=False, between_class=False, strong_augmentation=False, freeze_epoch=freeze_epoch,
        start_from="",
    )  # fmt: skip


@pytest.mark.parametrize("network", M_NETS)
def test_the_m_nets_learn_from_whole_clips_of_urbansound8k_and_from_crops_of_esc(network):
    common = dict(
        crop_samples=32000, optimizer="adam", learning_rate=0.001, weight_decay=1e-4, batch_size=128, warmup=0,
        min_peak=0, between_class=False, strong_augmentation=False, freeze_epoch=0,
    )  # fmt: skip
    config = recipe(network, "urbansound8k")
    assert_has(config, crops=1, pad=False, trim_silence=False, **common)
    assert 100 <= config.epochs <= 400
    assert {config.learning_rate_at(e) for e in range(1, config.epochs + 1)} == {0.001}
    for dataset in ("esc10", "esc50"):
        assert_has(recipe(network, dataset), crops=10, pad=True, trim_silence=True, **common)


@pytest.mark.parametrize("dataset", DATASETS)
def test_acdnets_recipe_is_the_authors(dataset):
    assert_has(
        recipe("acdnet", dataset), epochs=2000, batch_size=64, learning_rate=0.1, lr_gamma=0.1, warmup=10,
        optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=5e-4, between_class=True, strong_augmentation=True,
        pad=True, min_peak=0, crops=10, freeze_epoch=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "rate", "samples"),
    [
        ("envnet", 16000, 24014),
        ("envnetv2", 44100, 66650),
        ("wavemsnet", 44100, 66150),
        ("wavemsnet_logmel", 44100, 66150),
        ("acdnet", 20000, 30225),
        *((name, 8000, 32000) for name in M_NETS),
        ("logmel_cnn", 16000, 24014),
        ("logmel_m5", 8000, 32000),
    ],
)
@pytest.mark.parametrize("dataset", [*DATASETS, "synthetic"])
def test_every_network_has_a_recipe_for_every_set_that_survives_json(network, rate, samples, dataset):
    for changes in ({}, dict(between_class=True, strong_augmentation=True, seed=2**40, compile=True)):
        config = recipe(network, dataset, **changes)
        assert_has(config, architecture=network, dataset=dataset, sample_rate=rate, crop_samples=samples, **changes)
        values = json.loads(json.dumps(config.to_dict()))
        assert TrainConfig.from_dict(values) == config
        assert set(values) == {f.name for f in fields(TrainConfig)}


@pytest.mark.parametrize("network", ["envnet", "envnetv2", "wavemsnet", "m5"])
@pytest.mark.parametrize("dataset", DATASETS)
def test_between_class_learning_takes_twice_the_epochs(network, dataset):
    standard = recipe(network, dataset)
    assert_has(recipe(network, dataset, between_class=True), between_class=True, epochs=2 * standard.epochs)
    assert_has(recipe(network, dataset, between_class=False), between_class=False, epochs=standard.epochs)
    assert_has(recipe(network, dataset, strong_augmentation=True), between_class=False, epochs=standard.epochs)
    assert recipe(network, dataset, between_class=True, epochs=7).epochs == 7


def test_acdnets_epochs_are_those_of_between_class_learning_already():
    assert recipe("acdnet", "esc50", between_class=True).epochs == 2000
    assert recipe("acdnet", "esc50", strong_augmentation=False).epochs == 2000
    assert recipe("acdnet", "esc50", between_class=True, epochs=7).epochs == 7


@pytest.mark.parametrize(("log_mel", "learned"), [("logmel_cnn", "envnet"), ("logmel_m5", "m5")])
@pytest.mark.parametrize("dataset", [*DATASETS, "synthetic"])
@pytest.mark.parametrize("changes", [{}, dict(kind="fast"), dict(between_class=True)])
def test_log_mel_networks_have_the_recipe_of_the_network_that_they_are_compared_with(
    log_mel, learned, dataset, changes
):
    ours, theirs = (recipe(name, dataset, **changes).to_dict() for name in (log_mel, learned))
    own = dict(epochs=200, between_class=True, equalizer=6.0) if log_mel == "logmel_cnn" and "kind" in changes else {}
    assert ours == theirs | {"architecture": log_mel} | own


# The learning rate of every epoch -------------------------------------------------------------------------------------


def rule(config, epoch):
    """base * gamma ** #{f: e > f E}, in exact decimals; one tenth in the warm-up, whatever the schedule says."""
    if epoch <= config.warmup:
        return config.learning_rate / 10
    steps = sum(epoch > Fraction(str(fraction)) * config.epochs for fraction in config.schedule)
    return float(Fraction(str(config.learning_rate)) * Fraction(str(config.lr_gamma)) ** steps)


@pytest.mark.parametrize("schedule", [(), (0.5,), (0.5, 0.75), (0.3, 0.6, 0.9), (0.1, 0.2, 0.7)])
@pytest.mark.parametrize("changes", [{}, dict(warmup=5, lr_gamma=0.5), dict(learning_rate=0.1, warmup=10)])
def test_learning_rate_of_every_epoch_follows_the_authors_rule(schedule, changes):
    for epochs in (1, 2, 3, 4, 7, 8, 10, 12, 50, 99, 100, 400, 600):
        config = recipe("envnet", "esc50", epochs=epochs, schedule=schedule, **changes)
        numbers = range(1, epochs + 1)
        expected = [rule(config, epoch) for epoch in numbers]
        assert [config.learning_rate_at(epoch) for epoch in numbers] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("network", "changes", "rates"),
    [
        ("envnet", {}, {1: 0.01, 300: 0.01, 301: 0.001, 450: 0.001, 451: 0.0001, 600: 0.0001}),
        ("envnet", dict(epochs=4, learning_rate=0.2, lr_gamma=0.5), {1: 0.2, 2: 0.2, 3: 0.1, 4: 0.05}),
        # 0.29 * 100 is 28.999999999999996 in float64, 0.57 * 100 is 56.99999999999999
        ("envnet", dict(epochs=100, schedule=[0.29, 0.57]), {29: 0.01, 30: 0.001, 57: 0.001, 58: 0.0001}),
        ("envnetv2", {}, {1: 0.01, 10: 0.01, 11: 0.1, 300: 0.1, 301: 0.01, 601: 0.001, 900: 0.001, 901: 0.0001}),
        ("wavemsnet", {}, {1: 0.01, 60: 0.01, 61: 0.001, 120: 0.001, 121: 0.0001, 140: 0.0001, 141: 1e-5, 160: 1e-5}),
        (
            "wavemsnet_logmel",
            {},
            {1: 0.01, 80: 0.01, 81: 0.001, 140: 0.001, 141: 0.0001, 200: 0.0001, 201: 1e-5, 400: 1e-5},
        ),
        ("acdnet", {}, {1: 0.01, 10: 0.01, 11: 0.1, 600: 0.1, 601: 0.01, 1201: 0.001, 1800: 0.001, 1801: 0.0001}),
    ],
)
def test_learning_rate_steps_right_after_the_fractions_and_is_a_round_number(network, changes, rates):
    config = recipe(network, "esc50", **changes)
    assert {epoch: config.learning_rate_at(epoch) for epoch in rates} == rates


# Folds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "folds"), [("synthetic", 5), ("esc10", 5), ("esc50", 5), ("urbansound8k", 10)])
def test_without_a_word_the_last_fold_is_the_test(dataset, folds):
    assert_has(recipe("envnet", dataset), train_folds=tuple(range(1, folds)), eval_folds=(folds,), validation_folds=())


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        (dict(eval_folds=[2]), (1, 3, 4, 5)),
        (dict(eval_folds=[1, 5]), (2, 3, 4)),
        (dict(eval_folds=[2], train_folds=[4, 5]), (4, 5)),
        (dict(eval_folds=[2], validation_folds=[1, 4]), (3, 5)),
        (dict(validation_folds=[1]), (2, 3, 4)),
        (dict(eval_folds=[]), (1, 2, 3, 4, 5)),
    ],
)
def test_training_folds_are_all_others_unless_named(changes, trained):
    config = recipe("envnet", "esc50", **changes)
    assert_has(config, **{**{name: tuple(folds) for name, folds in changes.items()}, "train_folds": trained})
    assert config.monitored_folds == (config.validation_folds or config.eval_folds)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(train_folds=[1, 2], eval_folds=[2, 3]), r"\[2\].*train_folds.*eval_folds"),
        (dict(train_folds=[1, 2], validation_folds=[2, 3]), r"\[2\].*train_folds.*validation_folds"),
        (dict(eval_folds=[3], validation_folds=[2, 3]), r"\[3\].*eval_folds.*validation_folds"),
        (dict(eval_folds=[6]), r"eval_folds is \[6\].*\[1, 2, 3, 4, 5\]"),
        (dict(eval_folds=[0]), r"eval_folds is \[0\]"),
        (dict(eval_folds=["1"]), r"eval_folds is \['1'\]"),
        (dict(validation_folds=[6]), r"validation_folds is \[6\]"),
        (dict(train_folds=[]), r"train_folds is \[\]"),
        (dict(train_folds=[1, 9]), r"train_folds is \[1, 9\]"),
        (dict(train_folds=[1, 1]), r"train_folds is \[1, 1\]"),
        (dict(eval_folds=[2.0]), r"eval_folds is \[2.0\]"),
        (dict(eval_folds=[True]), r"eval_folds is \[True\]"),
        (dict(eval_folds=[1, 2, 3, 4, 5]), r"train_folds is \[\]"),  # nothing is left to learn from
        *[({name: 2}, f"{name} is 2") for name in ("train_folds", "eval_folds", "validation_folds", "schedule")],
    ],
)
def test_impossible_folds_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        recipe("envnet", "esc50", **changes)


# All settings ---------------------------------------------------------------------------------------------------------

COUNTS = [0, -1, 1.0, 2.5, float("nan"), "3", True, None]
FROM_ZERO = [-1, 1.0, 2.5, "3", True, None]
RATES = [-1e-3, float("nan"), float("inf"), "1e-3", True, None]
SWITCHES = [1, 0, "true", "yes", "on", None]
WRONG = {
    **dict.fromkeys(["epochs", "batch_size", "crops", "eval_every", "keep_n"], COUNTS),
    **dict.fromkeys(["seed", "warmup", "freeze_epoch", "unfreeze_epoch"], FROM_ZERO),
    **dict.fromkeys(["learning_rate", "momentum", "weight_decay", "lr_gamma"], RATES),
    "min_peak": [*RATES, 1.5],
    "one_cycle": [*RATES, 1.0],
    "equalizer": [*RATES, 61.0],
    **dict.fromkeys(["nesterov", "between_class", "strong_augmentation", "trim_silence", "pad", "compile"], SWITCHES),
    "schedule": [[0.75, 0.5], [80, 100], [1.0], [0.0], [-0.5], ["0.5"], [float("nan")], [True]],
    "optimizer": ["SGD", "rmsprop", "", None, 1, ["sgd"]],
    "precision": ["float16", "", None, True, ["float32"]],
    "start_from": [None, 1, False],
    "crop_samples": [24000, 24014.0, "24014", True, None],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_by_name(name):
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=f"^{name} is "):
            recipe("envnet", "esc50", **{name: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(learning_rate="1e-3"), "YAML.*1.0e-3"),
        (dict(precision="float16"), "precision is 'float16': expected one of auto, float32, tf32, bfloat16"),
        (dict(compile="on"), "compile is 'on': expected true or false"),
        (dict(sample_rate=0), "sample_rate"),
        (dict(sample_rate="16000"), "sample_rate"),
        (dict(one_cycle=1.0, schedule=[]), "one_cycle is 1.0"),
        (dict(one_cycle=0.2), "one_cycle is .*schedule"),
        (dict(one_cycle=0.2, schedule=[], warmup=2), "one_cycle is .*warmup"),
        (dict(lerning_rate=1), "'lerning_rate'.*'learning_rate'"),
        (dict(epoch=1), "'epoch'.*'epochs'"),
        (dict(eval_fold=1), "'eval_fold'.*'eval_folds'"),
        (dict(xyzzy=1), "'xyzzy'.*epochs.*seed"),
    ],
)
def test_what_is_refused_is_explained(changes, words):
    with pytest.raises(ValueError, match=words):
        recipe("envnet", "esc50", **changes)


def test_unknown_network_or_set_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'resnet'.*envnet"):
        recipe("resnet", "esc50")
    with pytest.raises(ValueError, match="'esc5'.*esc10.*esc50.*urbansound8k"):
        recipe("envnet", "esc5")


@pytest.mark.parametrize(("network", "right"), [("acdnet", (30225, 66650)), ("m5", (32000, 16000, 4))])
def test_only_lengths_that_the_network_takes_are_accepted(network, right):
    for value in right:
        assert recipe(network, "esc50", crop_samples=value).crop_samples == value
    for value in (0, -4, 3, *([30224, 32000] if network == "acdnet" else [])):
        with pytest.raises(ValueError, match="^crop_samples is "):
            recipe(network, "esc50", crop_samples=value)


@pytest.mark.parametrize("network", ARCHITECTURES)
def test_every_network_may_start_from_another_run(network):
    assert recipe(network, "esc50", start_from="runs/some").start_from == "runs/some"


def test_a_front_end_is_released_after_it_was_frozen():
    config = recipe("m5", "esc10", freeze_epoch=2, unfreeze_epoch=4)
    assert [config.is_frozen_at(epoch) for epoch in range(1, 6)] == [False, True, True, False, False]
    assert [recipe("m5", "esc10", freeze_epoch=2).is_frozen_at(epoch) for epoch in (1, 2, 99)] == [False, True, True]
    assert not recipe("m5", "esc10").is_frozen_at(1)
    for freeze in (0, 4, 5):
        with pytest.raises(ValueError, match="unfreeze_epoch is 4 and freeze_epoch"):
            recipe("m5", "esc10", freeze_epoch=freeze, unfreeze_epoch=4)


def test_changes_reach_the_settings_which_then_stay():
    changes = dict(epochs=3, batch_size=5, learning_rate=0.5, seed=0, precision="auto", compile=True)
    changes |= dict(schedule=(0.25,), one_cycle=0)
    config = recipe("envnet", "synthetic", **changes)
    assert_has(config, **changes)
    assert_has(recipe("m5", "synthetic", schedule=[], one_cycle=0.3), schedule=(), one_cycle=0.3)
    with pytest.raises(FrozenInstanceError):
        config.epochs = 5


def test_what_a_file_may_lack_and_what_not():
    config = recipe("envnet", "esc10", eval_folds=[1, 3], trim_silence=False)
    values = config.to_dict()
    without = lambda *names: {name: value for name, value in values.items() if name not in names}  # noqa: E731
    assert TrainConfig.from_dict(without("momentum", "keep_n", "validation_folds")) == config
    with pytest.raises(ValueError, match="epochs, schedule"):
        TrainConfig.from_dict(without("epochs", "schedule"))
    with pytest.raises(ValueError, match="'lr'"):
        TrainConfig.from_dict({**values, "lr": 1.0})


@pytest.mark.parametrize(("written", "compiled"), [("on", True), ("off", False)])
def test_compile_is_read_as_it_was_written_once(written, compiled):
    values = {**recipe("envnet", "esc10").to_dict(), "compile": written}
    assert TrainConfig.from_dict(values) == recipe("envnet", "esc10", compile=compiled)


@pytest.mark.parametrize("network", RECIPES)
def test_the_fast_recipe_rises_and_falls_once_on_the_networks_own_crops(network):
    fast, paper = (recipe(network, "esc10", kind=kind) for kind in ("fast", "paper"))
    assert fast.one_cycle == 0.15 and fast.schedule == () and fast.warmup == 0
    assert fast.epochs == (200 if network == "logmel_cnn" else 100) and fast.between_class == (network != "envnet")
    assert fast.strong_augmentation and fast.batch_size == 64 and paper.equalizer == 0
    assert fast.equalizer == (6 if network in ("m3", "m5", "m11", "m18", "m34res", "logmel_m5", "logmel_cnn") else 0)
    assert fast.freeze_epoch == 0 and fast.start_from == ""  # one training, of WaveMsNet with the spectrogram too
    same = ("crop_samples", "sample_rate", "crops", "pad", "trim_silence", "min_peak", "train_folds")
    assert all(getattr(fast, name) == getattr(paper, name) for name in same)
    assert recipe(network, "esc10", kind="fast", epochs=30).epochs == 30


def test_the_fast_recipes_are_those_that_were_tried_on_validation_folds():
    tried = pd.read_csv(RESULTS / "tuning.csv")
    names = ["optimizer", "learning_rate", "weight_decay", "one_cycle", "epochs", "batch_size", "sample_rate"]
    names += ["crop_samples", "between_class", "strong_augmentation", "equalizer"]
    for network in ("m11", "m18", "acdnet", "envnet", "envnetv2", "logmel_cnn", "wavemsnet_logmel"):
        fast, rows = recipe(network, "esc10", kind="fast"), tried[tried["network"] == network]
        assert any(all(row[name] == getattr(fast, name) for name in names) for _, row in rows.iterrows()), network
    for row in tried.itertuples():
        assert str(row.validated_on) not in row.trained_on.split() and len(row.trained_on.split()) == 3


def test_another_kind_of_recipe_is_refused():
    for kind in ("quick", None, []):
        with pytest.raises(ValueError, match="kind is .*: expected (paper or fast|text)"):
            recipe("m5", "esc10", kind=kind)
