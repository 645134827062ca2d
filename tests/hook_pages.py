"""docs/extensions/hooks: a page for each hook, made from the specs, its users and the tests that name it; and one of
all names that an extension may import.

``python -m tests.hook_pages`` writes them anew; ``tests/test_hook_pages.py`` holds them against the specs.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import backend.api
import webui.api
from backend import hookspecs as engine_specs
from webui import hookspecs as web_specs

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "extensions" / "hooks"
NAMES = "names.md"
MOST_TESTS = 2
LONGEST = 100  # characters of a signature on one line

FAILURES: Mapping[tuple[str, str], str] = {
    (
        "engine",
        "registry",
    ): "An exception, or something else than these specs: the extension is off until the next start, "
    "and the list says why. A name that is taken switches the later extension off and names both.",
    (
        "engine",
        "job",
    ): "An exception, something else returned, or a change of torch's global state fails the job and names "
    "the extension. A `UserError` (`BadRequest`) reaches the user as it is.",
    (
        "engine",
        "observer",
    ): "An exception is a warning; after three the extension's observers are off until the next start.",
    (
        "web",
        "registry",
    ): "An exception, or something else returned, switches the extension off in the web process; no answer "
    "within 30 seconds ends the process, which comes back without the extension.",
    (
        "web",
        "observer",
    ): "An exception, or no answer within ten seconds, is a warning; after three the hook is off until the next start.",
    (
        "web",
        "queue",
    ): "An exception, no answer within ten seconds, or another answer: the order of arrival holds; after three "
    "the hook is off until the next start.",
}


#: Names without a docstring of their own.
PLAIN: Mapping[str, str] = {
    "API_VERSION": "Of what an extension may import; `api` in its manifest is held against it.",
    "Branches": "The clean latents of the latest call's branches, by name; what `reads_branches` gives a sampler.",
    "Denoiser": "`denoise(x, sigma)`, which answers with the clean latent, guidance included.",
    "Family": "Names of the families of checkpoints.",
    "HintKind": "What a hint of a preprocessor shows, for networks that know several kinds.",
    "hookimpl": "Marks a function as the hook of its name.",
    "JobState": "States of a job in the queue.",
    "OnStep": "What a sampler calls after each step, with a `StepState`.",
    "Options": "The type of a field that `options` makes: values by name.",
    "Residual": "What is added to an output of a block: a tensor of its shape.",
    "PROMPTS": "Fields of a request that hold a prompt.",
}


@dataclass(frozen=True)
class Hook:
    """A hook of one process.

    Attributes:
        kind: registry, job, observer or queue.
        rest: of its docstring, after the summary.
    """

    name: str
    process: str
    signature: str
    kind: str
    summary: str
    rest: str
    types: tuple[str, ...]

    @classmethod
    def of(cls, name: str, process: str, spec: object) -> Hook:
        """What the spec's function says."""
        assert callable(spec)
        doc = inspect.cleandoc(spec.__doc__ or "").replace("``", "`")
        kind = re.search(r"Kind: (\w+)\.", doc)
        first, _, rest = doc.partition("\n\n")
        signature = _signature(name, inspect.signature(spec))
        return cls(
            name=name,
            process=process,
            signature=signature,
            kind=kind[1] if kind else "",
            summary=" ".join(re.sub(r"Kind: \w+\.", "", first).split()),
            rest=re.sub(r"Kind: \w+\. ?", "", rest).strip(),
            types=tuple(dict.fromkeys(re.findall(r"\b[A-Z]\w+\b", signature))),
        )


def hooks() -> list[Hook]:
    """Every hook of both processes, by name."""
    found = [
        Hook.of(name, process, getattr(specs, name))
        for process, specs in (("engine", engine_specs), ("web", web_specs))
        for name in _spec_names(specs)
    ]
    return sorted(found, key=lambda hook: (hook.name, hook.process))


def users(hook: Hook) -> list[str]:
    """The shipped extensions and ports that implement it."""
    wanted = (hook.process, hook.name)
    return sorted({owner for owner, process, name in _implementations() if (process, name) == wanted})


def trials(hook: Hook) -> list[str]:
    """Tests that name it, as ``file::function``, those called after it first; the file where only a constant does."""
    functions, files = [], []
    for path in _test_files():
        text = path.read_text(encoding="utf-8")
        if not re.search(rf"\b{hook.name}\b", text) or (hook.process == "web") != _is_of_web(path, text):
            continue
        place = path.relative_to(ROOT).as_posix()
        files.append(place)
        for node in ast.walk(ast.parse(text)):
            is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            if is_test and re.search(rf"\b{hook.name}\b", ast.get_source_segment(text, node) or ""):
                functions.append(f"{place}::{node.name}")
    after_it = [each for each in functions if each.endswith(f"::test_hook_{hook.name}")]
    return (after_it or functions or files)[:MOST_TESTS]


def page(name: str) -> str:
    """The whole page of a hook; it may exist in both processes."""
    parts = [f"# `{name}`\n", "Made from the specs by `python -m tests.hook_pages`; do not edit.\n"]
    parts += [_section(hook) for hook in hooks() if hook.name == name]
    return "\n".join(parts)


