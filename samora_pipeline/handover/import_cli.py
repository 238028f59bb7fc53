"""samora_import: install a model that samora_export wrote, after checking all of it."""

import argparse
from pathlib import Path

from samora_pipeline.command_line import CommandParser, run, say

_EPILOG = """\
Sizes and digests of all files are compared with digests.json first. Names that no export has, links, files that
occur twice and anything that would expand are refused, and then nothing is written. A model that names code of others
(package.module:Class) is installed with --allow-code only. The permission is not stored: each command needs it again.

example:
  samora_import synapse_10pct.zip
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(build_parser(), _import, argv)


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_import", "Install an exported model.", _EPILOG)
    parser.add_argument("file", metavar="FILE", help="a zip or a folder that samora_export wrote")
    parser.add_argument("-o", dest="output", metavar="DIR", help="new folder (default: its place below results)")
    parser.add_argument("--allow-code", action="store_true", help="accept a run with parts named package.module:X")
    return parser


def _import(arguments: argparse.Namespace) -> None:
    from samora_pipeline.exported.install import install, verify
    from samora_pipeline.paths import resolve_roots
    from samora_pipeline.weights.catalog import ASSETS

    roots = resolve_roots(arguments.root)
    say(f"root: {roots.root} ({roots.origin})")
    verified = verify(Path(arguments.file), allow_code=arguments.allow_code)
    target = Path(arguments.output) if arguments.output else roots.results / verified.place
    install(verified, target)
    say(f"{target}: {len(verified.packed.sizes)} files, {verified.size / 1e6:,.1f} MB, all digests right")
    for warning in verified.model.warnings:
        say(f"warning: {warning}")
    for base in verified.model.bases:
        if not base.file:
            asset = next((asset for asset in ASSETS.values() if asset.sha256 == base.digest), None)
            way = asset.way if asset else f"put the file with that digest into {roots.weights}"
            say(f"its base encoder {base.name} (sha256 {base.digest}) is not part of it: {way}")
    for name in verified.code:
        say(f"it names code, which has to be installed here: {name}")
    say(f"read first: {target / 'MODEL_CARD.md'}, {target / 'LICENCES.md'}")
    option = " --allow-code" if verified.code else ""
    say(f"next: samora_predict -i SCANS -o OUT -m {target if arguments.output else verified.place}{option}")


if __name__ == "__main__":
    raise SystemExit(main())
