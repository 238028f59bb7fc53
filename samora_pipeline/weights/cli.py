"""samora_weights: public weights by name: list, get, add, verify."""

import argparse
from pathlib import Path

from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.errors import UsageError

_EPILOG = """\
  list                 the catalogue: name, state, licence, size, where
  get NAME ...         download (interrupted downloads resume) and verify the checksum
  add FILE ...         without a network: identify a file by its content and copy it into the weights folder
  verify [NAME ...]    recompute all checksums

examples:
  samora_weights get sam_vit_b
  samora_weights get mae_vit_l_full --accept-licence     CC-BY-NC-4.0: no commercial use
  samora_weights add ~/Downloads/sam_vit_b_01ec64.pth --link
"""


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_weights", "List, download, add and verify public weights.", _EPILOG)
    parser.add_argument("action", choices=("list", "get", "add", "verify"), metavar="ACTION", help="see below")
    parser.add_argument("names", nargs="*", metavar="NAME|FILE", help="catalogue names; files for add")
    parser.add_argument(
        "--accept-licence", action="store_true", help="accept a non-commercial licence (get, add); this is recorded"
    )
    parser.add_argument("--link", action="store_true", help="add: link to the file instead of copying it")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``samora_weights``."""
    return run(build_parser(), _act, argv)


def _act(arguments: argparse.Namespace) -> None:
    _check(arguments)
    from samora_pipeline.paths import resolve_roots
    from samora_pipeline.weights.catalog import ASSETS, named
    from samora_pipeline.weights.inventory import raise_faults, table, verify_all
    from samora_pipeline.weights.obtain import add, get

    folder, accept, names = resolve_roots(arguments.root).weights, arguments.accept_licence, arguments.names
    if arguments.action == "add":
        for name in names:
            asset = add(Path(name).expanduser(), folder, link=arguments.link, accept=accept)
            say(f"{asset.name}: {asset.path(folder)}  ({asset.licence})")
        return
    assets = [named(name) for name in names]
    if arguments.action == "list":
        say(f"weights: {folder}\n{table(folder)}")
    elif arguments.action == "get":
        for asset in assets:
            say(f"{asset.name}: {get(asset.name, folder, accept=accept)}")
    else:
        results = verify_all(assets or list(ASSETS.values()), folder, required=bool(names))
        for asset, path, fault in results:
            say(f"{asset.name}: {fault.what if fault else 'ok'}  {path}")
        raise_faults(results)


def _check(arguments: argparse.Namespace) -> None:
    action, names = arguments.action, arguments.names
    takes = action in ("get", "add")
    named = bool(names) if takes else action == "verify" or not names
    if named and (takes or not arguments.accept_licence) and (action == "add" or not arguments.link):
        return
    raise UsageError("E-ARG-08", found=f"{action} {' '.join(names)}".strip())


if __name__ == "__main__":
    raise SystemExit(main())
