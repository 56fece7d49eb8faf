# ruff: noqa: E501, RUF001 (sentences in two languages)
"""The blocks of README.md and README.zh-CN.md: headlines, drop-ins, methods, what no GPU has measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memory_curve import curves
from method_run import UNTRAINED
from methods_table import missing, of
from report_data import Result
from report_results import best, kept_memory, on_gpu, other_losses
from report_tables import by_case, headline_losses

from fastclr.bench.rows import OURS, Row, Spread
from fastclr.bench.table import rate, seconds, size
from fastclr.methods import METHODS

Language = Literal["en", "zh"]
FRONT: dict[str, Language] = {"README.md": "en", "README.zh-CN.md": "zh"}
RESULTS_FOLDER = "benchmarks/results"
COMPARED = {"pytorch": "PyTorch", "lightly": "lightly"}  # whom the headline of speed names
WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "memory": "**{factor:.0f}x less memory** than plain PyTorch, counted: the loss of {pairs:,} images takes {ours} "
        "instead of {theirs}",
        "speed": "**{speed}**, measured: NT-Xent of {pairs:,} images, forward and backward, in {time}",
        "faster": "{factor}x as fast as {name}",
        "and": ", ",
        "kept": "{factors} where the allocator keeps freed memory",
        "factor": "{factor}x",
        "both": " and ",
        "then": "; ",
        "views": "**{rate} augmented views a second**, measured, at {side} pixels: {factor}x the rate of the fastest other "
        "library ({name})",
        "more": ", {factor}x at {side} ({name})",
        "on": "Times: {hardware}.",
        "allocator": " By default glibc returns freed matrices to the system, and the next call pays for their pages again; jemalloc and "
        "TCMalloc keep them.",
        "spread": " `~`: spread above 15%.",
        "threads": "{threads} threads of {cpu}",
        "dropins": "| instead of | write | less memory | faster | measured at |",
        "at": "N = {rows:,}, D = {dim:,}",
        "dropins-note": "Forward and backward, theirs over ours: time measured, memory counted, on {hardware}.{asides} "
        "Files: {files}. All calls: [docs/from-another-library.md](docs/from-another-library.md).",
        "formula": " (formula)",
        "formula-note": " (formula): the library's formula written out again, not its own code.",
        "kept-note": " In brackets: where the allocator keeps freed memory, measured for these rows alone.",
        "unmeasured": "not measured",
        "methods": "| kind | methods, `--method` | losses for a loop of your own |",
        "methods-knn": " kNN accuracy, measured |",
        "methods-note": "Measured, % of test images, in small: {epochs} epochs on {images:,} images of CIFAR-10 (untrained "
        "network: {untrained}); conditions and linear accuracy: [docs/methods.md](docs/methods.md).",
        "methods-none": "Our own accuracies, side by side, are not measured yet (`make bench-methods`); published ones: "
        "[docs/methods.md](docs/methods.md).",
        "unknown-all": "- **Unknown:** any speed on a GPU. No GPU run of the present kernels is recorded.",
        "unknown-some": "- **Unknown:** on a GPU, all that [docs/results.md](docs/results.md) does not list.",
    },
    "zh": {
        "memory": "**内存占用仅为普通 PyTorch 的 {factor:.0f} 分之一**（计数所得）：计算 {pairs:,} 张图像的损失只需 {ours}，而不是 {theirs}",
        "speed": "**速度是 {speed}**（实测）：{pairs:,} 张图像的 NT-Xent 前向加反向耗时 {time}",
        "faster": "{name} 的 {factor} 倍",
        "and": "、",
        "kept": "若内存分配器保留已释放的内存，则为 {factors}",
        "factor": "{factor} 倍",
        "both": "和 ",
        "then": "；",
        "views": "**每秒增强 {rate} 个视图**（实测，{side} 像素）：是其他库中最快者（{name}）的 {factor} 倍",
        "more": "；{side} 像素时为 {factor} 倍（{name}）",
        "on": "计时环境：{hardware}。",
        "allocator": "glibc 默认把释放的矩阵归还系统，下一次调用要重新为其分配内存页；jemalloc 和 TCMalloc 则会保留这些内存。",
        "spread": "`~`：波动超过 15%。",
        "threads": "{cpu}，{threads} 线程",
        "dropins": "| 原来 | 改为 | 内存节省 | 加速 | 测量规模 |",
        "at": "N = {rows:,}，D = {dim:,}",
        "dropins-note": "前向加反向，对方与 fastclr 之比：时间为实测，内存为计数所得，环境为 {hardware}。{asides}数据文件：{files}。"
        "全部调用方式：[docs/from-another-library.md](docs/from-another-library.md)。",
        "formula": "（公式）",
        "formula-note": "（公式）：按该库的公式重新写出，并非其自身代码。",
        "kept-note": "括号内：内存分配器保留已释放的内存时的比值，只测量了这些行。",
        "unmeasured": "未测量",
        "methods": "| 类别 | 方法，`--method` | 可用于自有训练循环的损失 |",
        "methods-knn": " kNN 准确率（实测） |",
        "methods-note": "实测的小规模结果，单位为测试图像的 %：在 CIFAR-10 的 {images:,} 张图像上训练 {epochs} 个 epoch（未训练的网络："
        "{untrained}）；实验条件与线性准确率见 [docs/methods.md](docs/methods.md)。",
        "methods-none": "我们自己的准确率对比尚未测量（`make bench-methods`）；论文公布的数值见 "
        "[docs/methods.md](docs/methods.md)。",
        "unknown-all": "- **未知：** GPU 上的任何速度。目前的 kernel 还没有任何 GPU 运行记录。",
        "unknown-some": "- **未知：** [docs/results.md](docs/results.md) 未列出的 GPU 数据。",
    },
}


@dataclass(frozen=True)
class DropIn:
    """A loss of another library, ours in its place, and the rows that compare them."""

    theirs: str
    ours: str
    suite: str
    loss: str
    provider: str


COMPAT = "fastclr.compat"
DROP_INS = (
    DropIn("lightly.loss.NTXentLoss", "fastclr.NTXentLoss", "loss", "ntxent", "lightly"),
    DropIn("solo.losses.simclr_loss_func", f"{COMPAT}.solo_learn.simclr_loss_func", "loss", "ntxent", "solo-learn"),
    DropIn("open_clip.loss.ClipLoss", f"{COMPAT}.open_clip.ClipLoss", "contrast", "clip", "open_clip"),
    DropIn(
        "pytorch_metric_learning.losses.SupConLoss",
        f"{COMPAT}.pytorch_metric_learning.SupConLoss",
        "contrast",
        "sup_con",
        "pytorch-metric-learning",
    ),
    DropIn(
        "sentence_transformers.losses.MultipleNegativesRankingLoss",
        f"{COMPAT}.sentence_transformers.MultipleNegativesRankingLoss",
        "contrast",
        "multiple_negatives",
        "sentence-transformers",
    ),
    DropIn("lightly.loss.BarlowTwinsLoss", f"{COMPAT}.lightly.BarlowTwinsLoss", "gram", "barlow_twins", "lightly"),
)
# what a kind of method is called in both languages, its methods, and the losses that stand alone
KINDS: tuple[tuple[dict[Language, str], tuple[str, ...], tuple[str, ...]], ...] = (
    (
        {"en": "two views, the batch as negatives", "zh": "两个视图，以同批样本为负例"},
        ("simclr", "dcl", "supcon", "moco-v3"),
        ("NTXentLoss", "DCLLoss", "DebiasedNTXentLoss", "SupConLoss"),
    ),
    (
        {"en": "queue, bank or patches as negatives", "zh": "以队列、样本库或图块为负例"},
        ("moco-v1", "moco-v2", "cpc", "pirl"),
        ("InfoNCELoss",),
    ),
    (
        {"en": "no negatives", "zh": "无负例"},
        ("byol", "simsiam", "barlow", "vicreg", "dino", "lejepa"),
        ("BarlowTwinsLoss", "VICRegLoss"),
    ),
    (
        {"en": "images and texts, or texts alone", "zh": "图像与文本，或仅文本"},
        ("clip", "siglip", "blip-itc", "coca"),
        ("CLIPLoss", "SigLIPLoss", "BLIPLoss", "MultipleNegativesLoss"),
    ),
    (
        {"en": "for comparison", "zh": "对照"},
        ("rotation", "jigsaw", "context", "autoencoder", "gan", "supervised"),
        ("NTLogisticLoss", "MarginTripletLoss"),
    ),
)


def front_blocks(
    results: Sequence[Result], methods: Mapping[Path, Mapping[str, Any]], language: Language
) -> dict[str, str]:
    """Return the blocks of a README by name."""
    words = WORDS[language]
    return {
        "headlines": headlines(results, words),
        "drop-ins": drop_ins(results, words),
        "methods": kinds(methods, language),
        "unknown": words["unknown-some" if on_gpu(results) else "unknown-all"],
    }


def headlines(results: Sequence[Result], words: Mapping[str, str]) -> str:
    """Return three numbers, each with its file; those that no file backs are left out."""
    loss, augment = best(results, "loss"), best(results, "augment")
    speed = speed_headline(loss, words)
    kept = kept_headlines(results, loss, words) if speed else []
    told = [memory_headline(results, words), [(speed, loss.path.name), *kept]]
    told.append([(views_headline(augment, words), augment.path.name)])
    lines: list[str] = []
    for parts in told:
        linked = [f"{text} ([{name}]({RESULTS_FOLDER}/{name}))" for text, name in parts if text]
        lines += ["- " + words["then"].join(linked)] if linked else []
    places = dict.fromkeys(hardware(result, words) for result in (loss, augment))
    last = words["on"].format(hardware="; ".join(places)) + (words["allocator"] if kept else "")
    return "\n".join([*lines, f"- {last}{words['spread'] if '~' in ''.join(lines) else ''}"])


def memory_headline(results: Sequence[Result], words: Mapping[str, str]) -> list[tuple[str, str]]:
    """Bytes at the largest batch for which fastclr and plain PyTorch were both counted, and the file."""
    counted = curves(results)
    if counted is None or "pytorch" not in counted[1]:
        return []
    source, found = counted
    ours, theirs = dict(found[OURS].points), dict(found["pytorch"].points)
    images = max(ours.keys() & theirs.keys())
    a, b = ours[images], theirs[images]
    text = words["memory"].format(factor=b / a, pairs=images, ours=size(a), theirs=size(b))
    return [(text, source.path.name)]


def speed_headline(result: Result, words: Mapping[str, str]) -> str:
    """Time of the largest case, beside plain PyTorch and lightly."""
    found = list(by_case(headline_losses(result.suite("loss"))).values())[-1]
    ours = found[OURS]
    faster = [
        words["faster"].format(name=shown, factor=times(ratio))
        for name, shown in COMPARED.items()
        if name in found and (ratio := found[name].ratio)
    ]
    if not (faster and ours.time):
        return ""
    pairs = int(ours.parameters["rows"]) // 2
    return words["speed"].format(speed=words["and"].join(faster), pairs=pairs, time=seconds(ours.time.median))


def kept_headlines(results: Sequence[Result], shown: Result, words: Mapping[str, str]) -> list[tuple[str, str]]:
    """The same factors where the C library keeps freed memory, and the file."""
    case = list(by_case(headline_losses(shown.suite("loss"))))[-1]
    told: list[tuple[str, str]] = []
    for result in kept_memory(results, shown):
        found = by_case(headline_losses(result.suite("loss"))).get(case, {})
        ratios = [found[name].ratio for name in COMPARED if name in found]
        factors = [words["factor"].format(factor=times(ratio)) for ratio in ratios if ratio]
        if factors:
            told.append((words["kept"].format(factors=words["both"].join(factors)), result.path.name))
    return told


def views_headline(result: Result, words: Mapping[str, str]) -> str:
    """Views a second at the smallest size, and at every size the factor over the fastest other library."""
    text, cases = "", by_case([row for row in result.suite("augment") if "float32" not in row.case])
    for case, found in sorted(cases.items(), key=lambda each: int(each[0].rpartition("-")[2])):
        others = [row for row in found.values() if not row.provider.startswith(OURS) and row.ratio]
        own, side = found.get(OURS), int(case.rpartition("-")[2])
        if not (others and own and own.rate):
            continue
        nearest, ratio = min(((row, row.ratio) for row in others if row.ratio), key=lambda each: each[1].median)
        values = {"rate": mark(own.time) + rate(own.rate), "factor": times(ratio)}
        values |= {"name": nearest.provider, "side": str(side)}
        text += words["more" if text else "views"].format(**values)
    return text


def drop_ins(results: Sequence[Result], words: Mapping[str, str]) -> str:
    """Return the table of losses to replace, and where their factors were measured."""
    loss, others = best(results, "loss"), other_losses(results)
    largest = list(by_case(headline_losses(loss.suite("loss"))).values())[::-1]
    cases = [("loss", loss, found) for found in largest]
    cases += [(rows[0].suite, result, {row.provider: row for row in rows}) for result, rows in others]
    again = [
        ("loss", other, rows) for other in kept_memory(results, loss) for rows in by_case(other.suite("loss")).values()
    ]
    lines, used = [words["dropins"], "|---|---|---:|---:|---|"], {}
    bracketed = formulas = False
    for each in DROP_INS:
        found = compared(each, cases)
        cells = [f"`{each.theirs}`", f"`{each.ours}`"]
        if found is None:
            lines.append("| " + " | ".join([*cells, words["unmeasured"], "", ""]) + " |")
            continue
        source, ours, theirs = found
        used[source.path.name] = source
        if theirs.note.startswith("its formula"):
            cells[0], formulas = cells[0] + words["formula"], True
        if kept_rows := compared(each, [case for case in again if ours.case in {row.case for row in case[2].values()}]):
            used[kept_rows[0].path.name] = kept_rows[0]
        pairs = ours.parameters["rows"] // (2 if each.suite == "loss" else 1)
        memory = f"{theirs.peak_bytes / ours.peak_bytes:.1f}x" if theirs.peak_bytes and ours.peak_bytes else "-"
        factor = f"{times(theirs.ratio)}x" if theirs.ratio else "-"
        if kept_rows and kept_rows[2].ratio:
            factor, bracketed = f"{factor} ({times(kept_rows[2].ratio)}x)", True
        lines.append(
            "| "
            + " | ".join([*cells, memory, factor, words["at"].format(rows=pairs, dim=ours.parameters["dim"])])
            + " |"
        )
    places = "; ".join(dict.fromkeys(hardware(result, words) for result in used.values()))
    files = ", ".join(f"[{name}]({RESULTS_FOLDER}/{name})" for name in used)
    if not used:
        return "\n".join(lines)
    asides = (words["spread"] if "~" in "".join(lines) else "") + (words["formula-note"] if formulas else "")
    asides += words["kept-note"] if bracketed else ""
    return "\n".join([*lines, "", words["dropins-note"].format(hardware=places, asides=asides, files=files)])


def compared(each: DropIn, cases: Sequence[tuple[str, Result, Mapping[str, Row]]]) -> tuple[Result, Row, Row] | None:
    """Return the first case in which the loss was timed beside the library, with both of its rows."""
    for suite, result, found in cases:
        ours, theirs = found.get(OURS), found.get(each.provider)
        if suite != each.suite or not (ours and theirs and ours.time and theirs.time):
            continue
        if each.loss == ours.parameters.get("loss", "ntxent"):
            return result, ours, theirs
    return None


def kinds(methods: Mapping[Path, Mapping[str, Any]], language: Language) -> str:
    """Return methods and losses by kind, with the accuracy of those that were measured."""
    words, stored = WORDS[language], next(iter(methods.values()), None)
    scores = accuracies(stored)
    lines = [words["methods"] + (words["methods-knn"] if scores else ""), "|---|---|---|" + ("---|" if scores else "")]
    for kind, names, losses in KINDS:
        titles = ", ".join(f"{METHODS[name].title} (`{name}`)" for name in names) or "-"
        found = ", ".join(f"{METHODS[name].title} {scores[name]:.1f}" for name in names if name in scores) or "-"
        cells = [kind[language], titles, ", ".join(f"`{loss}`" for loss in losses), *([found] if scores else [])]
        lines.append(f"| {' | '.join(cells)} |")
    if stored is None or not scores:
        return "\n".join([*lines, "", words["methods-none"]])
    first = next(each for each in stored["trainings"] if each["status"] == "ok" and each["method"] in scores)
    untrained = f"{scores[UNTRAINED]:.1f}" if UNTRAINED in scores else "-"
    values = {"epochs": first["config"]["epochs"], "images": first["train_images"], "untrained": untrained}
    return "\n".join([*lines, "", words["methods-note"].format(**values)])


def accuracies(stored: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the mean kNN accuracy in percent of every method that has all of its trainings."""
    if stored is None:
        return {}
    found = {}
    for name in stored["methods"]:
        _, reported = of(name, stored["trainings"])
        good = [each["knn"] for each in reported if each["status"] == "ok"]
        if name not in missing(stored) and good:
            found[name] = 100 * statistics.fmean(good)
    return found


def mark(spread: Spread | None) -> str:
    """Return `~` where the spread is wide."""
    return "~" if spread and spread.noisy else ""


def times(ratio: Spread) -> str:
    """Return a factor with its mark."""
    return f"{mark(ratio)}{ratio.median:.1f}"


def hardware(result: Result, words: Mapping[str, str]) -> str:
    """Return what the times of a result were measured on, in few words."""
    machine = result.machine
    return str(machine["gpu"]) if result.on_gpu else words["threads"].format(**machine)
