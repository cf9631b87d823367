"""Networks of a QUANTA study in words: blocks, shapes, parameters, and where gates are."""

from __future__ import annotations

from collections.abc import Sequence

from ...models.network import Network
from ...models.quanta.gate import places
from ...result import Result
from .plan import Gates, QuantaPlan, shape_of
from .spec import CO, WITNESS, Quanta


def build_lines(plan: QuantaPlan) -> list[str]:
    """Return what a study would train, for a person."""
    spec, source = plan.spec, plan.spec.source_architecture or plan.spec.architecture
    name = plan.source.name if plan.source is not None else "trained first"
    gated = sorted({position for gates in plan.gates.values() for position, _, _ in gates})
    lines = [f"target on {plan.images.name}:"]
    classes = len(plan.images.classes)
    lines += network_lines(shape_of(spec, spec.architecture, classes), gated)
    lines += ["", f"source ({name}), frozen:"]
    lines += network_lines(shape_of(spec, source), gated)
    lines += ["", f"gates, v of source and target {', '.join(map(str, spec.start))}:"]
    lines += [
        f"  {_position(position):<12} {_modules(gates)}" for position, gates in plan.gates.items()
    ]
    trainings = plan.sweep.repeats * (len(plan.gates) + plan.sweep.witness)
    witness = ", and the target alone" if plan.sweep.witness else ""
    lines.append(
        f"{plan.sweep.repeats} × these{witness}: {trainings} trainings, --epochs {spec.epochs}"
    )
    return lines


def _position(position: str) -> str:
    return "all at once" if position == CO else f"position {position}"


def _modules(gates: Gates) -> str:
    return ", ".join(target for _, target, _ in gates)


def network_lines(network: Network, gated: Sequence[int] = ()) -> list[str]:
    """Return a row a block: number, modules, output of an image, parameters, and its gate."""
    outputs = [place.shape if place else () for place in places(network)]
    rows = [
        (
            str(number),
            block.name,
            " × ".join(map(str, shape)) or "–",
            f"{sum(t.numel() for t in network.tensors(block).values()):,}",
            "gate" if number - 1 in gated else "",
        )
        for number, (block, shape) in enumerate(zip(network.blocks, outputs, strict=True), 1)
    ]
    total = sum(p.numel() for p in network.parameters())
    names, shapes, sizes = (max(len(row[i]) for row in rows) for i in (1, 2, 3))
    return [
        *(
            f"{a:>4}  {b:<{names}}  {c:<{shapes}}  {d:>{sizes}}  {e}".rstrip()
            for a, b, c, d, e in rows
        ),
        f"head  {', '.join(network.head_names)}; {total:,} parameters in all",
    ]


def experiment_summary(results: Sequence[Result]) -> str:
    """Return what the original's expe_summary.txt has: task, settings, accuracies, network.

    results  of one position, with the witness where there is one
    """
    first = next(r for r in results if r.spec["position"] != WITNESS)
    spec = Quanta.from_json(first.spec)
    gated = [int(position) for position in first.details["positions"]]
    accuracies = {
        "source": (first.details["source_test"] or {}).get("top1"),
        "target": _accuracy(first),
        "target alone": next(
            (_accuracy(r) for r in results if r.spec["position"] == WITNESS), None
        ),
    }
    lines = [
        f"Source task: {first.details['source_name']}",
        f"Target task: {first.details['target_name']}",
        f"Layer: {first.spec['position']}",
        f"Eta: {spec.learning_rate:g}, eta decay: {spec.rate_decay:g}, LRM: {spec.multiplier:g}",
        f"v: {', '.join(map(str, spec.start))} ({spec.quanta_form})",
        f"Batch size: {spec.batch_size}, epochs: {spec.epochs}",
        *(
            f"Accuracy of the {name}: {'unknown' if value is None else f'{value:.4f}'}"
            for name, value in accuracies.items()
        ),
        "",
        f"Target: {spec.architecture}",
        *network_lines(shape_of(spec, spec.architecture, len(first.details["classes"])), gated),
    ]
    return "\n".join(lines) + "\n"


def _accuracy(result: Result) -> float | None:
    last = result.details["history"][-1] if result.details.get("history") else {}
    value = last.get("test_top1", last.get("val_top1"))
    return None if value is None else float(value)
