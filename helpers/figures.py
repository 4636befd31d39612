"""The figures of the notebooks: each function draws one and returns it, titled and with units; a cell that ends with the call shows it."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.font_manager import findfont, get_font
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, MaxNLocator

OURS, OTHERS, MARK = "#2a6f97", "#a9b4bd", "#d1495b"
SIDES = (("left", "center", 6, 0), ("right", "center", -6, 0), ("center", "bottom", 0, 6), ("center", "top", 0, -6))  # of a point


def training_curves(log: pd.DataFrame, chance: float) -> plt.Figure:
    """Loss a pair, and where they were measured validation MRR and PIP loss, over the pairs trained; log: log.csv's columns."""
    labels = {"loss": "loss a pair (nats)", "mrr": "validation MRR", "pip_loss": "PIP loss of the targets"}
    curves = [log.dropna(subset=[name]).set_index("pairs")[name] for name in labels if name in log and log[name].notna().any()]
    figure, panels = plt.subplots(1, max(len(curves), 1), figsize=(7.5, 3.2), layout="constrained", squeeze=False)  # inches
    for axes, curve in zip(panels[0], curves, strict=False):
        axes.plot(curve, color=OURS, marker=".")
        axes.set(title=labels[curve.name], xlabel="pairs trained")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        if curve.name == "loss":
            axes.axhline(chance, color=MARK, linestyle="--", linewidth=1, label=f"chance {chance:.2f}")
            axes.legend(frameon=False)
        if curve.name != "pip_loss":  # which moves by little: citations are sparse
            axes.set_ylim(bottom=0)
    plt.close(figure)
    return figure


def result_map(title: str, points: np.ndarray, titles: list, colours: np.ndarray, queries: int) -> plt.Figure:
    """A result list as a map with as many titles as fit, the first ones first; points: float (n, 2); titles: str or None (n,)."""
    # colours: years float (n,), NaN where unknown, or names object (n,); queries: how many papers, the first ones, are what was asked
    figure, axes = _map(title, points)
    known, style = colours != "other", {"s": 26, "linewidths": 0, "zorder": 2}
    if colours.dtype != object:
        known = ~np.isnan(colours)
        dots = axes.scatter(*points[known].T, c=colours[known], cmap="viridis_r", **style)
        if known.any():
            figure.colorbar(dots, figure.add_axes((0.78, 0.975, 0.2, 0.012)), orientation="horizontal", ticks=MaxNLocator(4, integer=True))
    for place, name in enumerate(sorted(set(colours[known])) if colours.dtype == object else ()):
        axes.scatter(*points[colours == name].T, color=plt.get_cmap("tab10")(place), label=name, **style)
    if not known.all():
        axes.scatter(*points[~known].T, color=OTHERS, label="unknown or other", **style)
    axes.scatter(*points[:queries].T, s=170, marker="*", color=MARK, edgecolor="white", zorder=4, label="asked")
    axes.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.99))
    _write_what_fits(axes, points, ["\n".join(textwrap.wrap(_shown(of), 30)) for of in titles], fontsize=7.5)
    return figure


def corpus_map(title: str, points: np.ndarray, topics: pd.DataFrame) -> plt.Figure:
    """All papers as a density image with the names of its topics. points: float32 (N, 2); topics: of explore.name_topics."""
    from scipy.ndimage import gaussian_filter  # here: scipy is needed for maps alone

    figure, axes = _map(title, points)
    limits = axes.get_xlim(), axes.get_ylim()
    counts = np.histogram2d(*points.T, 700, limits)[0]
    density = gaussian_filter(counts.T, max(1, 250 / np.sqrt(len(points))))  # of few papers each is a larger spot
    darkest = np.quantile(density[density > density.mean()], 0.98)  # and not the one spot where many coincide
    axes.imshow(density, extent=sum(limits, ()), origin="lower", aspect="auto", cmap="Blues", norm=PowerNorm(0.5, 0, darkest))
    _write_what_fits(axes, topics[["x", "y"]].to_numpy(), [_shown(words) for words in topics["words"]], 8.5, [("center", "center", 0, 0)])
    return figure


def _map(title: str, points: np.ndarray) -> tuple[plt.Figure, plt.Axes]:
    figure = plt.figure(figsize=(11, 8.5))  # inches
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.93))
    axes.set_axis_off()
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.06 * np.maximum(high - low, 1e-6)
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    figure.suptitle(_shown(title, 95), x=0.015, y=0.985, ha="left", fontsize=11, parse_math=False)
    plt.close(figure)
    return figure, axes


def _shown(title: str | None, most: int = 120) -> str:
    # A title as a figure can show it: one line, no mark that the font lacks, at most so long
    font = get_font(findfont("DejaVu Sans")).get_charmap()
    line = "".join(mark if ord(mark) in font else "\N{WHITE SQUARE}" for mark in " ".join((title or "no title").split()))
    return line if len(line) <= most else line[:most].rsplit(" ", 1)[0] + " …"


def _write_what_fits(axes: plt.Axes, points: np.ndarray, texts: list[str], fontsize: float, sides=SIDES) -> None:
    # Write texts, in their order, beside their points (or on them): those that would cover another or leave the map are left out
    inside, taken = axes.get_window_extent(), []
    for point, text in zip(points, texts, strict=True):
        label = axes.annotate(text, point, textcoords="offset points", xytext=(0, 0), fontsize=fontsize, parse_math=False, zorder=5)
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        for across, along, right, up in sides:
            label.set(ha=across, va=along, position=(right, up))
            box = label.get_window_extent().padded(2)
            if inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1) and not box.count_overlaps(taken):
                taken.append(box)
                break
        else:
            label.remove()
