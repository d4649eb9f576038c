"""What `monai.bundle run` lacks: unknown options are refused, mistakes are one line."""

import json
import logging
import sys

import pytest
from fire.parser import DefaultParseValue
from monai.bundle import ConfigWorkflow

from sparse_ulm import workflow
from sparse_ulm.errors import RanksError, RecordingError, UserError
from sparse_ulm.workflow import (
    check_overrides,
    find_user_error,
    keep_freed_memory,
    one_line_errors,
    prepare_run,
    print_scores,
)

COMMAND = "/somewhere/monai/bundle/__main__.py"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "rate: 0.5\nnetwork_def: {_target_: torch.nn.Linear, in_features: 3}\n"
        "handlers:\n  - {_target_: StatsHandler}\n  - {_target_: Other}\n"
    )
    return path


@pytest.fixture
def _as_library(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook.py", "--lerning_rate", "1"])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)


def options(config, *rest):
    return ["run", "--config_file", str(config), *rest]


@pytest.mark.parametrize(
    "given",
    [
        ["--rate", "0.1"],
        ["--rate=0.1"],
        ["-rate", "-0.1"],
        ["--network_def#in_features", "4"],
        ["--network_def::in_features", "4"],
        ["--handlers#1#_disabled_", "true"],
        ["--logging_file", "x.conf", "--run_id", "run"],
        ["--tracking", "mlflow", "--experiment_name", "first"],
    ],
)
def test_known_options_pass(config, given):
    check_overrides(options(config, *given))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--raet", "0.1"], "unknown option --raet.*did you mean --rate"),
        (["--raet=0.1"], "unknown option --raet"),
        (["-raet", "0.1"], "unknown option --raet"),
        (["--rate", "0.1", "--nothing_like_it", "2"], "unknown option --nothing_like_it"),
        (["--network_def#out_features", "4"], "unknown option --network_def#out_features"),
        (["--handlers#2#_disabled_", "true"], "unknown option --handlers#2#_disabled_"),
        (["--experiment_name", "first"], "unknown option --experiment_name"),
    ],
)
def test_unknown_options_are_refused_with_the_nearest_known_one(config, given, words):
    with pytest.raises(UserError, match=words):
        check_overrides(options(config, *given))


def test_keys_of_all_config_files_are_known(config, tmp_path):
    other = tmp_path / "over.yaml"
    other.write_text("spare: 1\n")
    files = f"['{config}', '{other}']"
    check_overrides(["run", "--config_file", files, "--spare", "2", "--rate", "1"])
    check_overrides(["run", f"--config_file={files}", "--spare", "2"])
    with pytest.raises(UserError, match="--spare"):
        check_overrides(options(config, "--spare", "2"))


def test_a_mistake_is_found_behind_what_monai_wraps_around_it():
    mistake = RecordingError("rec.npy holds real samples; wanted IQ.")
    wrapped = RuntimeError("Failed to instantiate component 'Dataset'")
    wrapped.__cause__ = KeyError("dataset")
    wrapped.__cause__.__context__ = mistake
    assert find_user_error(wrapped) is mistake
    assert find_user_error(RuntimeError("a bug")) is None
    assert find_user_error(None) is None


