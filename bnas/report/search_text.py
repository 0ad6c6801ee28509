"""The report's text: what was searched, what came of it, how sure one can be. Every sentence is computed.

Pictures are named here, with the words for those who cannot see them; the caller draws and saves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pandas as pd

from bnas.records.networks import ROLES, RetrainedNetwork
from bnas.report.analysis import (
    RESAMPLES,
    STAGE_NAMES,
    GenerationIndicators,
    Interval,
    PairedTest,
    Retrained,
    Run,
    best_by_test,
    coverage,
    fidelity,
    generation_indicators,
    hypervolume_difference,
    network_coverage,
    network_hypervolume,
    pair_agreement,
    paired_test,
)
from bnas.report.cell_drawing import cell_words
from bnas.report.tables import (
    OPTIMISTIC_MARK,
    duration,
    linear_note,
    markdown_table,
    network_table,
    optimistic_note,
    packed_table,
    test_interval,
)
from bnas.report.text import kib, percent

STAGES = ("prepare", "latency_table", "stage1", "stage2", "search", "retrain", "export")
_SIGNIFICANT = 0.05

Picture = Callable[[str, str], str]
"""File name without suffix and alternative text → a picture in Markdown."""


_RESOURCES = {
    "size": "the size of the finished network,",
    "ops": "the operations of the finished network; sizes go",
    "latency": "the time of one image in the packed network; sizes go",
}


def report_markdown(run: Run, bins: int, suffix: str, parameters: str) -> str:
    """The report. `bins` are those of size coverage, `suffix` the pictures' (svg, png), `parameters` YAML."""

    def picture(name: str, words: str) -> str:
        return f"![{words}](figures/{name}.{suffix})"

    difference = hypervolume_difference(run)
    rows = generation_indicators(run, bins)
    sections = [
        [f"# A family of binary networks for {run.dataset.title}", _searched(run)],
        ["## In short", _summary(run, difference)],
        ["## Finished networks", *networks_section(run), *_front(run, picture("front", _FRONT_WORDS))],
        ["## Files to ship", *files_section(run, picture)],
        ["## Against random networks of the same size", *random_section(run, bins, difference)],
        [
            "## The cells",
            CELLS,
            *(picture(cells_name(n), f"Cells of {n.name}. {cell_words(n.genotype)}") for n in run.of_role("front")),
        ],
        ["## The course of the search", *_course(run, rows, picture)],
        ["## Does the supernet rank architectures rightly?", *_fidelity(run, picture)],
        ["## Training", *_training(picture)],
        ["## What it cost", *_cost(run)],
        ["## To be kept in mind", _notes(run, bins)],
        ["## Parameters", f"```yaml\n{parameters.strip()}\n```"],
    ]
    return "\n\n".join(block for section in sections for block in section) + "\n"


def cells_name(network: RetrainedNetwork) -> str:
    """File name, without suffix, of the picture of a network's cells."""
    return f"cells-{network.name}"


_FRONT_WORDS = (
    "Two plots of error over size. Left: the front of the search, in the supernet. Right: test error of the "
    "retrained front, of random networks of the same sizes and of hand-designed ones, with 95 % intervals."
)
CELLS = (
    "Left the outputs of the two cells before; a node (circle) adds two operations; right the output, all "
    "nodes concatenated. Operations without weights are pale. The reduction cell halves the image."
)


def _searched(run: Run) -> str:
    data, genotype = run.dataset, run.front.members[0].genotype
    shape = f"{data.image.height}×{data.image.width}×{data.image.channels}"
    counts, space = data.counts, run.space
    return (
        f"Searched: architectures of space `{genotype.space}` with {genotype.nodes} nodes a cell, for "
        f"{len(data.classes)} classes of {shape} images ({data.title}: {counts.train} to train on, "
        f"{counts.validation} to score architectures, {counts.test} to test the finished networks once). Two "
        f"objectives: error, and {_RESOURCES[run.resource]} from "
        f"{kib(space.smallest_bytes)} to {kib(space.largest_bytes)} KiB (1 KiB = 1024 bytes) in this space. "
        "Method: two-stage multi-objective search for binary networks (Tan et al. 2026)."
    )


