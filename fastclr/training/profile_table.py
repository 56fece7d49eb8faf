"""A profile as a table, with advice on what to change."""

from __future__ import annotations

from fastclr.training.profile import Profile, Spread

SLOW_LOADING = 0.10  # fraction of a step
HOST_BOUND = 0.90  # fraction of a step


def format_profile(profile: Profile) -> str:
    """Format a profile as text."""
    p = profile
    precision = "bfloat16 autocast" if p.autocast else "float32"
    memory_format = ", channels_last" if p.channels_last else ""
    lines = [
        f"{p.encoder} ({p.parameters / 1e6:.2f} M parameters), batch of {p.batch_size} images, {p.device_name} "
        f"({p.device}, {p.threads} host threads), {precision}{memory_format}",
        p.data,
        "",
        f"{'stage':<20}{'ms':>10}{'[p20, p80]':>22}{'share':>9}",
        *(format_row(name, spread, p.share(name)) for name, spread in p.stages.items()),
        format_row("sum of the stages", p.stage_sum, 1.0),
        format_row("step of the loop", p.step),
        format_row("loop overhead", p.overhead, p.overhead.median / p.stage_sum.median),
        "",
        f"median of {p.steps} steps; the encoder is {100 * p.encoder_share:.1f}% of a step; "
        f"{p.images_per_s:,.0f} images/s; peak memory {p.peak_memory / 2**30:.2f} GiB"
        + ("" if p.device_memory is not None else " (of the process)"),
    ]
    if p.host_ms is not None:
        lines.append(f"the host takes {p.host_ms:.2f} ms to submit a step, and waits for the GPU {p.host_syncs} times")
    tips = advice(p)
    return "\n".join([*lines, "", "what to change:", *(f"  - {text}" for text in tips)] if tips else lines)


def format_row(name: str, spread: Spread, share: float | None = None) -> str:
    """Format one line of the table."""
    between = f"[{spread.p20:.2f}, {spread.p80:.2f}]"
    return f"{name:<20}{spread.median:>10.2f}{between:>22}" + ("" if share is None else f"{100 * share:>8.1f}%")


def advice(profile: Profile) -> list[str]:
    """Return the advice of every rule that applies."""
    return [text for rule in RULES if (text := rule(profile)) is not None]


def slow_loading(p: Profile) -> str | None:
    """Loading should overlap with training."""
    if p.share("loading") <= SLOW_LOADING:
        return None
    return (
        f"a step waits {100 * p.share('loading'):.0f}% of its time for the {p.loader} loader: try --loader resident if "
        f"the images fit into memory, otherwise --loader dali or more --workers"
    )


def slow_augmentation(p: Profile) -> str | None:
    """Augmentation should run natively, on the model's device; the reference is meant for tests only."""
    if not p.native_augmentation:
        return "the augmentation uses its slow reference implementation: build the extension (see `fastclr info`)"
    if p.device.startswith("cuda") and p.augment_device == "cpu":
        share = p.share("augmentation") + p.share("copy to device")
        return (
            f"the views are computed on the CPU and copied, {100 * share:.0f}% of a step: build the extension with "
            "CUDA (see `fastclr info`)"
        )
    return None


def idle_gpu(p: Profile) -> str | None:
    """An available GPU should be used."""
    if p.cuda_available and p.device == "cpu":
        return "a CUDA device is available, but this ran on the CPU: use --device cuda"
    return None


def float32_on_gpu(p: Profile) -> str | None:
    """bfloat16 doubles tensor-core throughput and halves the memory of activations."""
    if p.device.startswith("cuda") and p.bf16_available and not p.autocast:
        return "the encoder runs in float32 on a GPU that supports bfloat16: use --amp bf16"
    return None


def channels_first(p: Profile) -> str | None:
    """Tensor-core convolutions need channels_last, and transpose any other layout."""
    if p.device.startswith("cuda") and p.convolutional and not p.channels_last:
        return "the convolutions receive channels-first tensors and must transpose them: use --channels-last"
    return None


def small_batch(p: Profile) -> str | None:
    """A GPU that outruns Python's submission of work sits idle."""
    if p.host_ms is None or p.host_ms < HOST_BOUND * p.step.median:
        return None
    text = (
        f"the GPU waits for the host, which takes {p.host_ms:.1f} ms to submit a step of {p.step.median:.1f} ms: a "
        f"larger --batch-size costs little time"
    )
    # activations grow with the batch; a tenth is reserved for everything else on the device
    factor = int(0.9 * (p.device_memory or 0) / p.peak_memory)
    return text if factor < 2 else f"{text} (about {factor * p.batch_size} would fit into memory)"


RULES = (slow_loading, slow_augmentation, idle_gpu, float32_on_gpu, channels_first, small_batch)
