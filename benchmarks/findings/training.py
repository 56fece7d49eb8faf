"""Length, strength of colour, labels, width and batch: what a training is given (SimCLR, sections 3 to 5)."""

from __future__ import annotations

from fastclr.bench.findings.condition import BASE, Change, Condition, colour, epochs, options
from fastclr.bench.findings.finding import Claim, Finding, Scores, gap

THIRD = 1 / 3
WEAK = 1 / 8
SUPERVISED_SHARE = 1 / 2  # labels teach sooner
BATCHES, LENGTHS, SCALINGS = (64, 256, 1024), (0.25, 1.0), ("linear", "sqrt")
WIDTHS = (0.25, 0.5, 1.0)
METHODS = ("moco-v2", "byol", "simsiam", "barlow", "vicreg")

LONGER = Finding(
    name="longer",
    title="Longer training gives better features",
    question="How much do the features gain from three times the epochs?",
    source="Chen et al. 2020, section 5.2 and Table B.1",
    roles={"whole": BASE, "third": Condition("a third of the epochs", (epochs(THIRD),), cost=THIRD)},
    claims=(Claim("linear accuracy above that of a third of the epochs", gap("linear", "whole", "third")),),
)


def interaction(scores: Scores) -> float:
    """Return by how much more the contrastive training gains from strong colour than the supervised one."""
    own = scores["strong"]["linear"] - scores["weak"]["linear"]
    return 100 * (own - (scores["supervised strong"]["linear"] - scores["supervised weak"]["linear"]))


def supervised(name: str, *changes: Change) -> Condition:
    """Return the same networks trained with labels."""
    found = (options(method="supervised"), epochs(SUPERVISED_SHARE), *changes)
    return Condition(name, found, cost=SUPERVISED_SHARE)


COLOUR = Finding(
    name="colour-strength",
    title="Contrastive training needs stronger colour distortion than supervised training",
    question="Who gains more from strong colour distortion, contrastive or supervised training?",
    source="Chen et al. 2020, section 3.2 and Table 1",
    roles={
        "strong": BASE,
        "weak": Condition("an eighth of the colour", (colour(WEAK),)),
        "supervised strong": supervised("supervised"),
        "supervised weak": supervised("supervised, an eighth of the colour", colour(WEAK)),
    },
    claims=(
        Claim("gain of contrastive training above the supervised gain", interaction, paper="+4.9 (3.6 against -1.3)"),
        Claim("linear accuracy above that of an eighth", gap("linear", "strong", "weak"), paper="+3.6", primary=False),
    ),
)

FEW_LABELS = Finding(
    name="few-labels",
    title="With few labels, fine-tuning a pretrained network is far ahead of training from scratch",
    question="What is pretraining worth when few images have a label?",
    source="Chen et al. 2020, section 6 and Table 7: 1% of ImageNet",
    roles={"base": Condition(BASE.name, measures=frozenset({"few_labels"}), cost=1.2)},
    claims=(
        Claim(
            "accuracy above that from scratch",
            lambda scores: 100 * (scores["base"]["finetuned"] - scores["base"]["scratch"]),
            paper="+22.9 (48.3 against 25.4)",
        ),
    ),
)


def batch_interaction(scores: Scores) -> float:
    """Return by how much more a large batch gains on a small one in a short training than in a long one."""

    def best(batch: int, length: float) -> float:
        return max(scores[f"{batch}, {length:g}, {scaling}"]["linear"] for scaling in SCALINGS)

    short, long = (best(BATCHES[-1], length) - best(BATCHES[0], length) for length in LENGTHS)
    return 100 * (short - long)


BATCH = Finding(
    name="batch",
    title="Large batches help short trainings most",
    question="Does a large batch gain more where there are few epochs, each at the better of two scalings of the rate?",
    source="Chen et al. 2020, section 5.2, Figure 9 and Table B.1",
    roles={
        f"{batch}, {length:g}, {scaling}": Condition(
            f"{batch} images a batch, {length:g} of the epochs, {scaling} scaling",
            (options(batch_size=batch, lr_scaling=scaling, optimizer="lars"), epochs(length)),
            cost=length,
        )
        for batch in BATCHES
        for length in LENGTHS
        for scaling in SCALINGS
    },
    claims=(Claim("gain of the large batch in a short training above that in a long one", batch_interaction),),
    tiers=("gpu",),
    small="On small images small batches are as good or better: at fixed epochs they have more steps.",
)


def shrinking(scores: Scores) -> float:
    """Return by how much the gap to supervised training is smaller for the widest network than for the narrowest."""
    narrow, wide = (scores[f"supervised {w:g}"]["linear"] - scores[f"{w:g}"]["linear"] for w in (WIDTHS[0], WIDTHS[-1]))
    return 100 * (narrow - wide)


WIDTH = Finding(
    name="width",
    title="Wider networks close the gap to supervised training",
    question="Does the gap between contrastive and supervised training shrink with width?",
    source="Chen et al. 2020, section 4.1 and Figure 7",
    roles={
        **{f"{w:g}": Condition(f"width {w:g}", (options(width=w),), cost=16 * w * w) for w in WIDTHS},
        **{f"supervised {w:g}": supervised(f"supervised, width {w:g}", options(width=w)) for w in WIDTHS},
    },
    claims=(Claim("gap of the narrowest network above that of the widest", shrinking, paper="+5.4 (7.2 against 1.8)"),),
    tiers=("gpu",),
    small="Narrow networks are bound by their size with either training.",
)

FIELD = Finding(
    name="methods",
    title="Methods of the field at equal cost in images",
    question="How do the methods compare on these images, for the same number of images drawn?",
    source="described, nothing is claimed",
    roles={"simclr": BASE, **{name: Condition(name, (options(method=name),)) for name in METHODS}},
    tiers=("gpu",),
    small="Methods with a twin or a predictor need hundreds of epochs to overtake: a short table ranks them wrongly.",
)