def _summary(run: Run, difference: Interval | None) -> str:
    front = run.of_role("front")
    best, smallest, largest = best_by_test(front), front[0], front[-1]
    assert best is not None  # `Run` refuses to be without a front network
    scored = [network for network in front if network.supernet_error is not None]
    lines = [
        f"Networks retrained from the front: {len(front)}, from {kib(smallest.size_bytes)} to "
        f"{kib(largest.size_bytes)} KiB (a factor of {largest.size_bytes / smallest.size_bytes:.1f}), all "
        f"from one search over {run.summary.evaluations:,} distinct architectures.",
        f"{tested(best)}: **{optimistic_note(front)}**.",
        f"{tested(smallest)}: the smallest.",
    ]
    if scored:
        pick = min(scored, key=lambda network: (network.supernet_error, network.size_bytes))
        lines.append(f"{tested(pick)}: the lowest validation error in the supernet, so picked without the test split.")
    lines.append(verdict(difference, run.dataset.counts.test))
    return "\n".join(f"- {line}" for line in lines)


def tested(network: RetrainedNetwork) -> str:
    """A network with its size and its test error."""
    return (
        f"{network.name}, {kib(network.size_bytes)} KiB, {percent(network.test_error)} % test error "
        f"(95 % interval {test_interval(network)} %)"
    )


def verdict(difference: Interval | None, images: int) -> str:
    """In plain words: is the front better than random networks, and can this test split tell?"""
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


def networks_section(run: Retrained) -> list[str]:
    """The table of networks, and what has to be known to read it."""
    supernet = (
        " The supernet's error is measured on validation images with shared weights and ranks architectures; it does "
        "not forecast the test error."
        if any(network.supernet_error is not None for network in run.networks)
        else ""
    )
    return [
        network_table(run.networks, run.network_seconds),
        f"{OPTIMISTIC_MARK} {optimistic_note(run.networks)}. OPs = FLOPs + BOPs/64, in millions of "
        f"multiply-accumulates; intervals are Wilson's, for {run.dataset.counts.test} test images; random "
        "networks were matched in size to the front network of the same number; all networks had the same "
        f"recipe and {run.networks[0].epochs} epochs.{supernet}",
        *([linear_note(run.linear, run.networks)] if run.linear else []),
    ]


def _front(run: Run, picture: str) -> list[str]:
    return [picture, *other_sentences(run)]


def other_sentences(run: Retrained) -> list[str]:
    """Whether networks of the front dominate those designed by hand and published; empty without such."""
    front = run.of_role("front")
    others: dict[str, list[str]] = {"hand": [], "published": []}
    for network in run.of_role("hand", "published"):
        better = [n for n in front if n.size_bytes <= network.size_bytes and n.test_error <= network.test_error]
        better = [n for n in better if (n.size_bytes, n.test_error) != (network.size_bytes, network.test_error)]
        names = ", ".join(n.name for n in better)
        found = f"dominated by {names}" if better else "dominated by no network of the front"
        others[network.role].append(
            f"{network.name} ({kib(network.size_bytes)} KiB, {percent(network.test_error)} %): {found}."
        )
    titles = {"hand": "Designed by hand", "published": "Published elsewhere, trained here"}
    return [f"{titles[role]}: {' '.join(found)}" for role, found in others.items() if found]


def files_section(run: Retrained, picture: Picture) -> list[str]:
    """The packed files: bytes, agreement with PyTorch, times."""
    if not run.packed:
        return ["No packed files were found."]
    deviating = sum(packed.file.deviating for packed in run.packed.values())
    text = (
        "Every network as a packed file (`data/export/<name>.bnn`): one bit for each binary weight. Bytes counted by "
        "formula, stored, and of the header that describes the network. Packed logits are PyTorch's within rounding "
        f"on all test images but {deviating} (of {run.dataset.counts.test * len(run.packed):,} over all networks), "
        "where a value before a sign lies within rounding of its threshold. Times are of the packed runtime and of "
        "PyTorch eager on the machine of the run, all cores: another machine has others."
    )
    networks = run.of_role(*ROLES)
    blocks = [text, packed_table(networks, run.packed)]
    if any(packed.latency for packed in run.packed.values()):
        blocks.append(picture("latency", "Test error over the time of one image in the packed runtime, by role."))
    return blocks


