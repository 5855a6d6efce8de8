"""Modules import each other in one direction only, also for types and inside functions."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("rattle", cache_dir=None)
    # The package itself is left out: it hands out names of modules below it when they are asked for.
    imports = {name: graph.find_modules_directly_imported_by(name) - {"rattle"} for name in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        circle = error.args[1]
        raise AssertionError(" imported by ".join(circle)) from None
