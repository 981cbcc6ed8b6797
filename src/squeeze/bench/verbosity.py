"""What makes a model's speed doubtful: more talk than the baseline's, above all; a GPU that was slowed down.

More talk lowers the time per token and earns nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from statistics import fmean, median, stdev

from squeeze.bench.stats import between, time_of_all, time_ratio
from squeeze.records import Clocks, Measurement, Pass, Question, Talk

WORDY = 1.25
"""So many times the baseline's tokens an answer are flagged, where the difference is no chance."""

ERRORS = 2.0
"""A difference of so many standard errors, of the differences by question, is no chance."""

EARNED = 0.02
"""So much of SpeedNorm that comes from longer answers alone is flagged, chance or not, wherever they are."""

SHARE = 0.05
"""So much larger a share of answers cut off, or ending in a loop, is flagged; two answers at least."""

SLOWED = 0.05
"""So large a share of the time in which heat or a failing supply held the GPU's clock down is flagged. The
power cap, which a large GPU meets whenever it is busy, is not: the baseline beside it meets it too."""

LOOP_TIMES, LOOP_LENGTH, UNIT_LENGTH, TAIL = 4, 40, 200, 2000
"""A loop: a text's end is a unit of 200 characters at most, 4 times or more, over 40 characters or more."""


def talk(measurement: Measurement, baseline: Measurement) -> dict[str, Talk]:
    """Benchmark -> how a model answers the questions that both were asked, beside the baseline."""
    found = {}
    for name, mine, others in _common(measurement, baseline):
        turns = sum(len(question.answers) for question in mine)
        times = measurement.passes, measurement.reference or baseline.passes
        found[name] = Talk(
            questions=len(mine),
            tokens_per_answer=sum(question.tokens for question in mine) / turns,
            baseline_tokens_per_answer=sum(question.tokens for question in others) / turns,
            truncated=fmean(question.truncated for question in mine),
            baseline_truncated=fmean(question.truncated for question in others),
            looping=fmean(map(loops, mine)),
            baseline_looping=fmean(map(loops, others)),
            seconds_per_token=_seconds_per_token(times[0], name),
            baseline_seconds_per_token=_seconds_per_token(times[1], name),
        )
    return found


def flags(measurement: Measurement, baseline: Measurement) -> tuple[str, ...]:
    """What makes a model's time per token doubtful, each in words with its figures; none for most models."""
    told = []
    answers = talk(measurement, baseline)
    for name, mine, others in _common(measurement, baseline):
        one = answers[name]
        more = [a.tokens - b.tokens for a, b in zip(mine, others, strict=True)]
        sure = len(more) > 1 and fmean(more) > ERRORS * stdev(more) / sqrt(len(more))
        if sure and one.tokens_per_answer > WORDY * one.baseline_tokens_per_answer:
            told.append(
                f"{name}: {one.tokens_per_answer:.1f} tokens an answer, "
                f"the baseline {one.baseline_tokens_per_answer:.1f}"
            )
        for what, share, base in (
            ("cut off at the limit", one.truncated, one.baseline_truncated),
            ("ending in a loop", one.looping, one.baseline_looping),
        ):
            if share - base > SHARE and round((share - base) * one.questions) >= 2:
                told.append(f"{name}: {share:.0%} of answers {what}, of the baseline's {base:.0%}")
    passes = measurement.passes, measurement.reference or baseline.passes
    of_all = time_of_all(*passes)
    a_token, *_ = time_ratio(*passes, between(measurement))
    if of_all - a_token > EARNED:
        told.append(
            f"in all: {of_all / a_token:.2f} times the baseline's tokens; the same questions take "
            f"{of_all:.3f} of its time, a token {a_token:.3f}"
        )
    return (*told, *slowed(measurement.clocks))


def slowed(clocks: Clocks | None) -> tuple[str, ...]:
    """What held the GPU's clock down, in words, where it was more than a moment."""
    if clocks is None:
        return ()
    least, _, most = clocks.sm_mhz
    return tuple(
        f"the GPU was slowed down in {share:.0%} of the time: {why.replace('_', ' ')}; "
        f"{least} to {most} MHz, {clocks.celsius} °C"
        for why, share in clocks.slowed.items()
        if why != "power_cap" and share > SLOWED
    )


def loops(question: Question) -> bool:
    """Whether some answer of it ends by repeating itself."""
    return any(map(ends_in_a_loop, question.answers))


def ends_in_a_loop(text: str) -> bool:
    """Whether a text's end repeats a unit; the last time may be cut off."""
    tail = text.strip()[-TAIL:][::-1]
    for length in range(1, min(UNIT_LENGTH, len(tail) // LOOP_TIMES) + 1):
        same = next(
            (place for place in range(len(tail) - length) if tail[place] != tail[place + length]),
            len(tail) - length,
        )
        if same + length >= max(LOOP_TIMES * length, LOOP_LENGTH):
            return True
    return False


def _common(
    measurement: Measurement, baseline: Measurement
) -> Iterator[tuple[str, Sequence[Question], Sequence[Question]]]:
    """Benchmark, the model's outcomes and the baseline's, of the questions that both were asked."""
    for name, questions in measurement.questions.items():
        theirs: Mapping[int, Question] = {one.index: one for one in baseline.questions.get(name, ())}
        mine = [question for question in questions if question.index in theirs]
        if mine:
            yield name, mine, [theirs[question.index] for question in mine]


def _seconds_per_token(passes: Sequence[Pass], benchmark: str) -> float:
    """The median over the passes."""
    timings = [one.timings[benchmark] for one in passes if benchmark in one.timings]
    return median(one.seconds / max(one.tokens, 1) for one in timings)