def random_section(run: Retrained, bins: int, difference: Interval | None) -> list[str]:
    """The front against random networks of its sizes, on the same test images."""
    sentence = verdict(difference, run.dataset.counts.test)
    if difference is None:
        return [sentence]
    space = run.space
    sides = zip(("front", "random"), zip(*run.pairs, strict=True), strict=True)
    table = pd.DataFrame(
        {
            "": name,
            "networks": str(len(side)),
            "hypervolume": f"{network_hypervolume(side, space):.4f}",
            f"size coverage ({bins} bins)": f"{network_coverage(side, space, bins):.2f}",
            "mean test error, %": percent(sum(n.test_error for n in side) / len(side)),
        }
        for name, side in sides
    )
    tests = [paired_test(run, first.name, second.name) for first, second in run.pairs]
    return [
        markdown_table(table, left=("",)),
        "Equal counts on both sides. Hypervolume: error divided by that of guessing "
        f"({100 * space.chance_error:.0f} %), log size between the smallest and the largest network of the "
        "space, reference point (1, 1); larger is better. Size coverage: share of equal log-size bins that "
        "hold a non-dominated network. Hand-designed and published networks are points in the picture only: fewer, "
        "of other widths.",
        f"{sentence} Test images were resampled {RESAMPLES} times, the same for all networks (median "
        f"difference {difference.median:+.4f}). The interval holds the chance of these test images only, "
        "not that of training or searching once more.",
        _pair_table(tests),
        pair_sentence(tests),
    ]


def _pair_table(tests: Sequence[PairedTest]) -> str:
    rows = [
        {
            "front": test.first,
            "random": test.second,
            "difference of test errors, points": f"{100 * test.difference:+.2f}",
            "only front wrong": str(test.only_first_wrong),
            "only random wrong": str(test.only_second_wrong),
            "McNemar, exact p": "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}",
        }
        for test in tests
    ]
    return markdown_table(pd.DataFrame(rows), left=("front", "random"))


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


def _course(run: Run, rows: Sequence[GenerationIndicators], picture: Picture) -> list[str]:
    return [
        picture(
            "population",
            "Small plots, one for each generation: error over size of the population, as scored then and "
            "again with the final supernet; each stage in its own colour and row.",
        ),
        picture(
            "indicators",
            "Hypervolume and size coverage over the generations, as scored then and with the final supernet.",
        ),
        *course_sentences(rows),
        picture("operations", "Stacked bars: share of each operation in the population of each generation."),
        _parameter_free(run, rows),
    ]


