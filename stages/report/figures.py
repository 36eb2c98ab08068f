"""Figures of a page, each with its caption, from logs and reports."""

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from padd_stages.analyze_experts.figures import decoder_layers, expert_figures, specialisation_figure
from padd_stages.compare.figures import method_bars
from padd_stages.lib.measures.seed_bands import SMOOTHED_FROM, SMOOTHING_SHARE, Band
from padd_stages.lib.plots.style import COLOURS, GREY
from padd_stages.report.accuracies import STATE_NAMES, Results
from padd_stages.report.routing import OWN, Routing
from padd_stages.report.training import LAST_MEASURED, Training
from padd_stages.train.balance_figures import bias_figure, correlation, load_over_training
from padd_stages.train.curve_figures import (
    CURVES,
    WARMUP_CURVES,
    Curve,
    Runs,
    curve_panel,
    drawable_curves,
)
from padd_stages.train.router_shift_figures import router_shift_figure, shift_at_kl_figure, shift_ecdf_figure


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with its caption; ``name`` is that of its PNG and unique in the page."""

    name: str
    title: str
    caption: str
    figure: Figure


def method_colours(methods: list[str]) -> dict[str, str]:
    """Return the colour of each method: the same in every figure."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(methods)}


def result_figures(results: Results, methods: list[str]) -> Iterator[CaptionedFigure]:
    """Bars of accuracies, states in grey."""
    colours = dict.fromkeys(STATE_NAMES.values(), GREY) | method_colours(methods)
    for mode, comparison in results.comparisons.items():
        yield CaptionedFigure(
            f"accuracy-{mode}",
            f"{mode.capitalize()} accuracy",
            "",
            method_bars(comparison, colours),
        )


def stage1_figures(runs: Runs) -> Iterator[CaptionedFigure]:
    """Draw the losses of warmup."""
    yield from _panels("warmup", runs, WARMUP_CURVES)


def training_panels(training: Training) -> Iterator[CaptionedFigure]:
    """Draw one small panel a metric."""
    yield from _panels("curve", training.metrics, CURVES)


def training_figures(training: Training, layers: list[int] | None) -> Iterator[CaptionedFigure]:
    """Draw Router-shift (Figures 4 and 5) and load of every layer over training."""
    bands, distributions = training.shift_bands, training.shift_distributions
    if any(bands.values()):
        yield CaptionedFigure(
            "router-shift",
            "Router-shift over training (the paper's Figure 4)",
            "How far one rollout's updates move the router on the rollout's own tokens: mean over tokens of the L1 "
            f"distance of the router's probabilities, mean over layers. {_band_words(bands)}",
            router_shift_figure(bands),
        )
    if any(len(kl) for kl, _ in training.shift_at_kl.values()):
        yield CaptionedFigure(
            "router-shift-kl",
            "Router-shift at a given policy KL",
            "Each point is a rollout of one seed. Smaller steps lower both, so what tells methods apart is how far the "
            "router moves for the same change of the policy.",
            shift_at_kl_figure(training.shift_at_kl),
        )
    if any(distributions.values()):
        several = any(found.seeds > 1 for found in distributions.values() if found is not None)
        yield CaptionedFigure(
            "router-shift-ecdf",
            "Router-shift over tokens (the paper's Figure 5)",
            f"Share of tokens up to a given Router-shift in the last {LAST_MEASURED} measured rollouts; median and "
            f"95 % quantile marked{'; shaded: 95 % interval over seeds' if several else ''}.",
            shift_ecdf_figure(distributions),
        )
    for name, label in (("max_vio", "MaxVio"), ("load_entropy", "load entropy")):
        if panels := training.layer_values(name):
            count = next(iter(panels.values()))[1].shape[1]
            panels = {method: found for method, found in panels.items() if found[1].shape[1] == count}
            layer_numbers = layers if layers is not None and len(layers) == count else list(range(count))
            yield CaptionedFigure(
                f"load-{name.replace('_', '-')}",
                f"{label[0].upper()}{label[1:]} of each layer over training",
                "Load of the experts in each rollout, mean over seeds. "
                + ("0 is balanced." if name == "max_vio" else "1 is balanced."),
                load_over_training(panels, layer_numbers, label=label),
            )


def routing_figures(routing: Routing) -> Iterator[CaptionedFigure]:
    """Draw specialisation (Figure 3), load, NMI, and the router bias."""
    if routing.featured is None:
        return
    name, featured = routing.featured
    others = {
        method: (reports[0].report, reports[0].arrays)
        for method, reports in routing.reports.items()
        if method != name and reports[0].comparable(featured)
    }
    yield CaptionedFigure(
        "specialisation",
        "Specialisation by subdomain (the paper's Figure 3)",
        "How much more often than on average a subdomain's tokens go to an expert (clusters: how much more active it "
        "is). One scale; the same rows and columns in all panels, cluster and expert of one column belong together.",
        specialisation_figure(featured.report, featured.arrays, name=name, others=others),
    )
    titles = {
        "nmi": ("NMI of expert and subdomain", "Dotted: what labels shuffled over problems reach."),
        "load": ("Load of the experts", "Each layer's experts, the most loaded first, and its MaxVio."),
    }
    drawn = expert_figures(featured.report, featured.arrays)
    for key, (title, caption) in titles.items():
        yield CaptionedFigure(key, f"{title}, {name}", caption, drawn[key])
    layers, arrays = decoder_layers(featured.report), featured.arrays
    keys = [f"{OWN}.{part}" for part in ("load", "bias", "quality")]
    if all(key in arrays for key in keys):
        loads, biases, qualities = (arrays[key].astype(float) for key in keys)
        words = _correlation_words(correlation(loads, biases), correlation(qualities, biases))
        yield CaptionedFigure(
            "bias",
            f"Router bias of {name}",
            f"Each point is an expert. {words}",
            bias_figure(loads, biases, qualities, layers),
        )


def _panels(prefix: str, runs: Runs, curves: tuple[Curve, ...]) -> Iterator[CaptionedFigure]:
    for curve in drawable_curves(runs, curves):
        name = f"{prefix}-{curve.metric.replace('/', '-').replace('_', '-')}"
        yield CaptionedFigure(name, curve.title, "", curve_panel(runs, curve))


def _band_words(bands: dict[str, Band | None]) -> str:
    found = [band for band in bands.values() if band is not None]
    smooth = any(len(band.steps) >= SMOOTHED_FROM for band in found)
    words = [f"Running mean over {100 * SMOOTHING_SHARE:.0f} % of the run."] if smooth else []
    return " ".join(
        [*words, *(["Shaded: 95 % t interval over seeds."] if any(b.seeds > 1 for b in found) else [])]
    )


def _correlation_words(load: float | None, quality: float | None) -> str:
    words = [
        f"{what} {value:+.2f}" for what, value in (("load", load), ("quality", quality)) if value is not None
    ]
    return (
        f"Correlation of the bias over a layer's experts, mean over layers: {', '.join(words)}."
        if words
        else "The bias is 0 throughout."
    )
