"""The picture that `gems-cache show --plot` draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gems_runtime.cli.ls import short
from gems_runtime.errors import GemsError, UsageError

if TYPE_CHECKING:
    from gems_runtime.records import Decision
    from gems_runtime.store import Store


def draw(decision: Decision, store: Store, path: Path) -> None:
    """A PNG with the time of every candidate that was measured, fastest on top, from the 20th to the 80th percentile."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install 'gems-runtime[plot]'") from None
    rows = _rows(decision, store)
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    low = [p50 - p20 for _, p50, p20, _ in rows]
    high = [p80 - p50 for _, p50, _, p80 in rows]
    axes.barh([label for label, *_ in rows], [p50 for _, p50, *_ in rows], xerr=[low, high], color="0.7")
    axes.invert_yaxis()
    axes.set_xlabel("us (median, 20th and 80th percentile)")
    axes.set_title(f"{decision.kernel}\n{decision.fields['problem'].get('key')}", fontsize=9)
    try:
        FigureCanvasAgg(figure).print_png(str(path))
    except OSError as error:
        raise GemsError(f"cannot write {path}: {error.strerror}") from None


def _rows(decision: Decision, store: Store) -> list[tuple[str, float, float, float]]:
    """Label, median, 20th and 80th percentile; of the few that the decision names where measurements are missing."""
    from gems_runtime.replay import measurements

    found = [m for m in measurements(decision, store).values() if m.p50_us is not None]
    rows = [(short(m.config), m.p50_us, m.p20_us, m.p80_us) for m in found]
    return sorted(rows, key=lambda row: row[1]) or [(short(config), p50, p50, p50) for config, p50 in decision.top]
