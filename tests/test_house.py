"""Arrows between the package's files point one way: down the rooms below, and never in a circle.

Every import counts: relative, absolute, inside a function, under TYPE_CHECKING, and `import_module`
also with a name that is put together.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import sbc_kernels

ROOT = Path(sbc_kernels.__file__).parent

# The order of the rooms, bottom first. A file belongs to the longest name that it starts with. It may
# import from rooms earlier in this list and from its own; rooms on one line do not import each other.
ORDER = (
    ("_native", "_version", "errors", "memory", "scalars", "threads"),
    ("neurons", "conv", "sparsity"),
    ("arrays",),
    ("grid",),
    ("weights",),
    ("backends",),
    ("hessian",),
    ("ops",),
    ("method",),
    ("layer_input",),
    ("layer",),
    ("files",),
    ("frameworks",),
    ("network",),
    ("metrics",),
    ("export",),
    ("io",),  # older names of files and export.nir
    ("report",),
    ("model",),
    ("demo",),
    ("cli",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FACE = ""  # sbc_kernels/__init__.py: it shows whatever there is, and nobody imports it


class Arrow(NamedTuple):
    source: str
    target: str


def test_no_arrow_points_up() -> None:
    arrows = arrows_of(ROOT)
    rising = [arrow for arrow in arrows if points_up(arrow)]
    assert not rising, "these imports point up:\n" + text_of(rising, arrows)


def test_no_circle() -> None:
    arrows = arrows_of(ROOT)
    circles = circles_of(arrows)
    lines = [
        text_of([a for a in arrows if a.source in circle and a.target in circle], arrows)
        for circle in circles
    ]
    assert not circles, "these files import each other in a circle:\n" + "\n\n".join(lines)


def test_every_file_has_a_room() -> None:
    names = modules_of(ROOT)
    homeless = [name for name in names if name != FACE and room_of(name) is None]
    assert not homeless, f"no room in ORDER for {homeless}"


def test_all_kinds_of_imports_are_seen(tmp_path: Path) -> None:
    package = tmp_path / "house"
    (package / "top").mkdir(parents=True)
    (package / "__init__.py").write_text("from .top import a\n")
    (package / "low.py").write_text("VALUE = 1\n")
    (package / "top" / "__init__.py").write_text("")
    (package / "top" / "b.py").write_text("from . import a\n")
    (package / "top" / "a.py").write_text(
        "from importlib import import_module\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from ..low import VALUE\n"
        "def late(name):\n    from house import low\n    import_module(f'{__package__}.{name}')\n"
    )
    arrows = arrows_of(package)
    assert set(arrows) == {
        ("", "top.a"), ("top.b", "top.a"), ("top.a", "top.b"), ("top.a", "low"),
    }  # fmt: skip
    assert arrows[Arrow("top.a", "low")] == {"VALUE", "low"}
    assert circles_of(arrows) == [["top.a", "top.b"]]


def test_what_points_up() -> None:
    """Into a later room, into another room on the same line, and to the face."""
    rising = [("grid", "cli.data"), ("errors", "_version"), ("model.run", FACE)]
    assert all(points_up(Arrow(*pair)) for pair in rising)
    falling = [("cli.data", "grid"), ("model.run", "model.plan"), (FACE, "model")]
    assert not any(points_up(Arrow(*pair)) for pair in falling)
    arrow = Arrow("grid", "cli.data")
    assert text_of([arrow], {arrow: {"load", "save"}}) == "grid -> cli.data: load, save"


# ---- the walk ----------------------------------------------------------------------------------


def modules_of(root: Path) -> dict[str, Path]:
    """Files by module name without the package's own; a folder's `__init__` has the folder's name."""
    names = {}
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.pyi")]):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def arrows_of(root: Path) -> dict[Arrow, set[str]]:
    """Which file imports which, with the names that it takes from there."""
    modules = modules_of(root)
    arrows: dict[Arrow, set[str]] = defaultdict(set)
    for source, path in modules.items():
        package = source if path.name == "__init__.py" else source.rpartition(".")[0]
        for target, name in imports_of(ast.parse(path.read_text()), package, root.name, modules):
            whole = f"{target}.{name}".strip(".")
            found = whole if whole in modules else target
            while found not in modules:  # `import house.top.VALUE` and the like
                found = found.rpartition(".")[0]
            if found != source:
                arrows[Arrow(source, found)].add(name or "*")
    return dict(arrows)


def imports_of(
    tree: ast.AST, package: str, top: str, modules: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """(module, name) of each import of the package's own, the module without the package's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == top or alias.name.startswith(f"{top}."):
                    yield alias.name[len(top) + 1 :], ""
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = absolute("." * node.level + base, package)
            elif base == top or base.startswith(f"{top}."):
                base = base[len(top) + 1 :]
            else:
                continue
            for alias in node.names:
                yield base, alias.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((module, "") for module in named_by(node.args[0], package, top, modules))


def named_by(name: ast.expr, package: str, top: str, modules: Iterable[str]) -> list[str]:
    """Modules that `import_module` may be given; of a name put together, all that it fits."""
    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
    pattern = ""
    for part in parts:
        if isinstance(part, ast.Constant):
            pattern += re.escape(str(part.value))
        elif ast.unparse(part) in ("{__package__}", "{__name__}"):
            pattern += re.escape(f"{top}.{package}".rstrip("."))
        else:
            pattern += r"\w+"
    if pattern.startswith(re.escape(".")):
        pattern = re.escape(f"{top}.{package}".rstrip(".")) + pattern
    return [module for module in modules if re.fullmatch(pattern, f"{top}.{module}")]


def absolute(relative: str, package: str) -> str:
    dots = len(relative) - len(relative.lstrip("."))
    parts = package.split(".") if package else []
    return ".".join([*parts[: len(parts) - dots + 1], relative.lstrip(".")]).strip(".")


def room_of(module: str) -> str | None:
    parts = module.split(".")
    prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in RANK), None)


def points_up(arrow: Arrow) -> bool:
    if arrow.source == FACE:
        return False
    if arrow.target == FACE:
        return True
    source, target = room_of(arrow.source), room_of(arrow.target)
    assert source is not None, arrow
    assert target is not None, arrow
    return source != target and RANK[source] <= RANK[target]


def circles_of(arrows: dict[Arrow, set[str]]) -> list[list[str]]:
    """Groups of two and more files that can each be reached from each other."""
    following: dict[str, set[str]] = defaultdict(set)
    for source, target in arrows:
        following[source].add(target)
    reach = {start: reachable(start, following) for start in list(following)}
    groups = {
        tuple(sorted(n for n in reach[start] if start in reach.get(n, ()))) for start in reach
    }
    return sorted(list(group) for group in groups if len(group) > 1)


def reachable(start: str, following: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in following.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def text_of(some: list[Arrow], arrows: dict[Arrow, set[str]]) -> str:
    return "\n".join(
        f"{arrow.source or 'the face'} -> {arrow.target or 'the face'}: "
        + ", ".join(sorted(arrows[arrow]))
        for arrow in some
    )
