"""`dehazexl plan IN`: how a scene would be run, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.text import to_json

if TYPE_CHECKING:
    from dehazexl_cli.engine import PreparedRun
    from dehazexl_cli.models.base import DehazeModel
    from dehazexl_cli.plan import Plan


@shares(*options.PLANNING)
def plan(
    source: options.Input,
    shared: Shared,
    as_json: options.Json = False,
) -> None:
    """Print how IN would be run on this machine, what it would need, and why. Nothing is written.

    Example: dehazexl plan huge.tif --max-ram 4G
    """
    print_plan(source, shared, as_json)


def print_plan(source: str, shared: Shared, as_json: bool) -> None:
    """Decide as a run would, and print it on stdout."""
    config = shared.run_config()
    from dehazexl_cli.engine import prepare
    from dehazexl_cli.files import open_scene

    opened = open_scene(source, config)
    try:
        name, network = network_for(shared)
        facts = describe(prepare(opened.reader, network, opened.options), name, network)
    finally:
        opened.reader.close()
    output.put(to_json(facts, 2) if as_json else "\n".join(sentences(facts)))


def network_for(shared: Shared) -> tuple[str, DehazeModel]:
    """The network after its name; without a weight file only its shape, which costs no memory."""
    from dehazexl_cli.models.loading import DEFAULT_MODEL, GENERIC

    name = shared.model or DEFAULT_MODEL
    if shared.weights is not None or name == GENERIC or shared.multiple is not None:
        loaded = shared.load_model()
        return loaded.name, loaded.model
    import torch

    from dehazexl_cli.models import build

    with torch.device("meta"):
        return name, build(name)


def describe(job: PreparedRun, model: str, network: DehazeModel) -> dict[str, Any]:
    """What was decided, as plain values."""
    from dehazexl_cli.engine import describe_group
    from dehazexl_cli.engine.device import precision_name

    info, shown = job.scene.reader.info, job.scene.groups[0]
    return {
        "input": info.name,
        "height": info.height,
        "width": info.width,
        "count": info.count,
        "dtype": info.dtype,
        "bands": list(shown.bands),
        "range": [shown.ranges[0].low, shown.ranges[0].high],
        "range_source": shown.ranges[0].source,
        "groups": [describe_group(group) for group in job.scene.groups],
        "notes": list(job.notes),
        "model": model,
        "device": ",".join(map(str, job.devices)),
        "precision": precision_name(job.dtype),
        "mode": {"kind": job.layout.kind} | job.layout.facts,
        "patches": [job.layout.inner.rows, job.layout.inner.cols],
        "overlap": job.layout.inner.overlap,
        "gather": network.token_reduction if network.supports_streaming else None,
        "budget": {"host_bytes": job.budget.host_bytes, "device_bytes": job.budget.device_bytes},
        "plan": job.plan.to_dict(),
        "smallest": smallest(job).to_dict(),
        "rejected": [plan.to_dict() for plan in job.plans[: job.first]],
    }


def smallest(job: PreparedRun) -> Plan:
    """The plan that needs least of those that cut the scene no further than the chosen one."""
    alike = [plan for plan in job.plans if plan.tile == job.plan.tile]
    return min(alike, key=lambda plan: (plan.host_bytes + plan.device_bytes, job.plans.index(plan)))


def sentences(facts: dict[str, Any]) -> list[str]:
    """The same for a person."""
    plan, budget = facts["plan"], facts["budget"]
    rows, cols = facts["patches"]
    waiting = {
        "host": "kept in memory between encoding and decoding",
        "device": "kept on the device between encoding and decoding",
        "disk": "kept in a temporary file between encoding and decoding, as they do not fit into memory",
        "recompute": "computed again when decoding, as they do not fit",
    }[plan["skips"]]
    if plan["cached_patches"] is not None:
        some = f"those of {plan['cached_patches']} patches {waiting}"
        waiting = f"{some}, the others computed again, as they do not fit"
    attention = {
        "exact": "exact, every token sees every other",
        "sampled": "sampled, as exact attention would take longer than all patches",
    }[plan["attention"]]
    if plan["query_chunk"]:
        attention += f"; {plan['query_chunk']} tokens attend at a time, which needs less memory"
    lines = [
        f"scene      {facts['width']} x {facts['height']} pixels, {facts['count']} bands of {facts['dtype']}",
        *(group_sentence(group, facts["range_source"]) for group in facts["groups"]),
        f"model      {facts['model']} on {facts['device']} in {facts['precision']}",
        f"mode       {mode_sentence(facts['mode'])}",
        f"patches    {cols} x {rows}, sharing {facts['overlap']} pixels, {plan['batch']} at a time",
        *{
            "stack": [f"attention  {attention}", f"features   {waiting}"],
            "sum": ["context    patches add up to a small view of the scene, by which each is rewritten"],
            None: [],  # what a network from elsewhere does inside, nobody knows
        }[facts["gather"]],
        f"memory     {size(plan['host_bytes'])} expected, {size(budget['host_bytes'])} allowed, "
        f"{size(facts['smallest']['host_bytes'])} at least",
    ]
    if budget["device_bytes"] is not None:
        lines.append(
            f"device     {size(plan['device_bytes'])} expected, {size(budget['device_bytes'])} allowed"
        )
    notes = [f"note       {note}" for note in facts["notes"]]
    return [*lines, *map(rejection, facts["rejected"]), *notes]


def rejection(plan: dict[str, Any]) -> str:
    """A plan that needs too much, for a person."""
    features = f"tiles of {plan['tile']} pixels" if plan["tile"] else f"features {plan['skips']}"
    tokens = f", {plan['query_chunk']} tokens attending at a time" if plan["query_chunk"] else ""
    device = f" and {size(plan['device_bytes'])} on the device" if plan["device_bytes"] else ""
    return f"rejected   {features}, batch {plan['batch']}{tokens}: needs {size(plan['host_bytes'])}{device}"


def group_sentence(group: dict[str, Any], source: str) -> str:
    """Bands that are shown to the model together, for a person."""
    unlike = [pair for pair in group["ranges"] if pair != group["ranges"][0]]
    ranges = group["ranges"] if unlike else group["ranges"][:1]
    shown = ", ".join(f"{low:g} to {high:g}" for low, high in ranges)
    return f"bands      {','.join(map(str, group['bands']))}; {shown} shown to the model as 0 to 1 ({source})"


def mode_sentence(mode: dict[str, Any]) -> str:
    """The mode for a person."""
    if mode["kind"] == "tile":
        rows, cols = mode["tiles"]
        return (
            f"tile: {cols} x {rows} tiles of {mode['tile']} pixels, each by itself, sharing "
            f"{mode['tile_overlap']} ({mode['blend']}); patches are those of one tile"
        )
    if mode["kind"] == "downsample":
        height, width = mode["picture"]
        return (
            f"downsample: a picture of {width} x {height} pixels in one pass, brought back by "
            f"{mode['upsampling']} upsampling"
        )
    plain = {"global": "global: all patches see each other", "whole": "whole: the scene in one pass"}
    return plain[mode["kind"]]


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 2**30:.2f} GB"
