"""The loss: NT-Xent against its rivals, temperature and normalisation, small batches (SimCLR, section 5; DCL)."""

from __future__ import annotations

from typing import Any

from fastclr.bench.findings.condition import BASE, Condition, options, rate
from fastclr.bench.findings.finding import Claim, Finding, gap

FACTORS = (0.3, 1.0)
SMALL_BATCH = 32


def rival(name: str, **simclr: Any) -> tuple[Condition, ...]:
    """Return a rival of NT-Xent at several rates, the candidates to choose from."""
    return tuple(
        Condition(f"{name}, {factor:g} times the rate", (options(simclr=simclr), rate(factor))) for factor in FACTORS
    )


LOGISTIC = rival("NT-Logistic", loss="nt-logistic")
MARGIN = rival("margin triplet", loss="margin", margin=0.4)

LOSS = Finding(
    name="loss",
    title="NT-Xent gives better features than the logistic and the margin loss",
    question="Is NT-Xent ahead of its rivals, each at its best rate?",
    source="Chen et al. 2020, section 5.1 and Table 4, without mining",
    roles={"nt-xent": BASE, "nt-logistic": LOGISTIC[-1], "margin": MARGIN[-1]},
    claims=(
        Claim("linear accuracy above that of NT-Logistic", gap("linear", "nt-xent", "nt-logistic"), paper="+12.3"),
        Claim("linear accuracy above that of the margin loss", gap("linear", "nt-xent", "margin"), paper="+13.0"),
    ),
    tuned={"nt-logistic": LOGISTIC, "margin": MARGIN},
    small="With few negatives the gap closes.",
)

TEMPERATURE = Finding(
    name="temperature",
    title="A low temperature on unit vectors makes the task sharper and the features better",
    question="What do temperature and normalisation change?",
    source="Chen et al. 2020, section 5.1 and Table 5",
    roles={
        "base": BASE,
        "hot": Condition("temperature 1", (options(temperature=1.0),)),
        "plain": Condition(
            "dot products, temperature 10", (options(simclr={"normalize": False, "temperature": 10.0}),)
        ),
    },
    claims=(
        Claim(
            "entropy of the softmax at temperature 1 above the base's",
            lambda scores: scores["hot"]["contrastive_entropy"] - scores["base"]["contrastive_entropy"],
            unit="nats",
            paper="+4.3 (8.3 at 1, 4.0 at 0.1)",
        ),
        Claim(
            "the base picks the positive more often than temperature 1",
            gap("contrastive_accuracy", "base", "hot"),
            paper="said in the text",
        ),
        Claim(
            "linear accuracy above that without normalisation",
            gap("linear", "base", "plain"),
            paper="+7.2 (64.4 against 57.2)",
            primary=False,
        ),
    ),
    small="Which temperature is best depends on the length of the training: nothing is claimed of it.",
)

SMALL_BATCHES = Finding(
    name="small-batches",
    title="Without the positive in the denominator (DCL) small batches suffice",
    question=f"Is DCL ahead of NT-Xent at {SMALL_BATCH} images a batch?",
    source="Yeh et al. 2022, Table 1: ResNet-18, 100 epochs",
    roles={
        "dcl": Condition("DCL", (options(batch_size=SMALL_BATCH, temperature=0.1, simclr={"loss": "dcl"}),)),
        "nt-xent": Condition("NT-Xent", (options(batch_size=SMALL_BATCH, temperature=0.1),)),
    },
    claims=(Claim(f"linear accuracy at {SMALL_BATCH} images a batch", gap("linear", "dcl", "nt-xent"), paper="+6.3"),),
)
