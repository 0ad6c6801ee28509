"""The text of a transfer's report: networks of a front that was searched on other images, trained on these."""

from __future__ import annotations

from bnas.report.analysis import Interval, Retrained, best_by_test, hypervolume_difference
from bnas.report.cell_drawing import cell_words
from bnas.report.search_text import (
    CELLS,
    cells_name,
    files_section,
    networks_section,
    other_sentences,
    random_section,
    tested,
    times_section,
    verdict,
)
from bnas.report.tables import optimistic_note
from bnas.report.text import kib

STAGES = ("prepare", "retrain", "export")

NO_SUPERNET = (
    "No supernet was trained on these images: there are no supernet errors, hence no Kendall τ between them and the "
    "test errors, and no generations to show. What was searched, and how, is in the report of the search."
)


def transfer_markdown(run: Retrained, source: str, handed: int, bins: int, suffix: str, parameters: str) -> str:
    """The report. `source` names the file of the front, which has `handed` members; see `report_markdown`."""

    def picture(name: str, words: str) -> str:
        return f"![{words}](figures/{name}.{suffix})"

    front, difference = run.of_role("front"), hypervolume_difference(run)
    cells = [picture(cells_name(n), f"Cells of {n.name}. {cell_words(n.genotype)}") for n in front]
    sections = [
        [f"# A family of binary networks transferred to {run.dataset.title}", transferred(run, source, handed)],
        ["## In short", _summary(run, difference)],
        ["## Finished networks", *networks_section(run), picture("front", _FRONT_WORDS), *other_sentences(run)],
        ["## Files to ship", *files_section(run, picture)],
        ["## Against random networks of the same size", *random_section(run, bins, difference)],
        ["## The cells", CELLS, *cells],
        ["## Training", picture("retraining", "Training loss and error of every retrained network over the epochs.")],
        ["## What it cost", *times_section(run, STAGES)],
        ["## To be kept in mind", _notes(run)],
        ["## Parameters", f"```yaml\n{parameters.strip()}\n```"],
    ]
    return "\n\n".join(block for section in sections for block in section) + "\n"


_FRONT_WORDS = (
    "Test error over size of the retrained front, of random networks of the same sizes and of hand-designed ones, "
    "with 95 % intervals."
)


def transferred(run: Retrained, source: str, handed: int) -> str:
    """What was transferred, and to which images."""
    data, first = run.dataset, run.of_role("front")[0]
    shape = f"{data.image.height}×{data.image.width}×{data.image.channels}"
    return (
        f"Transferred: {len(run.of_role('front'))} of the {handed} architectures of `{source}`, the front of a search "
        f"on other images, as networks of {first.cells} cells and {first.channels} channels. Their weights were "
        f"trained from scratch on {data.title}: {len(data.classes)} classes of {shape} images, "
        f"{data.counts.train + data.counts.validation} to train on, {data.counts.test} to test each finished network "
        f"once. Sizes in the space of the search are from {kib(run.space.smallest_bytes)} to "
        f"{kib(run.space.largest_bytes)} KiB (1 KiB = 1024 bytes) at this depth and width. Files named here lie in "
        f"`transfer/`. {NO_SUPERNET}"
    )


def _summary(run: Retrained, difference: Interval | None) -> str:
    front = run.of_role("front")
    best, smallest, largest = best_by_test(front), front[0], front[-1]
    assert best is not None  # `Retrained` refuses to be without a front network
    lines = [
        f"Networks transferred: {len(front)}, from {kib(smallest.size_bytes)} to {kib(largest.size_bytes)} KiB.",
        f"{tested(best)}: **{optimistic_note(front)}**.",
        f"{tested(smallest)}: the smallest.",
        verdict(difference, run.dataset.counts.test),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _notes(run: Retrained) -> str:
    lines = [
        "Architectures were chosen by a search on other images, by size and by their errors there; nothing on these "
        "images chose them.",
        "One training of each network, one split: another seed gives other errors, by an amount this report does "
        "not show.",
        "Test errors are not selected on, except where marked.",
    ]
    return "\n".join(f"- {line}" for line in lines)
