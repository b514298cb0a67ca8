"""Options that take a list and are given several times: every value counts, not only those of the last mention."""

from collections.abc import Collection, Sequence

from lora.errors import ConfigError


def gather_repeated(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the arguments with the values of each option of `names` behind its first mention.

    `--x a --y --x b` becomes `--x a b --y`; argparse would keep b alone, without a word.

    Raises:
        ConfigError: an option is repeated in the form `--x=a`, which takes one value.
    """
    groups: list[list[str]] = [[]]
    for word in arguments:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    first: dict[str, list[str]] = {}
    kept = groups[:1]
    for group in groups[1:]:
        name, equals, _ = group[0].partition("=")
        earlier = first.get(name)
        if name not in names or earlier is None:
            first[name] = group
            kept.append(group)
        elif equals or "=" in earlier[0]:
            raise ConfigError(f"{name}: given several times with '='; expected {name} A B. Write its values so.")
        else:
            earlier += group[1:]
    return [word for group in kept for word in group]
