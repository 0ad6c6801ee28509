"""Sentences of the report, each computed from a run's numbers; strong words and code are marked as in Markdown."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

from bnas.data.split_rows import counted
from bnas.records.networks import LinearBaseline, RetrainedNetwork, Role
from bnas.records.search import ErrorKind
from bnas.report.formats import code, kib, literal, percent
from bnas.report.indicators import (
    Estimate,
    GenerationIndicators,
    family_hypervolume,
    fidelity,
    loss_by_origin,
    supernet_worth,
)
from bnas.report.paired import Interval, PairedTest, relative_improvement
from bnas.report.results import STAGE_NAMES, Retrained, Run
from bnas.search.pareto import guessing_error, wilson_interval

_SIGNIFICANT = 0.05
KINDS = {"plain": "", "balanced": "balanced "}
"""Kind of error → the word before "error"."""
_ERRORS = {"plain": "error", "balanced": "balanced error (the mean of the errors within each class)"}
_RESOURCES = {
    "size": "the size of the finished network,",
    "ops": "the operations of the finished network; sizes go",
    "ram": "the working memory of the packed network; sizes go",
    "latency": "the time of one image in the packed network; sizes go",
}


def _image_shape(run: Retrained) -> str:
    image = run.dataset.image
    return f"{image.height}×{image.width}×{image.channels}"


def searched(run: Run) -> str:
    """The search in words: space, images, objectives, method."""
    data, genotype, counts, space = run.dataset, run.front.members[0].genotype, run.dataset.counts, run.space
    return (
        f"Searched: architectures of space `{genotype.space}` with {genotype.nodes} nodes a cell, for "
        f"{len(data.classes)} classes of {_image_shape(run)} images ({literal(data.title)}: {counts.train} to train "
        f"on, {counts.validation} to score architectures, {counts.test} to test the finished networks once). Two "
        f"objectives: {_ERRORS[run.error]}, and {_RESOURCES[run.resource]} from "
        f"{kib(space.smallest_bytes)} to {kib(space.largest_bytes)} KiB (1 KiB = 1024 bytes) in this space. "
        "Method: two-stage multi-objective search for binary networks (Tan et al. 2026)."
    )


def transferred(run: Retrained, source: str, handed: int) -> str:
    """The transfer in words; `source` names the file of the front, which has `handed` members."""
    data, first = run.dataset, run.of_role("front")[0]
    return (
        f"Transferred: {len(run.of_role('front'))} of the {handed} architectures of {code(source)}, the front of a "
        f"search on other images, as networks of {first.cells} cells and {first.channels} channels. Their weights were "
        f"trained from scratch on {literal(data.title)}: {len(data.classes)} classes of {_image_shape(run)} images, "
        f"{data.counts.train + data.counts.validation} to train on, {data.counts.test} to test each finished network "
        f"once. Sizes in the space of the search are from {kib(run.space.smallest_bytes)} to "
        f"{kib(run.space.largest_bytes)} KiB (1 KiB = 1024 bytes) at this depth and width. Files named here lie in "
        "`transfer/`. No supernet was trained on these images: there are no supernet errors, so no Kendall τ of them "
        "and the test errors, and no generations to show. What was searched, and how, is in the report of the search."
    )


def tested(network: RetrainedNetwork) -> str:
    """A network with its size and its test error."""
    low, high = wilson_interval(network.wrong, network.test_images)
    return (
        f"{network.name}, {kib(network.size_bytes)} KiB, {percent(network.test_error)} % test error "
        f"(95 % interval {percent(low)}–{percent(high)} %)"
    )


def optimistic_note(networks: Sequence[RetrainedNetwork], kind: ErrorKind = "plain") -> str:
    """The note beside a network that was picked by its test error of a kind."""
    count = sum(network.role == "front" for network in networks)
    if count == 1:
        return "the only network of the front, so not chosen by the test split"
    return f"lowest {KINDS[kind]}test error of {count} networks: optimistic, chosen by the test split"


def class_sentences(run: Retrained) -> list[str]:
    """Sizes of the classes, the error of always naming the largest one, and whether the best network has a lower one.

    Empty where the classes are even and the best network has.
    """
    counts, said = run.class_counts, []
    classes = list(map(literal, run.dataset.classes))
    largest = classes[int(counts.argmax())]
    if run.shows_balanced:
        best = min(run.of_role("front"), key=lambda network: (run.balanced_error(network), network.size_bytes))
        said.append(
            f"Test images by class: {counted(classes, counts)}. Always naming the largest, "
            f"{largest}, is {percent(guessing_error(run.labels))} % test error and "
            f"{percent(guessing_error(run.labels, balanced=True))} % balanced error (the mean of the errors "
            f"within each class). Lowest balanced error: {best.name}, {percent(run.balanced_error(best))} %."
        )
    reached = run.error_of(run.best)
    bound = guessing_error(run.labels, balanced=run.error == "balanced")
    if reached > bound - 1e-9:  # not better, whatever the rounding
        said.append(
            f"**No network of the front is better than always naming one class, {largest}: {percent(reached)} % "
            f"{KINDS[run.error]}test error against {percent(bound)} %.**"
        )
    return said


def rounding(networks: Sequence[RetrainedNetwork]) -> str:
    """Answers that rounding to the files changed, over all networks; "" if nothing was rounded."""
    rounded = [network.rounded for network in networks if network.rounded]
    if not rounded:
        return ""
    total = reduce(operator.add, rounded)
    return f"Errors are those of the files: numbers were rounded after training, before the test. {total.sentence}. "


def linear_note(linear: LinearBaseline, networks: Sequence[RetrainedNetwork]) -> str:
    """The error of a linear classifier on the same images, and how many networks are clearly better.

    Clearly: the whole 95 % interval of the network's test error lies below that of the linear classifier's.
    """
    low, high = wilson_interval(linear.wrong, linear.test_images)
    better = sum(wilson_interval(n.wrong, n.test_images)[1] < low for n in networks)
    count = f"All {len(networks)}" if better == len(networks) else f"{better} of {len(networks)}"
    return (
        f"A linear classifier on the pixels, trained on the same images under the same recipe: "
        f"{percent(linear.test_error)} % test error (95 % interval {percent(low)}–{percent(high)} %). "
        f"{count} networks lie below it with their whole intervals."
    )


def worth(run: Retrained, difference: Interval | None) -> str:
    """The worth of the search in one sentence: the front's mean test error against that of random networks."""
    if difference is None:
        return "What the search was worth is not known: no random networks of the same sizes were trained."
    front = sum(run.error_of(first) for first, _ in run.matched) / len(run.matched)
    gap, other = 100 * difference.observed, front - difference.observed
    side = "as often as" if not gap else f"by {abs(gap):.2f} points {'less' if gap < 0 else '**more**'} often than"
    relative = relative_improvement(run)
    compared = (
        f"**What the search was worth:** its networks are wrong {side} random networks of the same sizes "
        f"({percent(front)} % against {percent(other)} % mean {KINDS[run.error]}test error; 95 % interval of the "
        f"difference {100 * difference.low:+.2f} to {100 * difference.high:+.2f} points"
        f"{'' if math.isnan(relative) else f'; accuracy {relative:+.2f} % relative'})"
    )
    if not difference.excludes_zero:
        return f"{compared}: within what {run.dataset.counts.test} test images can tell, so no difference is proven."
    return f"{compared}, outside the test split's uncertainty."


