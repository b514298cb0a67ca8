"""Command lines from dataclasses: options, `--config FILE`, help with examples, exit codes.

A command is a frozen dataclass of options and a function. Precedence: default < config file < option.
Nothing here loads torch; a command's `run` imports its heavy runner inside the function.
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import signal
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

from lora import processes, signals, terminal
from lora.bounded import MAX_YAML_CHARACTERS, parse_yaml
from lora.errors import ConfigError, LoraError
from lora.scripts.option_types import as_declared, is_bool, item_type, metavar, replace_item, type_name
from lora.scripts.repeated import gather_repeated
from lora.scripts.system_errors import require_current_folder, system_errors

PROGRAM = "moonshine-lora"
EXIT_SUCCESS, EXIT_USER_INPUT, EXIT_OUTPUT_CLOSED = 0, 2, 141

Defaults = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Command:
    """One command: its options dataclass, what it does with them, and its help text.

    `options` may have a field of its own named `config` (a dataset's configuration, say); such a
    command has no `--config FILE`. `program` is how the command is called, `moonshine-lora NAME` unless given.
    `several_processes` tells that it works under `torchrun` and `accelerate launch`.
    """

    name: str
    options: type
    run: Callable[[Any], int | None]
    description: str
    examples: str
    program: str | None = None
    several_processes: bool = False

    @property
    def fields(self) -> dict[str, dataclasses.Field[Any]]:
        """Return the option fields by name, in the order of declaration."""
        return {field.name: field for field in dataclasses.fields(self.options) if field.init}

    @property
    def takes_config_file(self) -> bool:
        """Tell whether `--config FILE` means a YAML file of options here."""
        return "config" not in self.fields


def run_command(command: Command, argv: Sequence[str] | None = None) -> int:
    """Parse `argv`, run the command and return the process's exit code, as `answer` does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return answer(command.name, lambda: _execute(command, arguments))


def answer(name: str, work: Callable[[], int]) -> int:
    """Do the work of a command and return the process's exit code.

    The code is 0 on success, the error's own code for a `LoraError`, 2 for a wrong option, 130, 143 or 129 when
    ended by Ctrl-C, SIGTERM or SIGHUP, 1 for what the system refuses, 141 when nobody reads the output any more. Any
    other exception is a defect and keeps its traceback.
    """
    with terminal.guarded(), signals.handled():
        try:
            return _exit_code(name, work)
        except BaseException as error:
            stop = _as_stop(error)
            if stop is None:
                raise
            said = f": {stop.message}" if stop.message else ""
            _say(f"{signals.describe(stop.signal)}{said}")
            return stop.exit_code


def _as_stop(error: BaseException) -> signals.Stopped | None:
    """Return what ended the command if that was a signal; a library may have made another error of it."""
    if isinstance(error, signals.Stopped):
        return error
    number = signals.received() or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)
    return None if number is None else signals.Stopped(number)


def _exit_code(name: str, work: Callable[[], int]) -> int:
    try:
        with system_errors(name):
            code = work()
            sys.stdout.flush()  # a full disk or a closed pipe shows here at the latest
            return code
    except SystemExit as stop:  # --help, and nothing else: errors of parsing are LoraErrors
        return stop.code if isinstance(stop.code, int) else EXIT_SUCCESS
    except terminal.OutputClosedError:
        return EXIT_OUTPUT_CLOSED
    except LoraError as error:
        if signals.received():
            raise
        if processes.prints_errors():
            _say(f"error: {error}")
        processes.leave()
        return error.exit_code


def _execute(command: Command, arguments: Sequence[str]) -> int:
    require_current_folder()
    options = parse_options(command, arguments)
    if processes.launched() > 1 and not command.several_processes:
        raise ConfigError(
            f"{command.name}: {processes.launched()} processes were launched, and it runs in one. Start it without "
            "`torchrun` or `accelerate launch`; docs/distributed.md says what several devices can share."
        )
    code = command.run(options) or EXIT_SUCCESS
    processes.leave()
    return code


def _say(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(line, file=sys.stderr, flush=True)


def parse_options(command: Command, arguments: Sequence[str]) -> Any:
    """Return the command's options from defaults, the config file and the arguments.

    Raises:
        ConfigError: an option, key or value is wrong, or a required one is missing.
    """
    config_path = _find_config_path(command, arguments)
    from_file = {} if config_path is None else read_config_file(command, config_path)
    hints = option_types(command)
    lists = {_option_name(name) for name in hints if item_type(hints[name]) and not _is_positional(command, name)}
    parsed = build_parser(command, from_file).parse_args(gather_repeated(arguments, lists))
    return command.options(**{name: as_declared(hint, parsed[name]) for name, hint in hints.items()})


def build_parser(command: Command, defaults: Defaults | None = None) -> ArgumentParser:
    """Build the parser, with `defaults` (a config file's values) in place of the dataclass's own."""
    parser = _Parser(
        command,
        prog=command.program or f"{PROGRAM} {command.name}",
        description=command.description,
        epilog="examples:\n" + textwrap.indent(inspect.cleandoc(command.examples), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        default_env=False,
    )
    if command.takes_config_file:
        parser.add_argument(
            "--config", type=Path | None, default=None, metavar="FILE", help="YAML file of options; options given win"
        )
    hints = option_types(command)
    for name, field in command.fields.items():
        _add_field(parser, field, hints[name], defaults or {})
    return parser


def option_types(command: Command) -> dict[str, Any]:
    """Return the type of every option; one with `choices` has the Literal of them."""
    hints = typing.get_type_hints(command.options)
    for name, field in command.fields.items():
        choices = field.metadata.get("choices")
        if choices is not None:
            hints[name] = replace_item(hints[name], typing.Literal[tuple(choices)])
    return {name: hints[name] for name in command.fields}


def read_config_file(command: Command, path: Path) -> dict[str, Any]:
    """Read a YAML file of options for `command`, strictly.

    Relative paths in it are relative to the current directory, as on the command line.

    Raises:
        ConfigError: listing every unknown key, repeated key and wrong value at once.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: got {type(raw).__name__}, expected a mapping of option names to values.")
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in raw.items():
        if key not in command.fields:
            problems.append(f"unknown key {key!r}{_suggestion(str(key).replace('-', '_'), command.fields)}")
            continue
        try:
            values[key] = _check_value(command, key, value)
        except ConfigError as error:
            problems.append(error.message)
    if problems:
        raise ConfigError(f"{path}: not a config of '{command.name}'; correct these:", problems)
    return values


def read_yaml(path: Path) -> Any:
    """Read one YAML document as `lora.bounded.parse_yaml` does.

    Raises:
        ConfigError: the file is missing, is not text or is not YAML within the bounds.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_YAML_CHARACTERS + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file. Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}). Give a YAML file.") from error
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}. Correct the file.") from error


