"""What is said at the end of a run that failed, by the records that Snakemake logs."""

import logging
import os
from types import SimpleNamespace

import pytest

from lipdescent.jobs import folder_lock
from lipdescent.jobs.failures import KILLED, NEVER, Advice, Failures, reason


def record(message="", **extra):
    """One of Snakemake's, whose event is an enumeration."""
    found = logging.LogRecord("snakemake", logging.ERROR, "", 0, message, None, None)
    event = SimpleNamespace(value=extra.pop("event", "error"))
    vars(found).update(extra, event=event)
    return found


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = tmp_path / "results/s/logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path.relative_to(tmp_path))

    return write


TRACED = """began
Traceback (most recent call last):
  File "a.py", line 1, in b
    raise OSError("first")
OSError: first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in b
    raise ValueError("why: it failed")
a.b.ValueError: why: it failed
took 1.00 CPU s, 9 MB at most
"""


def test_failed_jobs_are_named_with_reason_log_and_command(logs):
    failed = Failures()
    run = "mnist1d/mlp/width=5/seeds=0-1"
    for number, rule, log in (
        (1, "train", logs(f"train/{run}", "epoch 3/9\n")),
        (2, "measure", logs(f"measure/{run}/metrics", TRACED)),
        (3, "train", logs("train/again", "")),
        (4, "figure", "results/s/logs/figure/none.log"),
    ):
        assert failed.filter(record(event="job_error", rule_name=rule, jobid=number, log=[log]))
    assert failed.filter(record(event="job_finished", job_id=3))  # it was tried again
    first, *rest, last = failed.lines("s", "snakemake --cores 1", {})
    assert first == "study s is not complete: 3 jobs failed; what is done stays"
    assert rest == [
        f"  train {run}: {KILLED}",
        f"    log: results/s/logs/train/{run}.log",
        f"  measure {run}/metrics: a.b.ValueError: why: it failed",
        f"    log: results/s/logs/measure/{run}/metrics.log",
        f"  figure none: {NEVER}",
        "    log: results/s/logs/figure/none.log",
    ]
    assert last.endswith("say the same again: snakemake --cores 1")


def test_of_many_failed_jobs_the_first_are_named(logs):
    failed = Failures()
    for number in range(8):
        log = logs(f"train/{number}", "")
        failed.filter(record(event="job_error", rule_name="train", jobid=number, log=[log]))
    lines = failed.lines("s", "snakemake", {})
    assert sum(line.startswith("  train ") for line in lines) == 5
    assert lines[-2] == "  and 3 more: make status STUDY=s names them"


def test_a_data_sets_option_is_told_as_its_key(logs):
    failed = Failures()
    said = "Traceback (most recent call last):\nFileNotFoundError: put a into b or say data_dir\n"
    log = logs("dataset/few+num_train=5", said)
    failed.filter(record(event="job_error", rule_name="dataset", jobid=1, log=[log]))
    told = "\n".join(failed.lines("s", "snakemake", {"few+num_train=5": "few"}))
    assert "put a into b or say datasets.few.data_dir" in told


def test_an_error_without_a_traceback_is_the_reason(logs):
    assert reason(logs("train/a", "error: too wide\ntook 1 CPU s\n")) == "too wide"


def test_who_holds_the_folder_is_told_in_place_of_snakemakes_advice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    advice, said = Advice("s"), record("remove it by --unlock", exception="LockException")
    assert advice.filter(said)
    assert said.getMessage() == f"not started: {Advice.BEGUN}"  # no note of an owner
    folder_lock.claim("s")
    assert advice.filter(said)
    told = said.getMessage()
    assert told.startswith("not started: study s is being computed in this folder by process ")
    assert str(os.getpid()) in told
    assert told.endswith("do not say --unlock")
    other = record("100 % wrong", exception="WorkflowError")
    assert advice.filter(other)
    assert other.getMessage() == "100 % wrong"


def test_a_target_that_the_study_does_not_have_is_told_in_our_words_alone():
    """As ``snakemake.exceptions.InputFunctionException`` writes them."""
    body = '\nWildcards:\n  study=s\nTraceback:\n  File "common.smk", line 9, in check'
    for kind, told in (
        ("WorkflowError", "not started: unknown figure 'a'\nknown: 100 %"),
        ("KeyError", ""),
    ):
        text = f"InputFunctionException in rule figure in file x, line 1:\nError:\n  {kind}:\n"
        text += "    unknown figure 'a'\n    known: 100 %" + body
        said = record(text, exception="InputFunctionException")
        assert Advice("s").filter(said)
        assert said.getMessage() == (told or text)
