"""One Markdown page: every claim with its outcome, then what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verifying.claims import Claim, Facts, Row, judge

_MOST_ROWS = 12
"""Of the table of curves."""

_CURVES: Sequence[tuple[str, str, float, str]] = (
    ("minute", "minute", 1.0, ".2f"),
    ("process, MB", "rss_bytes", 1e-6, ".0f"),
    ("machine has left, MB", "available_bytes", 1e-6, ".0f"),
    ("hottest, °C", "celsius", 1.0, ".1f"),
    ("GPU, MHz", "gpu_hertz", 1e-6, ".0f"),
    ("GPU busy, %", "gpu_load", 100.0, ".0f"),
    ("W", "watts", 1.0, ".1f"),
    ("throttled", "throttled", 1.0, ".0f"),
)


def write_report(claims: Sequence[Claim], facts: Facts) -> tuple[str, bool]:
    """Return the page, and whether no claim failed.

    Args:
        claims: In the order of the page.
        facts: What each step found.
    """
    rows = [judge(claim, facts) for claim in claims]
    return "\n".join(_page(rows, facts)) + "\n", not any(row.outcome == "fail" for row in rows)


def _page(rows: Sequence[Row], facts: Facts) -> Iterator[str]:
    counts = Counter(row.outcome for row in rows)
    yield "# jetface, verified"
    yield ""
    yield from _machine(facts)
    yield ""
    told = ", ".join(f"{counts[name]} {name}" for name in ("pass", "fail", "figure", "not run"))
    yield f"**{'FAILED' if counts['fail'] else 'No claim failed'}**: {told}."
    yield ""
    yield "| claim | outcome | found | said in | id |"
    yield "|---|---|---|---|---|"
    for row in rows:
        files = ", ".join(dict.fromkeys(f"`{place.file}`" for place in row.claim.places))
        outcome = f"**{row.outcome}**" if row.outcome in {"pass", "fail"} else row.outcome
        yield f"| {_cell(row.claim.text)} | {outcome} | {_cell(row.told)} | {files} | {row.claim.id} |"
    yield from _steps(facts)
    yield from _curves(facts.get("soak", {}))
    yield from _details(facts)


def _machine(facts: Facts) -> Iterator[str]:
    run, doctor = facts.get("run", {}), facts.get("doctor", {})
    machine, software = doctor.get("machine") or {}, doctor.get("software") or {}
    jetson, gpu = machine.get("jetson") or {}, machine.get("gpu") or {}
    packages = software.get("packages") or {}
    start = facts.get("start", {})
    version = doctor.get("jetface", start.get("version", "unknown"))
    lines = {
        "when": run.get("started"),
        "jetface": f"{version}, revision {run.get('revision', 'unknown')}",
        "how": run.get("mode"),
        "image": run.get("image"),
        "machine": jetson.get("module") or machine.get("architecture"),
        "L4T": jetson.get("l4t_release"),
        "power mode": jetson.get("power_mode"),
        "GPU driver": gpu.get("driver"),
        "CPU cores on, of": "{online}, {present}".format(**machine["cores"]) if machine.get("cores") else None,
        "TensorRT": software.get("tensorrt"),
        "CUDA": software.get("cuda"),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()) or None,
        "models run on": _pairs(start.get("backends")),
        "engines": _pairs(start.get("engines")),
    }
    yield "| | |"
    yield "|---|---|"
    for name, value in lines.items():
        if value:
            yield f"| {name} | {_cell(value)} |"


def _steps(facts: Facts) -> Iterator[str]:
    failed = {step: found["not_run"] for step, found in facts.items() if "not_run" in found}
    if failed:
        yield ""
        yield "## Steps that were not run"
        yield ""
        for step, why in failed.items():
            yield f"- {step}: {why}"


def _curves(soak: Mapping[str, Any]) -> Iterator[str]:
    points = soak.get("points") or []
    if not points:
        return
    shown = [column for column in _CURVES if any(column[1] in point for point in points)]
    yield ""
    yield "## Soak"
    yield ""
    yield (
        f"{soak['minutes']:.1f} minutes, {soak['num_callers']} callers, {soak['requests']} answers, {soak['refused']} "
        f"refused, {soak['failed']} failed; median {soak['p50_ms'] or 0:.1f} ms, p99 {soak['p99_ms'] or 0:.1f} ms."
    )
    if soak["reason"]:
        yield f"The first failure: {soak['reason']}"
    if soak["rss_growth_percent"] is None and soak["rss_growth_unjudged_percent"] is not None:
        yield f"Too short to judge growth; the process's memory went by {soak['rss_growth_unjudged_percent']:+.1f} %."
    yield ""
    yield f"| {' | '.join(title for title, *_ in shown)} |"
    yield f"|{'---|' * len(shown)}"
    step = max(1, (len(points) - 1) / (_MOST_ROWS - 1))
    chosen = dict.fromkeys(min(len(points) - 1, round(number * step)) for number in range(_MOST_ROWS))
    for point in (points[index] for index in chosen):
        cells = [f"{point[key] * scale:{form}}" if key in point else "" for _, key, scale, form in shown]
        yield f"| {' | '.join(cells)} |"


def _details(facts: Facts) -> Iterator[str]:
    findings = facts.get("doctor", {}).get("findings") or []
    engines, bench, answers = facts.get("engines", {}), facts.get("bench", {}), facts.get("answers", {})
    lines = [
        *(f"- {each['severity']}, `{each['name']}`: {each['what']} Mend: {each['cure']}" for each in findings),
        *(
            f"- engine of {name} rejected: {why}"
            for name, why in (facts.get("start", {}).get("rejected") or {}).items()
        ),
        *(f"- engine check: {verdict}" for verdict in engines.get("verdicts", [])),
        *(f"- engine check: {fault}" for fault in engines.get("faults", [])),
        *(f"- golden: {fault}" for fault in answers.get("golden", {}).get("faults", [])),
        *(f"- bench, {case['name']}: {_case(case, 'faces')}" for case in bench.get("cases", [])),
        *(f"- plates, {case['name']}: {_case(case, 'plates')}" for case in facts.get("plates", {}).get("cases", [])),
    ]
    if lines:
        yield ""
        yield "## Besides"
        yield ""
        yield from lines


def _case(case: Mapping[str, Any], kind: str) -> str:
    figures = case["figures"]
    if not figures:
        return f"not measured: {case['reason']}"
    one, many = figures["one"], figures["many"]
    return (
        f"{many['pictures_per_s']:.1f} pictures/s and {many[f'{kind}_per_s']:.1f} {kind}/s by {figures['callers']} "
        f"callers; of one caller the median is {one['p50_ms']:.1f} ms, the p99 {one['p99_ms']:.1f} ms; "
        f"{figures['peak_rss_mib']:.0f} MiB"
    )


def _pairs(values: Mapping[str, Any] | None) -> str | None:
    return ", ".join(f"{name}: {value}" for name, value in values.items()) if values else None


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