class _Parser(ArgumentParser):
    """A parser that raises ConfigError, with the nearest right name, where argparse would exit."""

    def __init__(self, command: Command, **arguments: Any) -> None:
        self.command = command
        super().__init__(**arguments)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigError(f"{self.prog}: {_explain(self.command, message)}. See '{self.prog} --help'.") from ex


def _find_config_path(command: Command, arguments: Sequence[str]) -> Path | None:
    if not command.takes_config_file:
        return None
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    try:
        return finder.parse_known_args(list(arguments))[0].config
    except argparse.ArgumentError as error:
        raise ConfigError(f"{PROGRAM} {command.name}: {error}.") from error


def _add_field(parser: ArgumentParser, field: dataclasses.Field[Any], hint: Any, defaults: Defaults) -> None:
    default = defaults.get(field.name, _default_of(field))
    required = default is dataclasses.MISSING
    positional = field.metadata.get("positional", False)
    kwargs: dict[str, Any] = {"help": _help_text(field, hint, default)}
    if not required:
        kwargs["default"] = list(default) if isinstance(default, tuple) else default
    if is_bool(hint):
        kwargs |= {"action": ActionYesNo(yes_prefix="", no_prefix="no-")}
    elif (item := item_type(hint)) is not None:
        kwargs |= {"type": item, "nargs": "+" if required or not positional else "*", "metavar": metavar(item)}
    else:
        kwargs |= {"type": hint, "metavar": metavar(hint)}
        if positional and not required:
            kwargs["nargs"] = "?"
    if positional:
        parser.add_argument(field.name, **kwargs | {"metavar": field.name.upper()})
    else:
        parser.add_argument(_option_name(field.name), required=required, **kwargs)


def _help_text(field: dataclasses.Field[Any], hint: Any, default: Any) -> str:
    text = str(field.metadata.get("help", ""))
    if default is dataclasses.MISSING:
        text += "" if field.metadata.get("positional") else " (required)"
    elif isinstance(default, list | tuple):
        text += f" (default: {' '.join(map(str, default))})" if default else ""
    elif default is not None:
        text += f" (default: {'yes' if default is True else 'no' if default is False else default})"
    return text.replace("%", "%%")


def _check_value(command: Command, name: str, value: Any) -> Any:
    """Check and convert one value of a config file by a parser that holds this option alone."""
    hint, field = option_types(command)[name], command.fields[name]
    wrong = ConfigError(f"{name}: got {value!r}, expected {type_name(hint)}")
    if value is None:
        # The lone parser below has None as its default and would take it.
        if type(None) in typing.get_args(hint):
            return None
        raise wrong
    if item_type(hint) is not None and not isinstance(value, list):
        if not field.metadata.get("allow_single"):
            raise wrong
        value = [value]
    parser = ArgumentParser(exit_on_error=False, add_help=False, default_env=False)
    _add_field(parser, field, hint, {name: None})
    try:
        return parser.parse_object({name: value})[name]
    except ArgumentError as error:
        raise wrong from error


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _is_positional(command: Command, name: str) -> bool:
    return bool(name in command.fields and command.fields[name].metadata.get("positional"))


def _option_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def _explain(command: Command, message: str) -> str:
    """Turn an argparse or jsonargparse message into one line in the words of the command line."""
    if message.lower().startswith("unrecognized arguments: "):
        names = [_option_name(name) for name in command.fields]
        words = message.split(": ", 1)[1].split()
        unknown = [word.split("=")[0] for word in words if word.startswith("-")] or words
        return "; ".join(f"unknown argument {word}{_suggestion(word.replace('_', '-'), names)}" for word in unknown)
    found = re.match(r'Parser key "(\w+)"', message)
    if found and found[1] in command.fields:
        hint = option_types(command)[found[1]]
        got = re.findall(r"(?:Got|Given) value: (.*)", message)
        shown = repr(got[-1]) if got else "a wrong value"
        return f"{_option_name(found[1])}: got {shown}, expected {type_name(item_type(hint) or hint)}"
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        names = [name if _is_positional(command, name) else _option_name(name) for name in missing[1].split(", ")]
        return f"missing {', '.join(names)}"
    return _one_line(message).rstrip(".")


def _suggestion(word: str, names: Iterable[str]) -> str:
    known = list(names)
    nearest = [name for name in known if name.startswith(word)] or difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