def course_sentences(rows: Sequence[GenerationIndicators]) -> list[str]:
    """What hypervolume and size coverage did over the generations, in words."""
    first, last = rows[0], rows[-1]
    blocks = [
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
        blocks.append(
            "Scored again with the final supernet, which leaves the architectures only, it was "
            f"{values[0]:.3f} in generation {first.generation}{way}, {values[-1]:.3f} in the last, "
            f"generation {last.generation}: {change} in the end than at the start. It rose in {rises} of "
            f"{len(rows) - 1} steps; its maximum {max(values):.3f} was in generation {best.generation}."
        )
    narrowest = min(rows, key=lambda row: row.population_coverage)
    blocks.append(
        f"Size coverage of the whole population went from {first.population_coverage:.2f} to "
        f"{last.population_coverage:.2f}, lowest {narrowest.population_coverage:.2f} in generation "
        f"{narrowest.generation} ({STAGE_NAMES[narrowest.stage]}); of its front, as scored then, from "
        f"{first.size_coverage:.2f} to {last.size_coverage:.2f}."
    )
    return blocks


def _parameter_free(run: Run, rows: Sequence[GenerationIndicators]) -> str:
    highest = max(rows, key=lambda row: row.parameter_free_share)
    members = run.front.members
    share = sum(member.genotype.parameter_free_share for member in members) / len(members)
    return (
        "Share of parameter-free operations (skip, pooling), which fill the cells of a search caught in the "
        f"small-model trap (Tan et al. 2026): {100 * rows[0].parameter_free_share:.0f} % of the population "
        f"in generation {rows[0].generation}, {100 * rows[-1].parameter_free_share:.0f} % in the last, at "
        f"most {100 * highest.parameter_free_share:.0f} % in generation {highest.generation}; "
        f"{100 * share:.0f} % of the front handed over."
    )


def _fidelity(run: Run, picture: Picture) -> list[str]:
    tau, (agreed, decided) = fidelity(run), pair_agreement(run)
    found = "is undefined here" if math.isnan(tau) else f"is **{tau:.3f}**"
    return [
        "Kendall τ-b between validation error in the supernet and test error after retraining, over front "
        f"and random networks, {found} (1: same order, 0: none). Sizes differ between these networks, and "
        "where error falls with size in both scorings that alone raises τ: within the pairs of equal size, "
        f"the supernet named the better network in {agreed} of {decided}.",
        picture("fidelity", "Test error after retraining over validation error in the supernet, by network."),
    ]


def _training(picture: Picture) -> list[str]:
    return [
        picture("supernet", "Training loss and error of the supernet over the epochs of stage 1 and stage 2."),
        picture("retraining", "Training loss and error of every retrained network over the epochs."),
    ]


def _cost(run: Run) -> list[str]:
    summary = run.summary
    spent, full = summary.image_evaluations, summary.image_evaluations_full
    saved = f"{100 * (1 - spent / full):.0f} % saved" if spent < full else "nothing saved"
    tau = summary.schedule_tau
    agreement = (
        "could not be compared (τ-b is undefined)"
        if tau is None
        else f"agreed with scores on the whole split by a Kendall τ-b of {tau:.3f}"
    )
    return [
        f"Growing mini-batches in the frozen search: {spent:,} images scored, where the whole validation "
        f"split for every architecture would have been {full:,} ({saved}). The scores {agreement}.",
        *times_section(run, STAGES),
    ]


def times_section(run: Retrained, stages: Sequence[str]) -> list[str]:
    """How long each stage took."""
    rows = [
        {"stage": STAGE_NAMES.get(stage, stage), "time": duration(run.stage_seconds.get(stage))} for stage in stages
    ]
    return [
        markdown_table(pd.DataFrame(rows), left=("stage",)),
        "The time of a stage is that of its last run; what was taken from a cache took none.",
    ]


def latency_check(run: Run) -> list[str]:
    """One sentence on the table that latencies were added up from, where the search minimised them."""
    if run.latency_correlation is None:
        return []
    return [
        f"Latencies were added up from a table of operations; sums correlate with measured whole networks by "
        f"{run.latency_correlation:.3f}"
        + ("." if run.latency_correlation >= 0.9 else ": **less than the 0.9 expected; measure the table again**.")
    ]


def _notes(run: Run, bins: int) -> str:
    summary, space = run.summary, run.space
    handed_over = coverage([m.size_bytes for m in run.front.members], space, bins)
    lines = [
        "One search, one split, one seed of each: another seed gives other networks, by an amount this "
        "report does not show.",
        "The supernet errors of the front are the lowest of many, so they are optimistic; test errors are "
        "not selected on, except where marked.",
        f"Realised range of the second objective f2 ({run.resource} over its fixed bound): {summary.f2_low:.3f} to "
        f"{summary.f2_high:.3f}.",
        *latency_check(run),
        f"The search handed over {len(run.front.members)} networks, in {bins * handed_over:.0f} of {bins} "
        f"equal parts of the space's log-size range; {len(run.of_role('front'))} of them were retrained.",
    ]
    return "\n".join(f"- {line}" for line in lines)
