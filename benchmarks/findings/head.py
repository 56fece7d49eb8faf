"""The projection head: a nonlinear one helps, and its input is better than its output (SimCLR, section 4.2)."""

from __future__ import annotations

from fastclr.bench.findings.condition import BASE, Condition, options
from fastclr.bench.findings.finding import Claim, Finding, gap, within

HEADED = Condition(BASE.name, measures=frozenset({"projection"}))

HEAD = Finding(
    name="head",
    title="A nonlinear projection head gives better features than none, and than a linear one",
    question="Does the projection head help the features below it?",
    source="Chen et al. 2020, section 4.2 and Figure 8",
    roles={
        "nonlinear": BASE,
        "linear": Condition("linear head", (options(head="linear", head_layers=1, head_bn=False),)),
        "none": Condition("no head", (options(head="none", head_layers=1, head_bn=False),)),
    },
    claims=(
        Claim("linear accuracy above that without a head", gap("linear", "nonlinear", "none"), paper="more than +10"),
        Claim(
            "linear accuracy above that of a linear head",
            gap("linear", "nonlinear", "linear"),
            paper="+3",
            primary=False,
        ),
    ),
    small="The 3 points between a nonlinear and a linear head are within the noise of short trainings.",
)

H_AND_Z = Finding(
    name="h-and-z",
    title="The features h are better than the projections z = g(h)",
    question="Is what the head throws away useful?",
    source="Chen et al. 2020, section 4.2 and Figure 8",
    roles={"base": HEADED},
    claims=(
        Claim("linear accuracy of h above that of z", within("base", "linear", "linear_z"), paper="more than +10"),
        Claim(
            "linear accuracy of h's principal components, as many as z has, above that of z",
            within("base", "linear_pca", "linear_z"),
            primary=False,
        ),
    ),
    small="z of 64 numbers against h of 128: part of the gap may be width, hence the principal components.",
)

TRANSFORMATION = Finding(
    name="transformation",
    title="h knows which transformation was applied; z has been taught to forget it",
    question="Can a classifier tell from h, and from z, whether an image was turned grey, or was made noisy?",
    source="Chen et al. 2020, Table 3",
    roles={
        "base": Condition(BASE.name, measures=frozenset({"told_gray"})),
        "noise": Condition(
            "with noise among the augmentations", (), (("noise",), ("noise",)), frozenset({"told_noise"})
        ),
    },
    claims=(
        Claim("noise told from h above z", within("noise", "told_noise_h", "told_noise_z"), paper="+39.9"),
        Claim("grey told from h above z", within("base", "told_gray_h", "told_gray_z"), paper="+1.9", primary=False),
    ),
)