def test_a_mistake_is_printed_in_one_line_and_a_bug_with_its_traceback(capsys):
    one_line_errors(UserError, UserError("two\nlines   here"), None)
    assert capsys.readouterr().err == "error: two lines here\n"
    one_line_errors(RuntimeError, RuntimeError("a bug"), None)
    assert "RuntimeError: a bug" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "error", "waits"), [
    ("0", UserError("no"), False), ("1", UserError("no"), True), ("0", RanksError("gone"), True),
])  # fmt: skip
def test_of_several_processes_the_first_that_knows_speaks_first(monkeypatch, capsys, number, error, waits):
    slept = []
    monkeypatch.setattr(workflow.time, "sleep", slept.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", number)
    one_line_errors(type(error), error, None)
    assert capsys.readouterr().err == f"error: {'rank 1: ' if number == '1' else ''}{error}\n"
    assert slept == ([workflow.PATIENCE_S] if waits else [])


def test_a_command_with_an_unknown_option_stops(config, monkeypatch):
    monkeypatch.setattr(sys, "argv", [COMMAND, *options(config, "--raet", "1")])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(UserError, match="--raet"):
        prepare_run()
    assert sys.excepthook is one_line_errors


@pytest.mark.parametrize(("word", "value"), [("false", False), ("true", True), ("null", None), ("False", False)])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("before", ["", '"$@root", '], ids=["first", "behind another step"])
def test_yaml_s_words_are_no_texts_on_the_command_line(tmp_path, monkeypatch, word, value, joined, before):
    """MONAI would give the text "false", which counts as true, to `force` and its like."""
    text = "root: 3\nforce: 7\nname: 7\nouter: {inner: 7}\nseen: $[@force, @name, @outer#inner]\n"
    path = tmp_path / "c.yaml"
    path.write_text(f"{text}initialize: [{before}{{_target_: sparse_ulm.workflow.prepare_run}}]\nrun: []\n")
    words = [("force", word), ("name", "falsehood"), ("outer#inner", word)]
    pairs = [[f"--{key}={text}"] if joined else [f"--{key}", text] for key, text in words]
    given = [text for pair in pairs for text in pair]
    monkeypatch.setattr(sys, "argv", [COMMAND, "run", "--config_file", str(path), *given])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    overrides = {key: DefaultParseValue(text) for key, text in words}
    workflow_of_monai = ConfigWorkflow(str(path), workflow_type="infer", **overrides)
    workflow_of_monai.initialize()
    assert workflow_of_monai.parser.get_parsed_content("seen") == [value, "falsehood", value]


def test_mappings_that_are_no_python_are_read_as_yaml(tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    steps = "initialize: [{_target_: sparse_ulm.workflow.prepare_run}]\nrun: []\n"
    path.write_text(f"names: {{}}\nsizes: []\nseen: $[@names, @sizes]\n{steps}")
    words = {"names": "{rat7: sub-07, rat8: sub-08_ses-1}", "sizes": "[1e-3, 2]"}
    arguments = [
        COMMAND,
        "run",
        "--config_file",
        str(path),
        *(x for key, text in words.items() for x in ("--" + key, text)),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    overrides = {key: DefaultParseValue(text) for key, text in words.items()}
    workflow_of_monai = ConfigWorkflow(str(path), workflow_type="infer", **overrides)
    workflow_of_monai.initialize()
    assert workflow_of_monai.parser.get_parsed_content("seen") == [
        {"rat7": "sub-07", "rat8": "sub-08_ses-1"},
        [1e-3, 2],
    ]
    monkeypatch.setattr(sys, "argv", [*arguments[:-3], "{rat7: sub-07", *arguments[-2:]])
    with pytest.raises(RuntimeError) as caught:
        ConfigWorkflow(str(path), workflow_type="infer", **(overrides | {"names": "{rat7: sub-07"})).initialize()
    assert "--names is '{rat7: sub-07'; wanted a list or mapping in YAML" in str(find_user_error(caught.value))


@pytest.mark.usefixtures("_as_library")
def test_a_program_that_uses_the_configs_keeps_its_own_errors_and_options():
    prepare_run()
    assert sys.excepthook is sys.__excepthook__


def test_a_mistake_is_not_logged_as_well():
    record = logging.LogRecord("ignite.engine", logging.ERROR, __file__, 1, "terminating", None, None)
    assert workflow._drop_user_errors(record)
    try:
        raise RuntimeError("applying transform") from UserError("damaged")
    except RuntimeError:
        assert not workflow._drop_user_errors(record)
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        assert workflow._drop_user_errors(record)


def test_scores_are_printed_in_one_line(tmp_path, capsys):
    scores = {"dice": 0.25, "dice_lambda_10": 0.5, "precision_lambda_10": 0.4, "recall_lambda_10": 0.6667}
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"total": scores | {"n_recordings": 3}}))
    print_scores(path)
    line = capsys.readouterr().out
    assert line.startswith("Dice 0.250 voxel exact, 0.500 within a tenth of the wavelength")
    assert "recall 0.667" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(("answer", "done"), [(1, True), (0, False), (None, False)])
def test_freed_memory_is_kept_where_glibc_can(monkeypatch, answer: int | None, done: bool) -> None:
    asked = []

    class Library:
        def __init__(self, name: str | None) -> None:
            if answer is not None:
                self.mallopt = lambda number, value: asked.append((number, value)) or answer

    monkeypatch.setattr(workflow.ctypes, "CDLL", Library)
    assert keep_freed_memory() is done
    if done:  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        assert asked == [(-3, 32 * 2**20), (-1, 2**31 - 1)]
