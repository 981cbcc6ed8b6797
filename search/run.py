"""Search compression configurations of a model for the best Score; start it again to go on.

--trials counts the finished (complete or pruned) trials of the study: the same command goes on. When there
are so many, the leading ones are measured again before one is called best.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.cli import CACHE_GIB, add_judge_options, command_parser, natural, positive, run_command, share
from squeeze.errors import SetupError

if TYPE_CHECKING:
    import optuna

    from search.progress import Progress
    from search.settle import Past
    from search.trial import Plan
    from search.workers import Reaper
    from squeeze.bench.measure import Bench

SAMPLERS = ("ours", "tpe", "gp", "random", "brute")
"""Our model of quality and speed apart; Optuna's tree-structured Parzen estimator; its Gaussian process;
random; every configuration in turn. All but the last begin with the space's recipes and try nothing twice;
``search.replay``, by the same words, has Optuna's as they are."""

POLL_S = 5.0
"""How often a worker looks whether another one has ended, when there is nothing else to do."""

FAILURES_IN_A_ROW = 3
"""So many failures of the machine, one after the other, end the search; see ``search.retries.Streak``."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = command_parser(
        __doc__ or "", "python -m search.run --trials 40 --model models/base/EXAONE-4.0-1.2B"
    )
    options.add_argument("--trials", type=positive, required=True, help="finished trials wanted in the study")
    options.add_argument(
        "--study", help="its name (default: demo for the embedded model, exaone for another)"
    )
    options.add_argument("--model", help="a model folder or a hub id (default: the embedded model)")
    options.add_argument(
        "--data", help="a folder of data sets, or hub (default: hub; the embedded model's own)"
    )
    options.add_argument(
        "--workload",
        metavar="NAME|FILE",
        help="contest, quick, decode, demo or a YAML file (default: as the model)",
    )
    add_judge_options(options)
    options.add_argument("--space", default="recover", help="what may be tried: a module of spaces/")
    options.add_argument("--objective", default="competition", help="what is good: a module of objectives/")
    options.add_argument("--storage", help="a database URL (default: sqlite:///studies/<study>.db)")
    options.add_argument("--seed", type=int, default=42, help="of the sampler (default: 42)")
    options.add_argument(
        "--sampler",
        default="ours",
        choices=SAMPLERS,
        help="what proposes trials after the recipes: our model of quality and speed apart, Optuna's TPE or "
        "GP, random, or every configuration in turn (default: ours)",
    )
    options.add_argument(
        "--audit",
        type=share,
        default=0.07,
        help="share of prunes that are measured to the end all the same, to see how many are wrong; 1 prunes "
        "nothing (default: 0.07)",
    )
    options.add_argument(
        "--cache-gib",
        type=natural,
        default=CACHE_GIB,
        help="disk for outputs of stages and states of trainings, to be found again; 0: none "
        f"(default: {CACHE_GIB})",
    )
    options.add_argument(
        "--finalists",
        type=natural,
        default=3,
        help="how many leading trials, of those whose models are kept, are measured again before one is "
        "called best, as far as their intervals leave open which; 0: none (default: 3)",
    )
    options.add_argument("--timeout", type=positive, help="begin nothing new after so many seconds")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    arguments = parser().parse_args(argv)

    # Late, so that --help answers at once.
    from search.finalists import confirm
    from search.prepare import open_search
    from search.progress import Progress
    from search.records import standing
    from search.settle import Past, better_elsewhere, catch_up
    from search.show import best_told, closing_lines, print_table
    from search.storage import told_in_a_line
    from search.study import alone, finished, this_worker
    from search.workers import Reaper

    ends = time.monotonic() + arguments.timeout if arguments.timeout else float("inf")
    search = open_search(arguments)
    with alone(search.name), told_in_a_line():
        past = Past.load(search.study, search.mirror)
        reaper = Reaper(search.study, this_worker(search.name))
        again = catch_up(search.study, search.mirror, past, reaper)
        progress = Progress(search.name, arguments.trials, finished(search.study), past.best)
        _say_again(progress, again)
        if progress.done < arguments.trials:
            with progress.live(), search.measuring(progress) as (plan, bench):
                _loop(arguments, ends, search.study, search.mirror, past, reaper, plan, bench, progress)
            progress.done = finished(search.study)
        if progress.done >= arguments.trials:
            confirm(search, past.records, progress, arguments.finalists, ends)
        elsewhere = better_elsewhere(search.study, past.records)
    print_table(past.records, standing(past.records), sys.stdout)
    for line in (*closing_lines(past.records), *filter(None, (best_told(past.records), elsewhere))):
        print(line, file=sys.stderr)
    return 0


def _loop(
    arguments: argparse.Namespace,
    ends: float,
    study: optuna.Study,
    mirror: optuna.Study,
    past: Past,
    reaper: Reaper,
    plan: Plan,
    bench: Bench,
    progress: Progress,
) -> None:
    """Run trials until enough are finished or the monotonic clock is at ``ends``."""
    from optuna.exceptions import UpdateFinishedTrialError

    from search.abandon import leave
    from search.keep import needed_outputs
    from search.propose import next_trial
    from search.records import has_record, set_aside
    from search.retries import Streak
    from search.settle import given_up, gives_up, reap, settle
    from search.study import finished
    from search.trial import run_trial
    from search.workers import beating
    from squeeze.failures import is_full
    from squeeze.folder import content_key

    streak = Streak()
    while (done := finished(study)) < arguments.trials and time.monotonic() < ends:
        _say_again(progress, reap(study, past, reaper))
        if elsewhere := len(reaper.running()):
            progress.done = done
            if done + elsewhere >= arguments.trials:
                progress.begin("wait for trials of other workers")
                time.sleep(POLL_S)
                continue
        trial = next_trial(study, plan.space, plan.target, arguments.sampler, arguments.seed, reaper.me)
        progress.begin(f"trial {trial.number}")
        set_aside(study.study_name)
        deadly = gives_up(trial)
        try:
            with beating(study, trial):
                if deadly:
                    record = given_up(trial, plan.space, plan.target)
                else:
                    record = run_trial(trial, plan, bench, progress)
        except UpdateFinishedTrialError:
            _given_up(progress, trial.number)
            continue
        except BaseException as error:
            leave(study, trial.number, error)
            raise
        try:
            try:
                kept = settle(study, mirror, past, record)
            except SetupError as error:
                if plan.cache is None or not is_full(error):
                    raise
                plan.cache.shrink(0)  # it is measured: its record is worth more than what can be made again
                kept = settle(study, mirror, past, record)
        except BaseException as error:
            if not has_record(study.study_name, trial.number):
                leave(study, trial.number, error)
            raise
        if not kept:
            _given_up(progress, trial.number)
            continue
        if plan.cache is not None:
            plan.cache.need(study.study_name, needed_outputs(past.best, content_key(plan.base), plan.data))
            plan.cache.shrink(arguments.cache_gib << 30)
        progress.finish(record, finished(study))
        if deadly:  # long ago
            continue
        failed = streak.add(study.get_trials(deepcopy=False)[record.number], record.config.key)
        if failed >= FAILURES_IN_A_ROW:
            raise SetupError(
                f"{failed} trials in a row failed for reasons of the machine, the last: "
                f"{record.reason}; mend that and run the same command again"
            )


def _given_up(progress: Progress, number: int) -> None:
    """Forget a trial that another worker has failed and queued again."""
    from search.records import forget_trial

    forget_trial(progress.study, number)
    progress.say(f"trial {number} was given up by another worker, which no heartbeats reached in time")


def _say_again(progress: Progress, queued: Sequence[int]) -> None:
    if queued:
        progress.say(f"queued again, cut off: trial {', '.join(map(str, queued))}")


if __name__ == "__main__":
    run_command(main)
