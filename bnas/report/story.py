"""The report of a run: sections of sentences, tables and charts, which the page and the Markdown report show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.figure import Figure

from bnas.records.networks import ROLES
from bnas.report import charts
from bnas.report.cell_drawing import cell_words, cells_figure
from bnas.report.formats import duration, kib, literal, percent
from bnas.report.indicators import coverage, generation_indicators, network_coverage, network_hypervolume, trial_bins
from bnas.report.network_tables import OPTIMISTIC_MARK, Table, network_table, packed_table, trial_table
from bnas.report.paired import RESAMPLES, Interval, error_difference, hypervolume_difference, paired_test
from bnas.report.results import STAGE_NAMES, Retrained, Run
from bnas.report.sentences import (
    KINDS,
    class_sentences,
    course_sentences,
    fidelity_sentences,
    latency_check,
    linear_note,
    optimistic_note,
    other_sentences,
    pair_sentence,
    parameter_free_sentence,
    rounding,
    schedule_sentence,
    searched,
    tested,
    transferred,
    trial_sentences,
    verdict,
    worth,
)

STAGES = ("prepare", "latency_table", "stage1", "stage2", "search", "trial", "retrain", "export")
TRANSFER_STAGES = ("prepare", "retrain", "export")


@dataclass(frozen=True)
class Picture:
    """A chart: file name without suffix, title, a description in words, and a note on how to read it."""

    name: str
    title: str
    words: str
    draw: Callable[[], Figure]
    note: str = ""


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    sentences: tuple[str, ...]


Block = str | Items | Table | Picture
"""A paragraph, list, table or chart."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; `name` is its anchor in the page."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Story:
    """A whole report. `parameters` are YAML."""

    title: str
    introduction: tuple[str, ...]
    sections: tuple[Section, ...]
    parameters: str

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All charts, in order."""
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Picture))

    def markdown(self, suffix: str) -> str:
        """The report in Markdown, with charts from `figures/<name>.<suffix>` beside it."""

        def text(block: Block) -> str:
            match block:
                case Picture():
                    note = f"\n\n*{block.title}. {block.note}*" if block.note else ""
                    return f"![{block.words}](figures/{block.name}.{suffix}){note}"
                case Table():
                    return block.markdown()
                case Items():
                    return "\n".join(f"- {sentence}" for sentence in block.sentences)
            return block

        lines = [f"# {self.title}", *self.introduction]
        for section in self.sections:
            lines += [f"## {section.title}", *map(text, section.blocks)]
        return "\n\n".join([*lines, "## Parameters", f"```yaml\n{self.parameters}\n```"]) + "\n"


def search_story(run: Run, bins: int, identity: str, parameters: str) -> Story:
    """The report of a search. `bins` are those of size coverage, `identity` says which run it is."""
    difference = hypervolume_difference(run)
    sections = (
        Section("short", "In short", (_search_summary(run, difference),)),
        _networks(run),
        _files(run),
        _random(run, bins, difference),
        _cells(run),
        _search(run, bins),
        _trial(run),
        Section("fidelity", "Are architectures ranked rightly?", _fidelity(run)),
        Section("training", "Training", (_supernet(run), _retraining(run))),
        Section("time", "What it cost", (schedule_sentence(run), *_times(run, STAGES))),
        Section("notes", "To be kept in mind", (_search_notes(run, bins),)),
    )
    title = f"A family of binary networks for {literal(run.dataset.title)}"
    return Story(title, (worth(run, error_difference(run)), searched(run), identity), sections, parameters.strip())


def transfer_story(run: Retrained, source: str, handed: int, bins: int, identity: str, parameters: str) -> Story:
    """The report of a transfer: networks of a front that was searched on other images, trained on these.

    `source` names the file of the front, which has `handed` members; the rest is as in `search_story`.
    """
    difference = hypervolume_difference(run)
    sections = (
        Section("short", "In short", (_transfer_summary(run, difference),)),
        _networks(run),
        _files(run),
        _random(run, bins, difference),
        _cells(run),
        Section("training", "Training", (_retraining(run),)),
        Section("time", "What it cost", _times(run, TRANSFER_STAGES)),
        Section("notes", "To be kept in mind", (_TRANSFER_NOTES,)),
    )
    title = f"A family of binary networks transferred to {literal(run.dataset.title)}"
    introduction = (worth(run, error_difference(run)), transferred(run, source, handed), identity)
    return Story(title, introduction, sections, parameters.strip())


def _search_summary(run: Run, difference: Interval | None) -> Items:
    front = run.of_role("front")
    smallest, largest = front[0], front[-1]
    sentences = [
        f"Networks retrained from the front: {len(front)}, from {kib(smallest.size_bytes)} to "
        f"{kib(largest.size_bytes)} KiB (a factor of {largest.size_bytes / smallest.size_bytes:.1f}), all "
        f"from one search over {run.summary.evaluations:,} distinct architectures.",
        *_best_and_smallest(run),
    ]
    scored = [(n.supernet_error, n.size_bytes, n.name, n) for n in front if n.supernet_error is not None]
    if scored:
        pick = min(scored)[-1]
        sentences.append(
            f"{tested(pick)}: the lowest validation error in the supernet, so picked without the test split."
        )
    return Items((*sentences, *class_sentences(run), verdict(difference, run.dataset.counts.test)))


def _transfer_summary(run: Retrained, difference: Interval | None) -> Items:
    front = run.of_role("front")
    sizes = f"from {kib(front[0].size_bytes)} to {kib(front[-1].size_bytes)} KiB"
    said = verdict(difference, run.dataset.counts.test)
    return Items(
        (f"Networks transferred: {len(front)}, {sizes}.", *_best_and_smallest(run), *class_sentences(run), said)
    )


def _best_and_smallest(run: Retrained) -> list[str]:
    best, smallest, note = run.best, run.of_role("front")[0], optimistic_note(run.networks, run.error)
    return [f"{tested(best)}: **{note}**.", f"{tested(smallest)}: the smallest."]


def _networks(run: Retrained) -> Section:
    supernet = (
        " The supernet's error is measured on validation images with shared weights and ranks architectures; it does "
        "not forecast the test error."
        if any(network.supernet_error is not None for network in run.networks)
        else ""
    )
    memory = (
        "RAM is the working memory of the packed network as C, an image at a time; "
        if any(network.ram_bytes is not None for network in run.networks)
        else ""
    )
    return Section(
        "networks",
        "Finished networks",
        (
            network_table(run),
            f"{OPTIMISTIC_MARK} {optimistic_note(run.networks, run.error)}. OPs = FLOPs + BOPs/64, in millions of "
            f"multiply-accumulates; {memory}intervals are Wilson's, for {run.dataset.counts.test} test images; random "
            "networks were matched in size to the front network of the same number; all networks had the same "
            f"recipe and {run.networks[0].epochs} epochs.{supernet}",
            *([linear_note(run.linear, run.networks)] if run.linear else []),
            *other_sentences(run),
            Picture(
                "front",
                "Test error over size",
                "Test error over size of the retrained front, of random networks of the same sizes and of others, "
                "with 95 % intervals.",
                lambda: charts.front_chart(run.of_role(*ROLES), run.linear),
                "Both axes are logarithmic; lines join the best of each size, bars are 95 % intervals.",
            ),
        ),
    )


def _files(run: Retrained) -> Section:
    title = "Files to ship"
    if not run.packed:
        return Section("files", title, ("No packed files were found.",))
    deviating = sum(shipped.file.deviating for shipped in run.packed.values())
    text = (
        "Every network as a packed file (`data/export/<name>.bnn`): one bit for each binary weight. Bytes counted by "
        "formula, stored, and of the header that describes the network. Packed logits are PyTorch's within rounding "
        f"on all test images but {deviating} (of {run.dataset.counts.test * len(run.packed):,} over all networks), "
        f"where a value before a sign lies within rounding of its threshold. {rounding(run.networks)}Times are of the "
        "packed runtime and of PyTorch eager on the machine of the run, all cores: another machine has others."
    )
    seconds = {name: shipped.latency.packed_1 for name, shipped in run.packed.items() if shipped.latency}
    picture = Picture(
        "latency",
        "Test error over time",
        "Test error over the time of one image in the packed runtime, by role.",
        lambda: charts.latency_chart(run.of_role(*ROLES), seconds),
    )
    return Section("files", title, (text, packed_table(run), *([picture] if seconds else [])))


def _random(run: Retrained, bins: int, difference: Interval | None) -> Section:
    title, said = "Against random networks of the same size", verdict(difference, run.dataset.counts.test)
    if difference is None:
        return Section("random", title, (said,))
    space, front = run.space, tuple(first for first, _ in run.matched)
    sides = [
        {
            "": name,
            "networks": " + ".join(str(len(networks)) for networks in fronts),
            "hypervolume": f"{fmean(network_hypervolume(run, networks) for networks in fronts):.4f}",
            f"size coverage ({bins} bins)": f"{fmean(network_coverage(run, n, bins) for n in fronts):.2f}",
            f"mean {KINDS[run.error]}test error, %": percent(fmean(run.error_of(n) for side in fronts for n in side)),
        }
        for name, fronts in (("front", (front,)), ("random", run.random_fronts))
    ]
    even = 1 - 1 / len(run.dataset.classes)
    guess = "guessing" if math.isclose(space.chance_error, even) else "always naming the largest class"
    tests = [paired_test(run, first.name, other.name) for first, others in run.matched for other in others]
    pairs = [
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
    return Section(
        "random",
        title,
        (
            Table(sides, ("",)),
            "Equal counts on both sides; several random networks of each size are as many fronts, whose hypervolume "
            f"and coverage are means. Hypervolume: {KINDS[run.error]}error divided by that of {guess} "
            f"({100 * space.chance_error:.0f} %), log size between the smallest and the largest network of the "
            "space, reference point (1, 1); larger is better. Size coverage: share of equal log-size bins that "
            "hold a non-dominated network. Networks designed by hand and published ones are not counted here.",
            f"{said} Test images were resampled {RESAMPLES} times, the same for all networks (median "
            f"difference {difference.median:+.4f}). The interval holds the chance of these test images only, "
            "not that of training or searching once more.",
            Table(pairs, ("front", "random"), ("only front wrong", "only random wrong")),
            pair_sentence(tests),
        ),
    )


def _cells(run: Retrained) -> Section:
    text = (
        "Left the outputs of the two cells before; a node (circle) adds two operations; right the output, all "
        "nodes concatenated. Operations without weights are pale. The reduction cell halves the image."
    )
    pictures = []
    for network in run.of_role("front"):
        heading = f"{network.name} ({network.key}), {kib(network.size_bytes)} KiB"
        words = f"Cells of {network.name}. {cell_words(network.genotype)}"
        draw = lambda genotype=network.genotype, heading=heading: cells_figure(genotype, heading)  # noqa: E731
        pictures.append(Picture(f"cells-{network.name}", heading, words, draw))
    return Section("cells", "The cells", (text, *pictures))


def _search(run: Run, bins: int) -> Section:
    rows = generation_indicators(run, bins)
    return Section(
        "search",
        "The course of the search",
        (
            *course_sentences(rows),
            *latency_check(run),
            parameter_free_sentence(run, rows),
            Picture(
                "population",
                "The population through the generations",
                "Error over size of the population, as scored then and again with the final supernet; each stage in "
                "its own colour.",
                lambda: charts.population_chart(run.generations, run.front),
                "Hollow: as scored then. Filled: with the final supernet. Grey: the front of the search.",
            ),
            Picture(
                "handed-over",
                "The front in the supernet",
                "Validation error over size of the search's front, and filled of the networks that were retrained.",
                lambda: charts.search_front_chart(run.front, run.of_role("front")),
            ),
            Picture(
                "hypervolume",
                "Hypervolume of the front",
                "Hypervolume of each generation's front, as scored then and with the final supernet.",
                lambda: charts.indicator_chart(rows, "hypervolume"),
                "Error divided by that of guessing, log size over the range of the space; larger is better.",
            ),
            Picture(
                "coverage",
                "Size coverage",
                "Size coverage of each generation's front and population.",
                lambda: charts.indicator_chart(rows, "size_coverage"),
                "Share of equal log-size bins that hold a member.",
            ),
            Picture(
                "operations",
                "Operations in the population",
                "Stacked bars: share of each operation in the population of each generation.",
                lambda: charts.operations_chart(run.generations),
                "Black line: all operations without weights together; they are the pale ones.",
            ),
        ),
    )


def _trial(run: Run) -> Section:
    tried = trial_bins(run)
    table = (trial_table(tried),) if tried else ()
    return Section("trial", "Trial by short trainings", (Items(tuple(trial_sentences(run))), *table))


def _fidelity(run: Run) -> tuple[Block, ...]:
    blocks: list[Block] = [
        Items(tuple(fidelity_sentences(run))),
        Picture(
            "fidelity",
            "Test error over error in the supernet",
            "Test error after retraining over validation error in the supernet, by network.",
            lambda: charts.estimate_chart(run.of_role(*ROLES), "supernet_error"),
        ),
    ]
    if run.trial:
        blocks.append(
            Picture(
                "trial",
                "Test error over the trial's estimate",
                "Test error after retraining over the estimate of the trial, by network.",
                lambda: charts.estimate_chart(run.of_role(*ROLES), "trial_estimate"),
            )
        )
    return tuple(blocks)


def _supernet(run: Run) -> Picture:
    return Picture(
        "supernet",
        "Training of the supernet",
        "Training loss and error of the supernet over the epochs of stage 1 and stage 2.",
        lambda: charts.supernet_chart(run.training),
        "Mean over the paths trained in each epoch.",
    )


def _retraining(run: Retrained) -> Picture:
    return Picture(
        "retraining",
        "Training of the finished networks",
        "Training loss and error of every retrained network over the epochs.",
        lambda: charts.retraining_chart(run.of_role(*ROLES), run.curves),
        "From scratch, on augmented images.",
    )


def _times(run: Retrained, stages: Sequence[str]) -> tuple[Block, ...]:
    rows = [
        {"stage": STAGE_NAMES.get(stage, stage), "time": duration(run.stage_seconds.get(stage))} for stage in stages
    ]
    return (
        Table(rows, ("stage",)),
        "The time of a stage is that of its last run; what was taken from a cache took none.",
    )


def _search_notes(run: Run, bins: int) -> Items:
    summary, covered = run.summary, coverage([m.size_bytes for m in run.front.members], run.space, bins)
    chose = f"; the trial handed over {run.handed_over}" if run.trial else ""
    return Items(
        (
            "One search, one split, one seed of each: another seed gives other networks, by an amount this "
            "report does not show.",
            "The supernet errors of the front are the lowest of many, so they are optimistic; test errors are "
            "not selected on, except where marked.",
            f"Realised range of the second objective f2 ({run.resource} over its fixed bound): {summary.f2_low:.3f} to "
            f"{summary.f2_high:.3f}.",
            f"The search's front has {len(run.front.members)} networks, in {bins * covered:.0f} of {bins} equal parts "
            f"of the space's log-size range{chose}; {len(run.of_role('front'))} of them were retrained.",
        )
    )


_TRANSFER_NOTES = Items(
    (
        "Architectures were chosen by a search on other images, by size and by their errors there; nothing on these "
        "images chose them.",
        "One training of each network, one split: another seed gives other errors, by an amount this report does "
        "not show.",
        "Test errors are not selected on, except where marked.",
    )
)
