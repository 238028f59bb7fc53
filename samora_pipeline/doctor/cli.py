"""samora_doctor: whether this machine is set up, and if not, what has to be done; what an error code means."""

import argparse
import json
from dataclasses import asdict

from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.errors import ERRORS, SamoraError, UsageError
from samora_pipeline.registry import suggestion

_EPILOG = """\
Each line is ok, warn or fail, with its fix. Exit code: 0 nothing failed, 4 something is set up wrongly, 6 the machine
lacks something (disk). Checksums of the downloaded weights are recomputed (seconds per GB).
"""
_SCHEMA_VERSION = 1


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), _examine, argv)


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser(
        "samora_doctor", "Check the installation, machine, folders and weights, and suggest fixes.", _EPILOG
    )
    parser.add_argument("code", nargs="?", metavar="CODE", help="explain an error code instead (E-CASE-04)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def _examine(arguments: argparse.Namespace) -> int:
    if arguments.code:
        say(_explained(arguments.code.upper()))
        return 0
    from samora_pipeline.doctor.probes import all_probes, run_probes

    findings = run_probes(all_probes(arguments.root))
    code = max((finding.exit_code for finding in findings if finding.status == "fail"), default=0)
    if arguments.json:
        plain = {"schema_version": _SCHEMA_VERSION, "exit_code": code, "findings": [asdict(item) for item in findings]}
        say(json.dumps(plain, indent=2))
        return code
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        say(f"{finding.status:<4}  {finding.name:<{width}}  {finding.value}")
        if finding.fix:
            say(f"{'':<4}  {'':<{width}}  fix: {finding.fix}")
    failed, warned = (sum(finding.status == status for finding in findings) for status in ("fail", "warn"))
    say(f"{failed} failed, {warned} warnings")
    return code


def _explained(code: str) -> str:
    if code not in ERRORS:
        fix = "samora_doctor CODE, as it begins a message; docs/errors.md lists all"
        raise UsageError("E-NAME-01", kind="error", name=code, found=code, fix=fix, **suggestion(code, ERRORS))
    entry = ERRORS[code]
    return SamoraError(code, entry.what, expected=entry.expected, fix=entry.fix).text()


if __name__ == "__main__":
    raise SystemExit(main())
