"""YAML that cannot do harm: values alone, without aliases, of which a few can stand for more than the memory holds."""

from __future__ import annotations

from typing import Any

MOST_BYTES = 1 << 20
DEEPEST = 32


def parse_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        ValueError: It is damaged, larger than 1 MiB, nested deeper than `DEEPEST`, or has aliases or objects of Python.
    """
    import yaml  # type: ignore[import-untyped,unused-ignore]

    if len(text) > MOST_BYTES:
        raise ValueError(f"found more than {MOST_BYTES >> 20} MiB")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"brackets inside brackets, more than {DEEPEST} deep")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"found the alias *{event.anchor[:40]}")
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
