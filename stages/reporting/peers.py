"""What peers made of the same teacher and queries, beside our models: a table, verdicts, a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator

from stages.measurement.statistics import mcnemar, verdicts
from stages.peers.comparison import Compared
from stages.peers.workshop import Peer
from stages.reporting.figures import plt, save
from stages.reporting.markdown import percent, table_of
from stages.reporting.results import cpu, times

TITLE = "# What people would use instead"
KINDS = {"ours": ("tab:blue", "o"), "peer": ("tab:orange", "s")}


@dataclass(frozen=True)
class Verdict:
    """A peer against ours that are as accurate: those that McNemar's test does not show to be worse.

    `fastest` and `smallest` of them, None if there are none; how many times as fast as the one the peer is,
    with its interval, and how many times as big as the other.
    """

    peer: str
    fastest: str | None = None
    speed: float = np.nan
    low: float = np.nan
    high: float = np.nan
    smallest: str | None = None
    size: float = np.nan

    @property
    def wins(self) -> list[str]:
        """What the peer beats ours in; of a speed without an interval, none."""
        if self.fastest is None:
            return ["accuracy"]
        return [what for what, won in (("speed", self.low > 1), ("size", self.size < 1)) if won]


def judge(compared: Compared) -> list[Verdict]:
    """A verdict on each peer; which of ours are worse is told at a false discovery rate of 5% over all."""
    table, right = compared.table, compared.right
    ours, peers = (list(table.index[table["kind"] == kind]) for kind in KINDS)
    pairs = [(peer, name) for peer in peers for name in ours]
    words = verdicts([mcnemar(right[name], right[peer]) for peer, name in pairs])
    worse = {pair for pair, word in zip(pairs, words, strict=True) if word == "worse"}
    judged = []
    for peer in peers:
        rivals = table.loc[[name for name in ours if (peer, name) not in worse]]
        if rivals.empty:
            judged.append(Verdict(peer))
            continue
        fastest, smallest = rivals["latency_mean_ms"].idxmin(), rivals["size_mb"].idxmin()
        speed, low, high = compared.speedups.loc[peer, [fastest, f"{fastest}_low", f"{fastest}_high"]]
        size = table["size_mb"][peer] / table["size_mb"][smallest]
        judged.append(Verdict(peer, str(fastest), speed, low, high, str(smallest), size))
    return judged


def values(compared: Compared, peers: list[Peer], missing: list[Peer]) -> dict:
    """What the file peers.json has; null is what is not defined."""
    judged = {verdict.peer: verdict for verdict in judge(compared)}
    rows = {
        str(name): {key: None if pd.isna(value) else value for key, value in row.items()}
        for name, row in compared.table.to_dict("index").items()
    }
    for peer in peers:
        against = {k: None if v != v else v for k, v in vars(judged[peer.name]).items() if k != "peer"}
        rows[peer.name] |= {"versions": peer.versions, "against": against, "wins": judged[peer.name].wins}
    return {"models": rows, "machine": compared.machine, "not_installed": [peer.name for peer in missing]}


def markdown(compared: Compared, peers: list[Peer], missing: list[Peer]) -> str:
    """The text of peers.md."""
    table, machine = compared.table, compared.machine
    judged = judge(compared)
    won = [f"**{v.peer} beats our models in {' and '.join(v.wins)}.**" for v in judged if v.wins]
    none = (
        "No peer here beats our models: for each, one of ours is as accurate and as fast, and one as small."
    )
    columns = ["model", "accuracy", "calibrated", "in scope, calibrated", "out-of-scope recall, calibrated"]
    columns += ["size, MB", "latency, ms: mean (p95)", "over BERT-base's shape (95%)"]
    measured = table_of(
        columns,
        [_row(str(name), row) for name, row in table.sort_values("latency_mean_ms").iterrows()],
        "Names in bold are peers, the others ours. Accuracies are those of the test split. *Calibrated* "
        "applies a temperature and an out-of-scope threshold, fitted on validation for all alike. Size is "
        "that of the model's files, without the packages that run it, in MB of 2^20 bytes.",
        f"Latency is of one query, with tokenization, on {cpu(machine)}. Each model runs in a process of its "
        "own and is timed in it. The models take turns, in rounds, in a random order.",
    )
    columns = ["peer", "our fastest as accurate", "the peer's speed against it (95%)"]
    columns += ["our smallest as accurate", "the peer's size against it"]
    against = table_of(
        columns,
        [_against(verdict) for verdict in judged],
        "Ours are as accurate as a peer if McNemar's exact test, on the same queries, does not show them to "
        "be worse, at a false discovery rate of 5% over the table.",
        left=2,
    )
    made = [f"- **{peer.name}** ({_versions(peer)}): {peer.module.RECIPE}" for peer in peers]
    parts = [TITLE, "`intents peers` writes this file. Do not edit it by hand.", "\n".join(won) or none]
    parts += ["![Calibrated test accuracy against latency.](peers.png)", measured.strip()]
    parts += ["## Against ours", against.strip(), "## How the peers were made", "\n".join(made)]
    if missing:
        parts.append("Not installed here: " + ", ".join(peer.name for peer in missing) + ".")
    return "\n\n".join(parts) + "\n"


def _row(name: str, row: pd.Series) -> list[str]:
    low, high = row["speedup_over_bert_base_low"], row["speedup_over_bert_base_high"]
    interval = "" if pd.isna(low) else f" ({low:.1f}–{high:.1f})"
    tail = "–" if pd.isna(row["latency_p95_ms"]) else f"{row['latency_p95_ms']:.2f}"
    accuracies = ["accuracy", "accuracy_calibrated", "accuracy_in_scope_calibrated", "oos_recall_calibrated"]
    return [
        f"**{name}**" if row["kind"] == "peer" else name,
        *(percent(row[key]) for key in accuracies),
        f"{row['size_mb']:.1f}",
        f"{row['latency_mean_ms']:.2f} ({tail})",
        f"{times(row['speedup_over_bert_base'])}{interval}",
    ]


def _against(verdict: Verdict) -> list[str]:
    if verdict.fastest is None:
        return [verdict.peer, "none", "–", "none", "–"]
    interval = "" if pd.isna(verdict.low) else f" ({verdict.low:.2f}–{verdict.high:.2f})"
    speed, size = f"×{verdict.speed:.2f}{interval}", f"×{verdict.size:.2f}"
    return [verdict.peer, verdict.fastest, speed, str(verdict.smallest), size]


def _versions(peer: Peer) -> str:
    return ", ".join(f"{name} {version}" for name, version in (peer.versions or {}).items())


def picture(table: pd.DataFrame, path: Path) -> None:
    """A point a model, ours and the peers apart, named in a column beside the axes."""
    figure, axes = plt.subplots(figsize=(6, 5))
    axes.set_xscale("log")
    for kind, (color, marker) in KINDS.items():
        rows = table[table["kind"] == kind]
        label = "ours" if kind == "ours" else "what people would use instead"
        accuracies = 100 * rows["accuracy_calibrated"]
        axes.scatter(rows["latency_mean_ms"], accuracies, 45, color, marker=marker, label=label, zorder=3)
    axes.margins(0.08, 0.1)
    ordered = table.sort_values(["accuracy_calibrated", "latency_mean_ms"])
    heights = np.linspace(0.02, 0.98, len(ordered)) if len(ordered) > 1 else [0.5]
    for height, (name, row) in zip(heights, ordered.iterrows(), strict=True):
        axes.annotate(
            f"{name}, {row['size_mb']:.1f} MB",
            (row["latency_mean_ms"], 100 * row["accuracy_calibrated"]),
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=KINDS[row["kind"]][0],
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "relpos": (0, 0.5)},
        )
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(
        xlabel="mean latency of a query, ms (log scale)",
        ylabel="test accuracy, calibrated, %",
        title="Accuracy against latency (beside the names: size)",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.12), ncols=2, fontsize=9, frameon=False)
    save(figure, path)
