"""What the terminal shows of a run."""

import io
import logging
from collections import Counter
from types import SimpleNamespace

import pytest

from lipdescent.jobs import console
from lipdescent.study import ending


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


def record(event, text="", **extra):
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, text, (), None)
    made.event = SimpleNamespace(value=event) if event else None
    made.__dict__.update(extra)
    return made


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def shown(clock):
    wanted = console.plan(["train"] * 2 + ["measure"] * 4 + ["figure", "table", "all"])
    return console.Console("some", wanted, io.StringIO(), at_once=2, clock=clock)


def job(shown, clock, number, rule, *, seconds, log="results/some/logs/train/d/a/width=4.log"):
    assert not shown.filter(record("job_info", jobid=number, rule_name=rule, log=[log]))
    clock.now += seconds
    assert not shown.filter(record("job_finished", job_id=number))


def test_jobs_are_counted_by_what_they_make_and_the_time_left_is_their_mean(shown, clock):
    assert (
        shown.stages() == "stacks trained 0/2, measurements 0/4, figures 0/1, tables and pages 0/1"
    )
    job(shown, clock, 1, "train", seconds=10)
    assert shown.seconds_left() is None  # no measurement has ended
    job(shown, clock, 2, "measure", seconds=4)
    assert shown.seconds_left() == (10 + 3 * 4) / 2
    assert shown.summary() == "2 of 8 jobs in 14 s, about 11 s left"
    assert shown.stages().startswith("stacks trained 1/2, measurements 1/4")


def test_plain_lines_are_few(shown, clock):
    for number in range(4):
        job(shown, clock, number, "measure", seconds=2)
    lines = shown.stream.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("3 of 8 jobs in 6 s; stacks trained 0/2, measurements 3/4")


def test_the_targets_own_job_is_not_counted(shown, clock):
    job(shown, clock, 0, "all", seconds=1)
    assert shown.done == Counter()


def test_errors_and_warnings_pass_until_the_user_stops(shown):
    assert shown.filter(record(None, "something is wrong"))
    assert shown.filter(record("job_error", "failed"))
    assert not shown.filter(record("run_info", "Job stats:"))
    assert not shown.filter(record(None, "Terminating processes on user request, this might ..."))
    assert shown.interrupted
    assert not shown.filter(record("job_error", "failed"))


def test_the_view_fits_the_screen_and_says_what_a_job_says(shown, clock, tmp_path):
    log = tmp_path / "logs/train/mnist1d/mlp/width=64/seeds=0-5.log"
    log.parent.mkdir(parents=True)
    log.write_text("first\nepoch 3/500, 6 models" + "!" * 200 + "\n")
    for number in range(9):
        shown.filter(record("job_info", jobid=number, rule_name="train", log=[str(log)]))
    lines = shown.lines(80)
    assert len(lines) == 2 + console.SHOWN_JOBS
    assert max(map(len, lines)) < 80
    assert lines[2].startswith("  train mnist1d/mlp/width=64/seeds=0-5 epoch 3/500")


def test_the_view_is_taken_away_before_something_else_is_shown(clock):
    shown = console.Console("some", Counter(train=1), io.StringIO(), live=True, clock=clock)
    shown._drawn = 3
    shown.filter(record("job_error", "failed"))
    assert shown.stream.getvalue() == "\x1b[3F\x1b[J"
    shown.stop()
    assert shown.stream.getvalue() == "\x1b[3F\x1b[J"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert console.spell(seconds) == text


def test_the_end_names_a_page_that_the_run_saw_to():
    assert ending.where("results/s", {"results/s/report.html"}).startswith(
        "start at results/s/report.html"
    )
    told = ending.where("results/s", {"results/s/table.parquet"})
    assert "start at" not in told
    assert "without a target the whole study is made, with results/s/report.html" in told


def test_the_end_says_the_answers_and_what_diverged(tmp_path):
    assert ending.in_short(tmp_path) == []
    (tmp_path / "findings.json").write_text(
        """{"groups": [{"dataset": "d", "architecture": "a", "num_diverged": 2, "num_models": 9,
        "in_short": [{"text": "It peaks.", "badges": ["proved", "seen"]}]}]}"""
    )
    assert ending.in_short(tmp_path) == [
        "d, a, in short:",
        "  - It peaks. (proved, seen)",
        "d, a: 2 of 9 networks diverged",
    ]
