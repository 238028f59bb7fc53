"""The modules of the package import each other in one direction only."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_no_module_is_imported_by_what_it_imports() -> None:
    graph = grimp.build_graph("dataset_conversion", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    order = list(TopologicalSorter(imports).static_order())
    assert order.index("dataset_conversion.writing") < order.index("dataset_conversion.converter")
