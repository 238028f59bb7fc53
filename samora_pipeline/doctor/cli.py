"""samora_doctor: is this machine set up, and if not, what has to be done."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial

from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.doctor.findings import Finding, Probe, exit_code, run_probes
from samora_pipeline.paths import Roots

_EPILOG = """\
Each line is ok, warn or fail, with what mends it. Exit code: 0 nothing failed, 4 something is set up wrongly, 6 the
machine lacks something (disk, memory). Digests of weights that are here are taken anew, which takes seconds per GB.
"""
_SCHEMA_VERSION = 1


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), _examine, argv)


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_doctor", "Examine installation, machine, folders and weights.", _EPILOG)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def _examine(arguments: argparse.Namespace) -> int:
    findings = run_probes(probes(arguments.root))
    code = exit_code(findings)
    if arguments.json:
        plain = {"schema_version": _SCHEMA_VERSION, "exit_code": code, "findings": [asdict(item) for item in findings]}
        say(json.dumps(plain, indent=2))
        return code
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        say(f"{finding.status:<4}  {finding.name:<{width}}  {finding.value}")
        if finding.fix:
            say(f"{'':<4}  {'':<{width}}  fix: {finding.fix}")
    count = {status: sum(finding.status == status for finding in findings) for status in ("fail", "warn")}
    say(f"{count['fail']} failed, {count['warn']} warnings")
    return code


def probes(root: str | None) -> list[tuple[str, Probe]]:
    """All probes in the order of the report, by the name of what they look at."""
    from samora_pipeline.doctor import machine, places, software

    def placed(name: str) -> Probe:
        return partial(_placed, getattr(places, name), root)

    return [
        ("python", software.python),
        ("packages", software.packages),
        ("torchvision", software.torch_pairing),
        ("extras", software.extras),
        ("devices", machine.devices),
        ("threads", machine.threads),
        ("memory", machine.memory),
        ("shared memory", machine.shared_memory),
        ("open files", machine.open_files),
        ("roots", placed("roots")),
        ("writing", placed("permission")),
        ("disk", placed("space")),
        ("weights", placed("weights")),
        ("datasets", placed("datasets")),
    ]


def _placed(probe: Callable[[Roots], Iterable[Finding]], root: str | None) -> Iterator[Finding]:
    # Resolved anew for each, so that roots that cannot be resolved are a finding and not the end.
    from samora_pipeline.paths import resolve_roots

    yield from probe(resolve_roots(root))


if __name__ == "__main__":
    raise SystemExit(main())
