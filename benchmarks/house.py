"""How the package is built: files, lines, import circles, and the longest import chain of each verb.

    python benchmarks/house.py [--source FOLDER]

``FOLDER`` is the ``src`` of any version, by default this one's: ``git worktree add /tmp/before 473a7e7`` gives another.
Imports inside functions count, as do those for type checkers only. ARCHITECTURE.md holds what it printed.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import grimp

PACKAGE = "hardviews"
Imports = Mapping[str, frozenset[str]]


def imports_of(source: Path) -> Imports:
    """Every module, and the modules of the package that it imports."""
    sys.path.insert(0, str(source))
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    return {module: frozenset(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}


def by_room(imports: Imports) -> Imports:
    """The imports between the folders of the package; a module that lies in none is a room of its own."""
    rooms = {module: ".".join(module.split(".")[:2]) for module in imports}
    found: dict[str, set[str]] = {room: set() for room in rooms.values()}
    for module, imported in imports.items():
        found[rooms[module]] |= {rooms[other] for other in imported} - {rooms[module]}
    return {room: frozenset(others) for room, others in found.items()}


def circles(imports: Imports) -> Iterator[tuple[str, ...]]:
    """Every elementary circle once, from the module whose name is first in it."""

    def walk(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for other in sorted(imports[path[-1]]):
            if other == path[0]:
                yield path
            elif other > path[0] and other not in path and path[0] in reached(other):
                yield from walk((*path, other))

    @cache
    def reached(start: str) -> frozenset[str]:
        seen, left = set[str](), [start]
        while left:
            new = imports[left.pop()] - seen
            seen |= new
            left += new
        return frozenset(seen)

    for module in imports:
        if module in reached(module):
            yield from walk((module,))


def longest_chain(imports: Imports, start: str) -> tuple[str, ...]:
    """The longest chain of imports from a module without a repeated one; in circles, the first that is found."""
    known: dict[str, tuple[str, ...]] = {}

    def longest(module: str, above: frozenset[str]) -> tuple[str, ...]:
        if module not in known:
            below = [longest(other, above | {module}) for other in sorted(imports[module]) if other not in above]
            known[module] = (module, *max(below, key=len, default=()))
        return known[module]

    return longest(start, frozenset({start}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1] / "src")
    source: Path = parser.parse_args().source.resolve()
    files = sorted((source / PACKAGE).rglob("*.py"))
    imports = imports_of(source)
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    folders = [file.parent for file in files if file.name != "__init__.py"]
    largest = max(set(folders), key=folders.count)
    print(f"files                  {len(files):,}")
    print(f"lines                  {lines:,}")
    print(f"largest folder         {largest.relative_to(source / PACKAGE)}, {folders.count(largest)} files")
    for name, some in (("modules", imports), ("rooms", by_room(imports))):
        found = list(circles(some))
        print(f"circles of {name:12}{len(found)}")
        for circle in found:
            print("   " + " > ".join(module.removeprefix(f"{PACKAGE}.") for module in (*circle, circle[0])))
    print("longest import chain of a verb")
    for module in imports:
        if module.startswith(f"{PACKAGE}.commands.") and (source / f"{module.replace('.', '/')}.py").read_text().count(
            "\ndef run(argv"
        ):
            chain = longest_chain(imports, module)
            print(
                f"   {module.rpartition('.')[2]:10} {len(chain):2}  " + " > ".join(x.rpartition(".")[2] for x in chain)
            )


if __name__ == "__main__":
    main()