def verdict(difference: Interval | None, images: int) -> str:
    """The front's hypervolume against that of random networks, and whether this test split tells them apart."""
    if difference is None:
        return "No size-matched random networks were trained: nothing to compare the front with."
    gap = difference.observed
    side = "equal to" if not gap else f"{abs(gap):.4f} {'above' if gap > 0 else '**below**'}"
    limits = f"95 % bootstrap interval of the difference {difference.low:+.4f} to {difference.high:+.4f}"
    seen = f"The retrained front's hypervolume is {side} that of the size-matched random networks ({limits}): "
    if not difference.excludes_zero:
        return f"{seen}within what {images} test images can tell, so no difference is proven."
    winner = "beats the random networks" if difference.low > 0 else "is beaten by the random networks"
    return f"{seen}outside the test split's uncertainty, the front {winner}."


def pair_sentence(tests: Sequence[PairedTest]) -> str:
    """How many pairs went which way, and how many of them the test images tell apart."""
    better = sum(test.difference < 0 for test in tests)
    worse = sum(test.difference > 0 for test in tests)
    apart = sum(test.p_value < _SIGNIFICANT for test in tests)
    return (
        f"Of {len(tests)} pairs the front network is better in {better}, worse in {worse}, equal in "
        f"{len(tests) - better - worse}; {apart} differ at p < {_SIGNIFICANT} (not corrected for "
        f"{len(tests)} comparisons)."
    )


