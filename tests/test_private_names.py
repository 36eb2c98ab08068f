"""Names that other libraries do not promise to keep are used in the compat modules alone, where each has a probe."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for folder in ("padd_cli", "stages", "artifacts") for path in (ROOT / folder).rglob("*.py")
)
COMPAT = {ROOT / "padd_cli" / "compat.py", *(ROOT / "stages" / "lib" / "compat").glob("*.py")}
OWN = ("padd_cli", "padd_stages", "padd_artifacts")
# Names with an underscore that Python documents: of named tuples, and to leave a forked child.
DOCUMENTED = {"_replace", "_exit"}
# What these libraries document stands in their top level, and in these submodules; what is below moves freely.
PUBLIC_SUBMODULES = {
    "transformers": {"transformers.utils"},
    "accelerate": {"accelerate.utils", "accelerate.tracking"},
    "math_verify": set(),
    "typer": set(),
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined_names(tree: ast.AST) -> set[str]:
    """Private names that this source makes: functions, classes, variables, parameters, attributes that it sets."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            names.add(node.attr)
    return {name for name in names if is_private(name)}


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def foreign_names(tree: ast.AST, own: set[str]) -> list[str]:
    """``line: name`` of each private or undocumented name of another package."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own | DOCUMENTED:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "setattr",
            "delattr",
        ):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in own:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Import):
            found += [f"{node.lineno}: {alias.name}" for alias in node.names if _inside(alias.name, "")]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [
                f"{node.lineno}: {node.module}.{alias.name}"
                for alias in node.names
                if _inside(node.module, alias.name)
            ]
    return found


def _inside(module: str, name: str) -> bool:
    """Whether ``from module import name`` reaches into another package."""
    package = module.split(".")[0]
    if package in OWN or package == "__future__":
        return False
    if any(is_private(part) for part in (*module.split("."), name)):
        return True
    return package in PUBLIC_SUBMODULES and module != package and module not in PUBLIC_SUBMODULES[package]


def test_other_packages_private_names_are_used_in_the_compat_modules_alone():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    own = set().union(*map(defined_names, trees.values()))
    found = {
        str(path.relative_to(ROOT)): names
        for path, tree in trees.items()
        if path not in COMPAT and (names := foreign_names(tree, own))
    }
    assert found == {}
    assert any(foreign_names(trees[path], own) for path in COMPAT), "the check sees none where there are some"


@pytest.mark.parametrize(
    "line",
    [
        "model._no_split_modules",
        "torch._C._current_graph_task_id()",
        "getattr(config, '_commit_hash', None)",
        "hasattr(experts, '_apply_gate')",
        "self._backward_hooks.clear()",
        "from torch._C import Graph",
        "from torch.nn.modules.module import _global_forward_hooks",
        "import torch._dynamo",
        "from transformers.modeling_layers import GradientCheckpointingLayer",
        "import accelerate.commands.launch",
        "from typer.core import TyperGroup",
    ],
)
def test_a_new_use_is_found(line):
    own = defined_names(ast.parse("class A:\n    def _mine(self): self._kept = _x = 1"))
    assert own == {"_mine", "_kept", "_x"}
    assert len(foreign_names(ast.parse(line), own)) >= 1


def test_what_is_ours_or_documented_is_no_use():
    source = (
        "from transformers import Cache\nfrom transformers.utils import logging\nfrom torch.nn import functional as F\n"
        "from padd_stages.a import _Mode\nself._mine()\nrow._replace(a=1)\nos._exit(0)\nx.__dict__\n_ = 1\n"
        "getattr(x, 'public')\nhasattr(y, '__len__')\n"
    )
    assert foreign_names(ast.parse(source), {"_mine"}) == []
