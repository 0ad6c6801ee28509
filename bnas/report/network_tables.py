"""Tables of finished networks, for the report and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import pandas as pd

from bnas.records.networks import ROLES, RetrainedNetwork
from bnas.records.trial import Origin
from bnas.report.formats import NOT_RECORDED, aligned, duration, kib, moment, percent
from bnas.report.indicators import TrialBin
from bnas.report.results import Retrained, best_by_test
from bnas.report.sentences import optimistic_note
from bnas.search.pareto import wilson_interval
from bnas.storage.terminal import printable

OPTIMISTIC_MARK = "†"
_PLAIN_MARK = "*"


@dataclass(frozen=True)
class Table:
    """Rows that map the same headings to texts; columns stand at the right except `left`.

    `extra` columns are left out where the page is narrow.
    """

    rows: Sequence[Mapping[str, str]]
    left: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table in Markdown."""
        return markdown_table(pd.DataFrame(self.rows), self.left)


def markdown_table(frame: pd.DataFrame, left: Sequence[str] = ()) -> str:
    """A table of texts in Markdown; columns stand at the right except those named."""

    def cell(text: str) -> str:
        return printable(str(text)).replace("|", r"\|")

    sides = ["left" if name in left else "right" for name in frame.columns]
    return frame.rename(columns=cell).map(cell).to_markdown(index=False, disable_numparse=True, colalign=sides)


def interval_text(network: RetrainedNetwork) -> str:
    """The 95 % Wilson interval of the test error, in per cent: `1.39–4.54`."""
    low, high = wilson_interval(network.wrong, network.test_images)
    return f"{percent(low)}–{percent(high)}"


def network_table(run: Retrained) -> Table:
    """Every finished network, by role and size. Supernet and balanced errors have a column where they are told."""
    networks, seconds = run.networks, run.network_seconds
    scored = any(network.supernet_error is not None for network in networks)
    planned = any(network.ram_bytes is not None for network in networks)
    rows = [
        {
            "network": _marked(network, run.best, OPTIMISTIC_MARK),
            "role": network.role,
            "genotype": f"`{network.key}`",
            "size, KiB": kib(network.size_bytes),
            **({"RAM, KiB": _ram(network)} if planned else {}),
            "params": f"{network.params:,}",
            "OPs, M": f"{network.ops / 1e6:.3f}",
            **({"supernet error, %": _supernet_error(network)} if scored else {}),
            "test error, %": percent(network.test_error),
            "95 % interval": interval_text(network),
            **({"balanced error, %": percent(run.balanced_error(network))} if run.shows_balanced else {}),
            "training time": duration(seconds.get(network.name)),
        }
        for network in _ordered(networks)
    ]
    extra = ("role", "genotype", "RAM, KiB", "params", "OPs, M", "supernet error, %", "95 % interval", "training time")
    return Table(rows, ("network", "role", "genotype"), extra)


def trial_table(tried: Sequence[TrialBin]) -> Table:
    """The trial by size, smallest first."""
    rows = [
        {
            "size, KiB": f"{kib(each.low)}–{kib(each.high)}",
            **{f"from {origin}": str(each.origins.get(origin, 0)) for origin in get_args(Origin)},
            "lowest estimate": f"{each.best.estimate:.3f}",
            "it is from": each.best.origin,
            "trained longer": str(each.finalists),
            "lowest estimate then": "-" if each.best_finalist is None else f"{each.best_finalist.estimate:.3f}",
            "that is from": "-" if each.best_finalist is None else each.best_finalist.origin,
        }
        for each in tried
    ]
    return Table(rows, ("size, KiB", "it is from", "that is from"), ("it is from", "lowest estimate", "trained longer"))


def packed_table(run: Retrained) -> Table:
    """Every packed file, by role and size; times where they are recorded."""
    rows = []
    for network in _ordered(run.networks):
        if network.name not in run.packed:
            continue
        shipped = run.packed[network.name]
        latency = shipped.latency
        rows.append(
            {
                "network": network.name,
                "counted, bytes": f"{network.size_bytes:,.0f}",
                "stored, bytes": f"{shipped.file.payload_bytes:,}",
                "header, bytes": f"{shipped.file.header_bytes:,}",
                "file, KiB": kib(shipped.file.file_bytes),
                "test error, %": percent(network.test_error),
                "one image": moment(latency.packed_1) if latency else NOT_RECORDED,
                "in PyTorch": moment(latency.torch_1) if latency else NOT_RECORDED,
                "speed-up": f"{latency.speedup:.0f} ×" if latency else NOT_RECORDED,
                "speed-up, 64 images": f"{latency.torch_64 / latency.packed_64:.1f} ×" if latency else NOT_RECORDED,
                "deviating images": str(shipped.file.deviating),
            }
        )
    shown = ("network", "file, KiB", "one image", "speed-up")
    return Table(rows, ("network",), tuple(name for name in rows[0] if name not in shown))


def finished_networks(networks: Sequence[RetrainedNetwork], seconds: Mapping[str, float]) -> str:
    """Plain text, at most 100 columns wide: every finished network, by role and size."""
    best = best_by_test(networks, lambda network: network.test_error)
    rows = [
        {
            "network": _marked(network, best, _PLAIN_MARK),
            "genotype": network.key,
            "KiB": kib(network.size_bytes),
            "params": f"{network.params:,}",
            "MOPs": f"{network.ops / 1e6:.3f}",
            "val. %": _supernet_error(network),
            "test %": percent(network.test_error),
            "95 % interval": interval_text(network).replace("–", "-"),
            "time": duration(seconds[network.name]) if network.name in seconds else "-",
        }
        for network in _ordered(networks)
    ]
    lines = aligned(rows, left=("network", "genotype"))
    if best is not None:
        lines.append(f"{_PLAIN_MARK} {optimistic_note(networks)}")
    return "\n".join(lines)


def _ordered(networks: Sequence[RetrainedNetwork]) -> list[RetrainedNetwork]:
    return sorted(networks, key=lambda network: (ROLES.index(network.role), network.size_bytes, network.name))


def _marked(network: RetrainedNetwork, best: RetrainedNetwork | None, mark: str) -> str:
    return f"{network.name} {mark}" if network == best else network.name


def _ram(network: RetrainedNetwork) -> str:
    return "-" if network.ram_bytes is None else kib(network.ram_bytes)


def _supernet_error(network: RetrainedNetwork) -> str:
    return "-" if network.supernet_error is None else percent(network.supernet_error)