def other_sentences(run: Retrained) -> list[str]:
    """Those designed by hand and published: networks of the front that dominate each, and hypervolumes."""
    front, sentences = run.of_role("front"), []
    titles: dict[Role, str] = {"hand": "Designed by hand", "published": "Published elsewhere, trained here"}
    for role, title in titles.items():
        family = run.of_role(role)
        if not family:
            continue
        said = []
        for network in family:
            better = [n for n in front if n.size_bytes <= network.size_bytes and n.test_error <= network.test_error]
            better = [n for n in better if (n.size_bytes, n.test_error) != (network.size_bytes, network.test_error)]
            names = ", ".join(n.name for n in better) or "no network of the front"
            size, error = kib(network.size_bytes), percent(network.test_error)
            said.append(f"{network.name} ({size} KiB, {error} %): dominated by {names}.")
        ours, theirs = (f"{family_hypervolume(run, networks):.4f}" for networks in (front, family))
        sentences.append(
            f"{title}: {' '.join(said)} Hypervolume of these {len(family)}: {theirs}, of the front: {ours}."
        )
    return sentences


def course_sentences(rows: Sequence[GenerationIndicators]) -> list[str]:
    """Hypervolume and size coverage over the generations, in words."""
    first, last = rows[0], rows[-1]
    sentences = [
        f"As scored then, the front's hypervolume went from {first.hypervolume:.3f} to "
        f"{last.hypervolume:.3f}: better architectures and better-trained shared weights together."
    ]
    values = [row.rescored_hypervolume for row in rows]
    if not any(map(math.isnan, values)):
        ends = [row for row, following in pairwise(rows) if row.stage != following.stage]
        way = "".join(f", {row.rescored_hypervolume:.3f} at the end of {STAGE_NAMES[row.stage]}" for row in ends)
        rises = sum(after > before for before, after in pairwise(values))
        best = rows[values.index(max(values))]
        change = "higher" if values[-1] > values[0] else "lower" if values[-1] < values[0] else "no different"
        sentences.append(
            "Scored again with the final supernet, which leaves the architectures only, it was "
            f"{values[0]:.3f} in generation {first.generation}{way}, {values[-1]:.3f} in the last, "
            f"generation {last.generation}: {change} in the end than at the start. It rose in {rises} of "
            f"{len(rows) - 1} steps; its maximum {max(values):.3f} was in generation {best.generation}."
        )
    narrowest = min(rows, key=lambda row: row.population_coverage)
    sentences.append(
        f"Size coverage of the whole population went from {first.population_coverage:.2f} to "
        f"{last.population_coverage:.2f}, lowest {narrowest.population_coverage:.2f} in generation "
        f"{narrowest.generation} ({STAGE_NAMES[narrowest.stage]}); of its front, as scored then, from "
        f"{first.size_coverage:.2f} to {last.size_coverage:.2f}."
    )
    return sentences