def index() -> str:
    """The table of all hooks."""
    lines = ["# Hooks\n", "Made from the specs by `python -m tests.hook_pages`; do not edit.\n"]
    lines += ["| hook | process | kind | for |", "|---|---|---|---|"]
    for hook in hooks():
        summary = hook.summary.replace("|", "\\|")
        lines.append(f"| [`{hook.name}`]({hook.name}.md) | {hook.process} | {hook.kind} | {summary} |")
    return "\n".join(lines) + "\n"


def names() -> str:
    """The page of everything that an extension may import, a row each."""
    parts = ["# Names to import\n", "Made from the modules by `python -m tests.hook_pages`; do not edit.\n"]
    for module, side in ((backend.api, "engine"), (webui.api, "web")):
        parts += [f"## `{module.__name__}`, for the {side} side\n", "| name | what it is |", "|---|---|"]
        parts += [f"| `{name}` | {told(module, name)} |" for name in sorted(module.__all__, key=str.casefold)]
        parts += [""]
    return "\n".join(parts)


def told(module: ModuleType, name: str) -> str:
    """What a name is, in the first sentence of its docstring; what has none is in ``PLAIN``."""
    value = getattr(module, name)
    if name in PLAIN or not (inspect.isclass(value) or inspect.isfunction(value)):
        return PLAIN.get(name, "")
    doc = inspect.cleandoc(value.__doc__ or "").partition("\n\n")[0]
    return " ".join(doc.replace("``", "`").replace("|", "\\|").split())


def pages() -> dict[str, str]:
    """Every file of the folder."""
    return {"README.md": index(), NAMES: names()} | {f"{hook.name}.md": page(hook.name) for hook in hooks()}


def write() -> None:
    """Write the folder anew."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for old in PAGES.glob("*.md"):
        old.unlink()
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")


def _section(hook: Hook) -> str:
    module = "backend.api" if hook.process == "engine" else "webui.api"
    lines = [f"## In the {hook.process} process: {hook.kind}\n", f"{hook.summary}\n"]
    lines += [f"```python\nfrom {module} import hookimpl\n\n\n@hookimpl\n{hook.signature}: ...\n```\n"]
    lines += [f"{hook.rest}\n"] if hook.rest else []
    lines += [f"**When it fails.** {FAILURES[hook.process, hook.kind]}\n"]
    if told := [row for name in hook.types if (row := _type_row(name, hook.process))]:
        lines += ["| type | what it is | its fields |", "|---|---|---|", *told, ""]
    if "Patch" in hook.types:
        lines += [f"Each is one of {', '.join(f'`{name}`' for name in _patches())}: [what each does](names.md).\n"]
    lines += [f"**Used by** {', '.join(f'`{name}`' for name in users(hook)) or 'nothing that ships, yet'}.\n"]
    lines += [f"**Tried in** {', '.join(f'`{name}`' for name in trials(hook)) or 'no test'}.\n"]
    return "\n".join(lines)


def _signature(name: str, signature: inspect.Signature) -> str:
    whole = f"def {name}{signature}".replace("'", "")
    if len(whole) <= LONGEST:
        return whole
    inner = "".join(f"    {argument},\n" for argument in signature.parameters.values())
    return f"def {name}(\n{inner}) -> {signature.return_annotation}".replace("'", "")


def _type_row(name: str, process: str) -> str:
    kind = getattr(backend.api if process == "engine" else webui.api, name, None)
    if not inspect.isclass(kind) or not kind.__doc__:
        return ""
    first = " ".join(inspect.cleandoc(kind.__doc__).replace("``", "`").partition("\n\n")[0].split())
    where = Path(inspect.getfile(kind)).relative_to(ROOT).as_posix()
    return f"| `{name}` | {first.replace('|', chr(92) + '|')} | [{where}](../../../{where}) |"


def _patches() -> list[str]:
    """The kinds of patch that an extension may return, by name."""
    kinds = ((name, getattr(backend.api, name)) for name in backend.api.__all__)
    patch = backend.api.Patch
    return sorted(name for name, kind in kinds if inspect.isclass(kind) and issubclass(kind, patch) and kind != patch)


def _spec_names(specs: ModuleType) -> Iterator[str]:
    return (name for name, value in vars(specs).items() if hasattr(value, "easel_spec"))


@cache
def _implementations() -> tuple[tuple[str, str, str], ...]:
    """(extension, process, hook) of every function marked as a hook in what ships and in the ports."""
    found = []
    for folder in (ROOT / "extensions", ROOT / "tests" / "ports"):
        for path in sorted(folder.rglob("*.py")):
            relative = path.relative_to(folder)
            if len(relative.parts) < 2 or "tests" in relative.parts:
                continue
            text = path.read_text(encoding="utf-8")
            process = "web" if "webui.api" in text else "engine"
            owner = relative.parts[0] if folder.name == "extensions" else f"tests/ports/{relative.parts[0]}"
            found += [(owner, process, name) for name in _marked(text)]
    return tuple(found)


def _marked(text: str) -> Iterator[str]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and any("hookimpl" in ast.unparse(each) for each in node.decorator_list):
            yield node.name


@cache
def _test_files() -> tuple[Path, ...]:
    own = {ROOT / "tests" / "test_hook_pages.py"}
    places = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "extensions").glob("*/tests/test_*.py")]
    return tuple(sorted(set(places) - own))


def _is_of_web(path: Path, text: str) -> bool:
    return "webui.api" in text or "webui" in path.parts


if __name__ == "__main__":
    write()
