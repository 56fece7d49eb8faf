"""The findings suite on results that are made up: what it runs, what it concludes, and when it refuses to."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from findings_table import findings_block, load_findings

from fastclr.bench.findings import runner
from fastclr.bench.findings.condition import BASE, UNTRAINED, Condition
from fastclr.bench.findings.outcome import outcomes
from fastclr.bench.findings.page import findings_page
from fastclr.bench.findings.plan import TUNING_SEED, Plan, Task
from fastclr.bench.findings.record import make_record
from fastclr.bench.findings.runner import chosen, fit, make_plan, swapped
from fastclr.bench.findings.tiers import CI_BASE, FINDINGS, TIERS, Tier
from fastclr.commands import findings as command

# linear accuracy by condition, in points; whatever is not named gets 30
LINEAR = {"untrained": 12.0, BASE.name: 45.0, "crop alone": 20.0, "colour alone": 36.0, "no head": 38.0}


def small(name: str = "cpu", seeds: int = 3) -> Tier:
    return dataclasses.replace(TIERS[name], base=CI_BASE, train=40, test=24, seeds=seeds)


def invent(plan: Plan, tasks: list[Task], linear: dict[str, float] = LINEAR) -> None:
    """Store results as trainings would, each seed a little better than the one before."""
    for task in tasks:
        value = (linear.get(task.condition.name, 30.0) + 0.1 * task.seed) / 100
        numbers = dict.fromkeys(("linear", "knn"), value) | {"processor_s": 20.0 * task.condition.cost}
        numbers |= {"contrastive_accuracy": 1 - value, "contrastive_entropy": 10 * value, "linear_z": value / 2}
        numbers |= {"linear_pca": 0.9 * value, "finetuned": 0.5, "scratch": 0.3}
        numbers |= {f"told_{what}_{of}": 0.5 + 0.2 * (of == "h") for what in ("noise", "gray") for of in "hz"}
        key = plan.key(task)
        result = {"status": "ok", "numbers": numbers, "measures": sorted(plan.measures(key))}
        (plan.folder / f"{key}.json").write_text(json.dumps(result))
    plan.refresh()


def whole(tmp_path: Path, tier: Tier, only: tuple[str, ...] = (), swap: tuple[str, ...] = ()) -> Plan:
    plan = make_plan(tmp_path / "out", tier, "shapes", only, swap)
    while plan.left():
        invent(plan, plan.left())
    return plan


def test_trainings_are_shared_and_each_is_done_once(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", small(), "shapes", ())
    keys = [plan.key(task) for task in plan.left()]
    assert len(keys) == len(set(keys))
    named = {task.condition.name for task in plan.left()}
    assert {BASE.name, UNTRAINED.name, "crop alone", "no head", "DCL"} <= named
    # the base is trained once a seed, with all that any finding measures of it
    own = [task for task in plan.left() if plan.key(task) == plan.key(Task(BASE, 1))]
    assert len(own) == 1 and plan.measures(plan.key(own[0])) == {"projection", "told_gray", "few_labels"}
    spec = json.loads(plan.spec(own[0]))
    assert spec["measures"] == ["few_labels", "projection", "told_gray"] and spec["config"]["seed"] == 1


def test_rates_are_chosen_on_a_seed_of_their_own(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", small(), "shapes", ("loss",))
    before = plan.left()
    assert {task.seed for task in before if task.condition.name.startswith("margin")} == {TUNING_SEED}
    invent(plan, before, {**LINEAR, "margin triplet, 0.3 times the rate": 33.0})
    after = {task.condition.name for task in plan.left()}
    assert after == {"margin triplet, 0.3 times the rate", "NT-Logistic, 0.3 times the rate"}
    assert all(task.seed != TUNING_SEED for task in plan.left())


def test_what_must_come_out_comes_out_and_a_planted_falsehood_is_contradicted(tmp_path: Path) -> None:
    found = {each["name"]: each for each in outcomes(whole(tmp_path / "a", small()))}
    assert found["augmentation"]["verdict"] == "holds"
    assert found["augmentation"]["claims"][0]["mean"] == pytest.approx(25.0)
    assert found["head"]["verdict"] == found["h-and-z"]["verdict"] == found["transformation"]["verdict"] == "holds"
    assert found["longer"]["verdict"] == "holds"
    assert found["small-batches"]["verdict"] == "not resolved"  # both are made equal
    swap = ("augmentation", "head")
    planted = {each["name"]: each for each in outcomes(whole(tmp_path / "b", small(), swap=swap))}
    assert planted["augmentation"]["claims"][0]["verdict"] == "contradicted"
    # the roles are nonlinear, linear, none: the first two are exchanged
    assert planted["head"]["claims"][1]["verdict"] == "contradicted"
    assert planted["h-and-z"] == found["h-and-z"]


def test_a_swap_exchanges_the_trainings_not_the_sign() -> None:
    finding = FINDINGS["augmentation"]
    assert swapped(finding).roles["both"] is finding.roles["crop"]
    assert swapped(finding).roles["colour"] is finding.roles["colour"]
    assert swapped(finding).claims == finding.claims


def test_a_base_that_learnt_nothing_voids_the_tier(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", small(), "shapes", ("augmentation",))
    invent(plan, plan.gate(), {"untrained": 12.0, BASE.name: 20.0})
    assert "8.0" not in plan.void() and "with seed 1 its kNN accuracy is 20.1%" in plan.void()
    ran: list[Any] = []
    with pytest.raises(ValueError, match="learnt too little"):
        runner.run(plan, tmp_path / "out", 1, None, ran.append, lambda done, whole: None)
    assert not ran  # nothing was trained on top
    record = make_record(plan, tmp_path / "out")
    assert record["void"] and b"learnt too little" in findings_page(record)


def test_the_budget_drops_findings_from_the_end(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", small(), "shapes", ())
    invent(plan, plan.gate())
    said: list[str] = []
    everything = plan.cost_left() * 20 / 2 / 60
    fit(plan, 2, everything + 0.1, said.append)
    assert not plan.dropped
    fit(plan, 2, everything / 2, said.append)
    names = [finding.name for finding in plan.findings]
    assert [finding.name for finding in reversed(plan.dropped)] == names[-len(plan.dropped) :]
    assert plan.cost_left() * 20 / 2 / 60 <= everything / 2 and "loss does not fit the budget" in said[0]
    assert {each["verdict"] for each in outcomes(plan) if each["name"] == "loss"} == {"not run"}


def test_damaged_and_incomplete_results_are_repeated(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", small(), "shapes", ("h-and-z",))
    invent(plan, plan.left())
    assert not plan.left()
    key = plan.key(Task(BASE, 2))
    path = plan.folder / f"{key}.json"
    for content in ("", '{"status": "ok"', "[]", '{"status": "ok", "numbers": {}, "measures": []}'):
        path.write_text(content)
        again = make_plan(tmp_path / "out", small(), "shapes", ("h-and-z",))
        assert [again.key(task) for task in again.left()] == [key], content


def test_a_training_whose_loss_broke_counts_as_one_that_learnt_nothing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "out", small(), "shapes", ("augmentation",))
    invent(plan, plan.left())
    for seed in plan.seeds:
        path = plan.folder / f"{plan.key(Task(FINDINGS['augmentation'].roles['crop'], seed))}.json"
        path.write_text(json.dumps({"status": "diverged", "note": "the loss became nan", "measures": []}))
    again = make_plan(tmp_path / "out", small(), "shapes", ("augmentation",))
    (found,) = outcomes(again)
    assert found["claims"][0]["mean"] == pytest.approx(45.2)
    assert "its loss broke" in found["claims"][2]["note"] and found["claims"][2]["verdict"] == "not resolved"


def test_other_settings_need_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_plan(tmp_path / "out", small(), "shapes", ())
    with monkeypatch.context() as patch:
        patch.setattr("fastclr.bench.findings.runner.__version__", "9.9")
        with pytest.raises(ValueError, match=r"fastclr: .* there, '9\.9' now\): use another --out"):
            make_plan(tmp_path / "out", small(), "shapes", ())
    with pytest.raises(ValueError, match=r"seeds: .* use another --out"):
        make_plan(tmp_path / "out", small(seeds=4), "shapes", ())
    with pytest.raises(ValueError, match="a finding must be one of augmentation"):
        chosen(small(), ("nothing",))
    with pytest.raises(ValueError, match="augmentation-grid belongs to --tier grid"):
        chosen(small(), ("augmentation-grid",))


def test_every_condition_of_every_tier_has_a_configuration() -> None:
    for tier in TIERS.values():
        keys = {}
        for finding in tier.findings():
            conditions: list[Condition] = [*finding.roles.values(), *sum(finding.tuned.values(), ())]
            for condition in conditions:
                condition.config(tier.on("somewhere"), 1)
                key = condition.key(tier.base, 1, "images")
                other = keys.setdefault(key, condition.name)
                # two names are two trainings, but for a width that is the tier's own
                assert other == condition.name or condition.name.endswith("width 1"), (other, condition.name)
                assert condition.key(tier.base, 2, "images") != key != condition.key(tier.base, 1, "others")
        assert len({finding.name for finding in tier.findings()}) == len(tier.findings()) > 0


def test_the_grid_has_all_pairs_and_its_map(tmp_path: Path) -> None:
    plan = whole(tmp_path, small("grid"))
    (found,) = outcomes(plan)
    assert len(found["conditions"]) == 49
    record = make_record(plan, tmp_path / "out")
    page = findings_page(record).decode()
    assert "first, then second" in page and page.count('<td style="--share') == 49


def test_page_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = whole(tmp_path, small())
    out = tmp_path / "out"
    record = command.store(plan, out)
    command.main(["report", "--out", str(out)])
    said = capsys.readouterr().out
    assert said.startswith("holds         augmentation       linear accuracy above that of crop alone  +25.0 points")
    page = (out / "findings.html").read_text()
    for finding in plan.findings:
        assert finding.question in page
    assert "needs 3 seeds" not in page and str(record["rule"])[1:] in page
    command.main([])
    listed = capsys.readouterr().out
    assert all(name in listed for name in FINDINGS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["walk"], "expected run or report, got 'walk'"),
        (["run", "--only", "augmentation-grid", "head"], "augmentation-grid runs alone"),
        (["run", "--only", "augmentation-grid", "--tier", "gpu"], "augmentation-grid runs alone"),
        (["report", "--out", "nowhere"], "nowhere holds no findings"),
    ],
)
def test_bad_input(arguments: list[str], expected: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        command.main(arguments)


def test_numbers_out_of_range(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in ((["--budget", "0"], "budget must be"), (["--seed", "0"], "seed must be at least 1")):
        with pytest.raises(SystemExit):
            command.main(["run", *arguments])
        assert expected in capsys.readouterr().err


def test_the_published_table_says_what_the_records_say(tmp_path: Path) -> None:
    records = tmp_path / "results"
    records.mkdir()
    assert "Not measured yet" in findings_block(load_findings(records))
    tiers = [(dataclasses.replace(small(), first_seed=first), ("augmentation",)) for first in (1, 4)]
    for number, (tier, only) in enumerate([*tiers, (small("grid"), ())]):
        plan = make_plan(tmp_path / f"{number}" / "out", tier, "shapes", only)
        invent(plan, plan.left(), {**LINEAR, "crop alone": 60.0} if number == 1 else LINEAR)
        command.store(plan, tmp_path / f"{number}" / "out")
        (made,) = (tmp_path / f"{number}" / "out").glob("findings-*.json")
        shutil.copy(made, records)
    text = findings_block(load_findings(records))
    claims = [line for line in text.splitlines() if "linear accuracy above that of crop alone" in line]
    assert claims == [
        "| `augmentation` | linear accuracy above that of crop alone | holds | contradicted | +25.0 points "
        "| [+25.0, +25.0] | +23.2 |"
    ]
    assert "seeds 1 to 3, again 4 to 6; " in text
    assert "[findings-cpu-4.json](../benchmarks/results/findings-cpu-4.json)" in text
    assert "![Linear accuracy of all pairs of augmentations](findings-grid.svg)" in text
    assert "crop with colour above the best single operator: not resolved, " in text