def parameter_free_sentence(run: Run, rows: Sequence[GenerationIndicators]) -> str:
    """The share of operations without weights in the population and in the front, in words."""
    highest = max(rows, key=lambda row: row.parameter_free_share)
    members = run.front.members
    share = sum(member.genotype.parameter_free_share for member in members) / len(members)
    return (
        "Share of parameter-free operations (skip, pooling), which fill the cells of a search caught in the "
        f"small-model trap (Tan et al. 2026): {100 * rows[0].parameter_free_share:.0f} % of the population "
        f"in generation {rows[0].generation}, {100 * rows[-1].parameter_free_share:.0f} % in the last, at "
        f"most {100 * highest.parameter_free_share:.0f} % in generation {highest.generation}; "
        f"{100 * share:.0f} % of the search's front."
    )


def fidelity_sentences(run: Run) -> list[str]:
    """The rank correlation of supernet errors, and of the trial's estimates, with test errors, in words."""
    names: dict[Estimate, str] = {"supernet_error": "validation error in the supernet"}
    if any(network.trial_estimate is not None for network in run.networks):
        names["trial_estimate"] = "the trial's estimate"
    sentences = []
    for estimate, name in names.items():
        tau = fidelity(run, estimate)
        value = "is undefined here" if math.isnan(tau) else f"is **{tau:.3f}**"
        sentences.append(
            f"Kendall τ-b between {name} and test error after retraining, over front and random networks, {value}."
        )
    return [
        *sentences,
        "τ is 1 for the same order and 0 for none. Size alone raises it where error falls with size, and so does an "
        "estimate that chose the front.",
    ]


def trial_sentences(run: Run) -> list[str]:
    """The trainings of the trial, and the supernet's rank correlation with them, in words."""
    if not run.trial:
        return ["No network was trained for a while: the search's front was retrained as it was."]
    epochs = sorted({network.epochs for network in run.trial})
    counts = [(sum(n.epochs == each for n in run.trial), each) for each in epochs]
    trained = ", then ".join(f"{count} for {each} epoch{'s' * (each > 1)}" for count, each in counts)
    sentences = [
        f"Trained from scratch on the train split: {trained}. The estimate, in nats of training loss, lies between "
        "a network's own loss and what a regression over all of them expects (`trial.own_share`)."
    ]
    everywhere, equal = supernet_worth(run)
    if not math.isnan(everywhere):
        at = "undefined" if math.isnan(equal) else f"{equal:.2f}"
        sentences.append(
            f"What the supernet's score was worth: its Kendall τ-b with the loss of {epochs[0]} epoch"
            f"{'s' * (epochs[0] > 1)} of honest training is {everywhere:.2f} over all sizes, {at} within "
            f"{run.trial_bins} bins of equal size."
        )
    excess = loss_by_origin(run)
    if len(excess) > 1:
        names = {"search": "what the search found best", "offspring": "offspring", "random": "random networks"}
        later = " Random ones after the first population are chosen as offspring are." if "offspring" in excess else ""
        means = "; ".join(f"{names[origin]}: {mean:+.3f}" for origin, mean in sorted(excess.items()))
        sentences.append(
            "What networks were worth by where they are from, as the mean of their losses above what is usual at their "
            f"size, in nats (less is better): {means}.{later}"
        )
    return sentences


def schedule_sentence(run: Run) -> str:
    """The images that scoring on mini-batches saved, and how its scores agree with those on the whole split."""
    summary = run.summary
    spent, full = summary.image_evaluations, summary.image_evaluations_full
    saved = f"{100 * (1 - spent / full):.0f} % saved" if spent < full else "nothing saved"
    agreement = (
        "could not be compared (τ-b is undefined)"
        if summary.schedule_tau is None
        else f"agreed with scores on the whole split by a Kendall τ-b of {summary.schedule_tau:.3f}"
    )
    return (
        f"Mini-batches in the frozen search: {spent:,} images scored, where the whole validation "
        f"split for every architecture would have been {full:,} ({saved}). The scores {agreement}."
    )


def latency_check(run: Run) -> list[str]:
    """One sentence on the table that latencies were added up from, where the search minimised them."""
    if run.latency_correlation is None:
        return []
    return [
        f"Latencies were added up from a table of operations; sums correlate with measured whole networks by "
        f"{run.latency_correlation:.3f}"
        + ("." if run.latency_correlation >= 0.9 else ": **less than the 0.9 expected; measure the table again**.")
    ]
