"""Refuse a task that would show a secret: script/lint runs it over every role and playbook.

What is secret is not guessed by its name. It begins with the vault's variables, the options that an argument spec
marks no_log, the config vars of apps, and what a task under no_log registers; and goes on with every variable whose
expression has something secret in it. Such a value may be a module's argument that its argument_spec marks no_log, the
content of a config_files entry marked secret, or stand under no_log. It may be nowhere on a command line, in no task's
environment (which Ansible puts onto one), and in no loop whose items are shown.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, TemplateSyntaxError, nodes

SEEDS = {"apps": "config vars", "config_vars": "config vars"}
# Of what is made of an app by filter site_apps, these hold what its owner wrote in confidence.
CLOSED = {"config", "source"}
# Filters whose result holds nothing of what they were given but names and numbers.
CLEAN_FILTERS = {"count", "length", "memory_budget", "bool", "int"}
COMMANDS = {"command", "shell", "raw", "script", "expect"}
# What a task says besides its action.
KEYWORDS = {
    *("name", "when", "loop", "loop_control", "register", "notify", "tags", "vars", "environment", "no_log", "become"),
    *("become_user", "delegate_to", "delegate_facts", "run_once", "until", "retries", "delay", "changed_when", "diff"),
    *("failed_when", "any_errors_fatal", "ignore_errors", "ignore_unreachable", "check_mode", "args", "async", "poll"),
    *("throttle", "timeout", "listen", "connection", "remote_user", "port", "debugger", "module_defaults"),
}
BLOCKS = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers")
INCLUDES = ("include_role", "import_role", "include_tasks", "import_tasks", "include_vars", "import_playbook")


class Lines(yaml.SafeLoader):
    """Reads YAML and remembers the line of each mapping."""


class Mapped(dict):
    line = 0


def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Mapped:
    found = Mapped(loader.construct_mapping(node, deep=True))
    found.line = node.start_mark.line + 1
    return found


Lines.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
Lines.add_multi_constructor("!", lambda _loader, _suffix, node: getattr(node, "value", None))


def read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    # Lines is a SafeLoader, which S506 does not see.
    return None if text.startswith("$ANSIBLE_VAULT") else yaml.load(text, Lines)  # noqa: S506


# It only parses, and nothing is rendered.
JINJA = Environment(autoescape=True)


def parsed(text: str) -> nodes.Template | None:
    try:
        return JINJA.parse(text)
    except TemplateSyntaxError:
        return None


class Flow:
    """Which variables hold something secret."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secret = dict(SEEDS)
        self.public = self._public_keys() | {"name", "login"}
        self.plays = [root / "site.yml", *sorted((root / "playbooks").rglob("*.yml"))]
        self.tasks = [path for part in ("tasks", "handlers") for path in sorted(root.glob(f"roles/*/{part}/*.yml"))]
        self.values = [path for part in ("vars", "defaults") for path in sorted(root.glob(f"roles/*/{part}/*.yml"))]
        self.values += [path for part in ("group_vars", "inventory") for path in sorted((root / part).rglob("*.yml"))]
        self.documents = {path: read(path) for path in [*self.plays, *self.tasks, *self.values] if path.exists()}
        self.specs = {path.stem: spec for path in root.glob("library/*.py") if (spec := module_spec(path)) is not None}
        self.own = {path.stem for path in root.glob("library/*.py")}
        self._begin()
        self._spread()

    def _public_keys(self) -> set[str]:
        sys.path.append(str(self.root / "filter_plugins"))
        from site_apps import site_apps

        return set(site_apps([{"name": "shop", "source": "-"}])[0]) - CLOSED

    def _begin(self) -> None:
        for path in sorted(self.root.glob("roles/*/meta/argument_specs.yml")):
            for entry in read(path)["argument_specs"].values():
                for name, option in (entry.get("options") or {}).items():
                    if option.get("no_log"):
                        self.secret[name] = "no_log in its argument spec"

    def _spread(self) -> None:
        """Go on until no further variable is found to hold something secret."""
        while True:
            before = len(self.secret)
            for path, document in self.documents.items():
                if path in self.values and isinstance(document, dict):
                    self._take(document)
                for task, hidden in tasks_of(document):
                    self._take(task.get("vars") or {})
                    if hidden and task.get("register"):
                        self.secret.setdefault(task["register"], "registered under no_log")
                    variable = (task.get("loop_control") or {}).get("loop_var", "item")
                    # "item" is of each loop another; it is looked at where it stands.
                    if variable != "item" and self.why(task.get("loop")):
                        self.secret.setdefault(variable, self.why(task.get("loop")))
            if len(self.secret) == before:
                return

    def _take(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in self.secret and (cause := self.why(value)):
                self.secret[name] = cause

    def why(self, value: Any, local: Mapping[str, str] | None = None) -> str:
        """Return what is secret in a value, or nothing."""
        if isinstance(value, Mapping):
            # The content of a file is judged with its entry.
            parts: Any = [
                part for key, part in value.items() if not (is_entry(value) and key in ("content", "template"))
            ]
        elif isinstance(value, list):
            parts = value
        else:
            template = parsed(value) if isinstance(value, str) and "{" in value else None
            return self._statements(template.body, dict(local or {})) if template else ""
        return next(filter(None, (self.why(part, local) for part in parts)), "")

    def _statements(self, body: list[nodes.Node], local: dict[str, str]) -> str:
        for node in body:
            if isinstance(node, nodes.Output):
                cause = next(filter(None, (self._cause(part, local) for part in node.nodes)), "")
            elif isinstance(node, nodes.For):
                inside = dict(local)
                names = [node.target] if isinstance(node.target, nodes.Name) else node.target.find_all(nodes.Name)
                for name in names:
                    inside[name.name] = self._cause(node.iter, local)
                cause = self._statements([*node.body, *node.else_], inside)
            elif isinstance(node, nodes.If):
                cause = self._statements([*node.body, *node.elif_, *node.else_], local)
            elif isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
                local[node.target.name], cause = self._cause(node.node, local), ""
            else:
                cause = self._statements(getattr(node, "body", []), local)
            if cause:
                return cause
        return ""

    def _cause(self, node: nodes.Node | None, local: Mapping[str, str]) -> str:
        if node is None or isinstance(node, nodes.Const | nodes.TemplateData | nodes.Compare | nodes.Test | nodes.Not):
            return ""
        if isinstance(node, nodes.Name):
            return local.get(node.name, "") if node.name in local else self._of_name(node.name)
        if isinstance(node, nodes.Getattr):
            return "" if node.attr in self.public else self._cause(node.node, local)
        if isinstance(node, nodes.Getitem):
            public = isinstance(node.arg, nodes.Const) and node.arg.value in self.public
            return "" if public else self._cause(node.node, local)
        if isinstance(node, nodes.CondExpr):
            return self._cause(node.expr1, local) or self._cause(node.expr2, local)
        if isinstance(node, nodes.Filter) and self._cleans(node):
            return ""
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "lookup":
            return self._of_lookup(node)
        return next(filter(None, (self._cause(child, local) for child in node.iter_child_nodes())), "")

    def _of_name(self, name: str) -> str:
        if name.startswith("vault_"):
            return name
        return name if name in self.secret else ""

    def _of_lookup(self, node: nodes.Call) -> str:
        words = [part.value if isinstance(part, nodes.Const) else "" for part in node.args]
        return self.why_template(words[1]) if words[0].endswith("template") and words[1:] else ""

    def _cleans(self, node: nodes.Filter) -> bool:
        if node.name in CLEAN_FILTERS:
            return True
        named = {keyword.key: keyword.value for keyword in node.kwargs}
        if node.name == "map" and "attribute" in named:
            return getattr(named["attribute"], "value", None) in self.public
        if node.name.endswith("keep_keys") and isinstance(named.get("target"), nodes.List):
            return all(getattr(item, "value", None) in self.public for item in named["target"].items)
        return False

    def why_template(self, name: str) -> str:
        for path in self.root.glob(f"roles/*/templates/{name}"):
            if cause := self.why(path.read_text(encoding="utf-8")):
                return cause
        return ""


def module_spec(path: Path) -> dict[str, bool] | None:
    """Return of each argument of a module of ours whether it is marked no_log; nothing where no part is a server's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "argument_spec" and isinstance(node.value, ast.Dict):
            return {
                key.value: any(
                    isinstance(option, ast.Constant) and option.value == "no_log" for option in ast.walk(spec)
                )
                and '"no_log": True' in ast.unparse(spec).replace("'", '"')
                for key, spec in zip(node.value.keys, node.value.values, strict=True)
            }
    return None


def is_entry(value: Any) -> bool:
    """Tell whether this is a file as module config_files takes it."""
    return isinstance(value, Mapping) and "path" in value and ("content" in value or "template" in value)


def tasks_of(document: Any, hidden: bool = False) -> Iterator[tuple[Mapped, bool]]:
    """Return every task, block and play, with whether it stands under no_log."""
    for item in document if isinstance(document, list) else []:
        if isinstance(item, Mapped):
            under = hidden or item.get("no_log") is True
            yield item, under
            for part in BLOCKS:
                yield from tasks_of(item.get(part), under)


def entries_of(value: Any) -> Iterator[Mapped]:
    if is_entry(value):
        yield value
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for child in children:
        yield from entries_of(child)


def action_of(task: Mapping[str, Any]) -> tuple[str, Any]:
    found = [key for key in task if key not in KEYWORDS and key not in BLOCKS and not key.startswith("with_")]
    return (found[0], task[found[0]]) if found and "hosts" not in task else ("", None)


def task_problems(flow: Flow, task: Mapped, hidden: bool) -> Iterator[str]:
    name, arguments = action_of(task)
    short = name.rpartition(".")[2]
    in_loop = flow.why(task.get("loop") or next((task[key] for key in task if key.startswith("with_")), None))
    local = {(task.get("loop_control") or {}).get("loop_var", "item"): in_loop}
    if cause := flow.why(task.get("environment"), local):
        yield f"{cause} is in the task's environment, which is on a command line of the server and of ssh"
    if short in INCLUDES:
        return
    if short in COMMANDS and (cause := flow.why(without_stdin(arguments), local)):
        yield f"{cause} is on a command line, which every user of the server can read"
    if hidden:
        return
    if in_loop:
        yield f"{in_loop} is in the items of a loop, which are shown: loop over names, or add no_log: true"
    yield from shown_arguments(flow, name, arguments, local)


def without_stdin(arguments: Any) -> Any:
    return {key: arguments[key] for key in arguments if key != "stdin"} if isinstance(arguments, Mapping) else arguments


def shown_arguments(flow: Flow, name: str, arguments: Any, local: Mapping[str, str]) -> Iterator[str]:
    given = arguments if isinstance(arguments, Mapping) else {"": arguments}
    if name.endswith("template") and (cause := flow.why_template(str(given.get("src")))):
        yield f"{cause} is in the template, and with --diff in the output: add no_log: true"
    spec = flow.specs.get(name, {}) if name in flow.own else dict.fromkeys(given, False)
    for key, value in given.items():
        # What a module's other half, on the controller, keeps for itself is not shown. The files have their own rule.
        kept = key not in spec or spec[key] or (name == "config_files" and isinstance(value, str))
        if not kept and (cause := flow.why(value, local)):
            yield f"{cause} is in the argument {key} of {name}, which -vvv shows: add no_log: true"


def problems(root: Path) -> Iterator[str]:
    """Return what would show a secret, by file and line."""
    flow = Flow(root)
    for path, document in flow.documents.items():
        where = path.relative_to(root)
        for task, hidden in tasks_of(document):
            yield from (f"{where}:{task.line}: {text}" for text in task_problems(flow, task, hidden))
        for entry in entries_of(document):
            content = entry.get("content")
            cause = flow.why(content) or (flow.why_template(entry["template"]) if "template" in entry else "")
            if cause and not entry.get("secret"):
                yield f"{where}:{entry.line}: {cause} is in {entry['path']}, and --diff shows it: add secret: true"


def main() -> None:
    found = list(problems(Path(sys.argv[1] if sys.argv[1:] else ".").resolve()))
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
