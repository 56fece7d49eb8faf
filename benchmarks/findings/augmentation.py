"""Composition of augmentations: no operator suffices alone, crop and colour together do (SimCLR, section 3)."""

from __future__ import annotations

from fastclr.bench.findings.condition import BASE, NO_COLOUR, NO_CROP, Condition, identity
from fastclr.bench.findings.finding import Claim, Finding, Scores, gap
from fastclr.bench.findings.operators import OPERATORS

COMPOSITION = Finding(
    name="augmentation",
    title="No single augmentation suffices; crop and colour together do",
    question="Are features better with crop and colour than with either alone?",
    source="Chen et al. 2020, section 3.1 and Figure 5",
    roles={
        "both": BASE,
        "crop": Condition("crop alone", (NO_COLOUR,)),
        "colour": Condition("colour alone", (NO_CROP,)),
    },
    claims=(
        Claim("linear accuracy above that of crop alone", gap("linear", "both", "crop"), paper="+23.2"),
        Claim("linear accuracy above that of colour alone", gap("linear", "both", "colour"), paper="+37.5"),
        Claim(
            "crop alone picks the positive more often",
            gap("contrastive_accuracy", "crop", "both"),
            paper="said in the text",
            primary=False,
        ),
    ),
    tiers=("cpu", "gpu", "ci"),
)

# the operators of the second view are none, as in the paper; images of one size need no crop to be compared
GRID = {
    (first, second): Condition(
        first if first == second else f"{first}, then {second}",
        (identity,),
        ((first,) if first == second else (first, second), ()),
    )
    for first in OPERATORS
    for second in OPERATORS
}


def best_pair_over_singles(scores: Scores) -> float:
    """Return by how much crop with colour, in the better order, is ahead of the best single operator."""
    pair = max(scores["crop+color"]["linear"], scores["color+crop"]["linear"])
    return 100 * (pair - max(scores[f"{name}+{name}"]["linear"] for name in OPERATORS))


def best_pair_over_pairs(scores: Scores) -> float:
    """Return by how much crop with colour, in the better order, is ahead of the best other pair."""
    own = {"crop+color", "color+crop"}
    others = (f"{a}+{b}" for a in OPERATORS for b in OPERATORS if a != b and f"{a}+{b}" not in own)
    return 100 * (max(scores[name]["linear"] for name in own) - max(scores[name]["linear"] for name in others))


AUGMENTATION_GRID = Finding(
    name="augmentation-grid",
    title="Of all pairs of augmentations, crop with colour is the best",
    question="Which pair of operators gives the best features?",
    source="Chen et al. 2020, Figure 5",
    roles={f"{first}+{second}": condition for (first, second), condition in GRID.items()},
    claims=(
        Claim("crop with colour above the best single operator", best_pair_over_singles, paper="+23.2"),
        Claim("crop with colour above the best other pair", best_pair_over_pairs, paper="+9.8"),
    ),
    tiers=("grid",),
    small="Blur hardly changes an image of 32 pixels, and images without an upright side do not mind a rotation.",
)
