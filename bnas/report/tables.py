"""Tables of finished networks, for the report and for the terminal, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from bnas.records.networks import ROLES, LinearBaseline, RetrainedNetwork
from bnas.report.analysis import PackedFile, best_by_test
from bnas.report.text import aligned, kib, percent
from bnas.search.pareto import wilson_interval

NOT_RECORDED = "not recorded"
OPTIMISTIC_MARK = "†"
_PLAIN_MARK = "*"


def duration(seconds: float | None) -> str:
    """`95.2` → `1 min 35 s`; None → `not recorded`."""
    if seconds is None:
        return NOT_RECORDED
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(seconds: float) -> str:
    """A short time: `0.000049` → `49 µs`, `0.0013` → `1.30 ms`."""
    return f"{1e6 * seconds:.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def test_interval(network: RetrainedNetwork) -> str:
    """The 95 % Wilson interval of the test error, in per cent: `1.39–4.54`."""
    low, high = wilson_interval(network.wrong, network.test_images)
    return f"{percent(low)}–{percent(high)}"


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


def optimistic_note(networks: Sequence[RetrainedNetwork]) -> str:
    """What must stand beside a network that was picked by its test error."""
    count = sum(network.role == "front" for network in networks)
    if count == 1:
        return "the only network of the front, so not chosen by the test split"
    return f"lowest test error of {count} networks: optimistic, chosen by the test split"


def network_table(networks: Sequence[RetrainedNetwork], seconds: Mapping[str, float]) -> str:
    """Markdown: every finished network, by role and size. `seconds` maps names and may lack some.

    Supernet errors have a column where there are any.
    """
    scored = any(network.supernet_error is not None for network in networks)
    rows = [
        {
            "network": _marked(network, networks, OPTIMISTIC_MARK),
            "role": network.role,
            "genotype": f"`{network.key}`",
            "size, KiB": kib(network.size_bytes),
            "params": f"{network.params:,}",
            "OPs, M": f"{network.ops / 1e6:.3f}",
            **({"supernet validation error, %": _supernet_error(network)} if scored else {}),
            "test error, %": percent(network.test_error),
            "95 % interval": test_interval(network),
            "training time": duration(seconds.get(network.name)),
        }
        for network in _ordered(networks)
    ]
    return markdown_table(pd.DataFrame(rows), left=("network", "role", "genotype"))


def packed_table(networks: Sequence[RetrainedNetwork], files: Mapping[str, PackedFile]) -> str:
    """Markdown: every packed file, by role and size; times where they are recorded."""
    rows = []
    for network in _ordered(networks):
        packed = files[network.name]
        latency = packed.latency
        rows.append(
            {
                "network": network.name,
                "counted, bytes": f"{network.size_bytes:,.0f}",
                "stored, bytes": f"{packed.file.payload_bytes:,}",
                "header, bytes": f"{packed.file.header_bytes:,}",
                "file, KiB": kib(packed.file.file_bytes),
                "test error, %": percent(network.test_error),
                "one image": moment(latency.packed_1) if latency else NOT_RECORDED,
                "in PyTorch": moment(latency.torch_1) if latency else NOT_RECORDED,
                "speed-up": f"{latency.speedup:.0f} ×" if latency else NOT_RECORDED,
                "speed-up, 64 images": f"{latency.torch_64 / latency.packed_64:.1f} ×" if latency else NOT_RECORDED,
                "deviating images": str(packed.file.deviating),
            }
        )
    return markdown_table(pd.DataFrame(rows), left=("network",))


def finished_networks(networks: Sequence[RetrainedNetwork], seconds: Mapping[str, float]) -> str:
    """Plain text, at most 100 columns wide: every finished network, by role and size."""
    rows = [
        {
            "network": _marked(network, networks, _PLAIN_MARK),
            "genotype": network.key,
            "KiB": kib(network.size_bytes),
            "params": f"{network.params:,}",
            "MOPs": f"{network.ops / 1e6:.3f}",
            "val. %": _supernet_error(network),
            "test %": percent(network.test_error),
            "95 % interval": test_interval(network).replace("–", "-"),
            "time": duration(seconds[network.name]) if network.name in seconds else "-",
        }
        for network in _ordered(networks)
    ]
    lines = aligned(rows, left=("network", "genotype"))
    if best_by_test(networks) is not None:
        lines.append(f"{_PLAIN_MARK} {optimistic_note(networks)}")
    return "\n".join(lines)


def markdown_table(frame: pd.DataFrame, left: Sequence[str] = ()) -> str:
    """A table of texts in Markdown; columns stand at the right except those named."""
    sides = ["left" if name in left else "right" for name in frame.columns]
    return frame.to_markdown(index=False, disable_numparse=True, colalign=sides)


def _ordered(networks: Sequence[RetrainedNetwork]) -> list[RetrainedNetwork]:
    return sorted(networks, key=lambda network: (ROLES.index(network.role), network.size_bytes, network.name))


def _marked(network: RetrainedNetwork, networks: Sequence[RetrainedNetwork], mark: str) -> str:
    return f"{network.name} {mark}" if network == best_by_test(networks) else network.name


def _supernet_error(network: RetrainedNetwork) -> str:
    return "-" if network.supernet_error is None else percent(network.supernet_error)
