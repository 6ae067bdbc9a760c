"""The registered mask policies: what each keeps, and what its user may set."""

from __future__ import annotations

import inspect
from typing import Any

from speechprune.masking.policies import POLICIES
from speechprune.registry import Option


def describe() -> list[dict[str, Any]]:
    """Each policy by name: a sentence on it, what it does to weights, and its options."""
    return [_describe(name) for name in POLICIES.names()]


def describe_in_words() -> str:
    """The same as text, with a line for each policy and one for each of its options."""
    policies = describe()
    width = max(len(policy["name"]) for policy in policies)
    given = {_given(option) for policy in policies for option in policy["options"]}
    longest = max(map(len, given), default=0)
    lines = []
    for policy in policies:
        lines.append(f"{policy['name']:<{width}}  {policy['summary']} {_of_weights(policy)}")
        for option in policy["options"]:
            help_text = f"{option['help']} [{option['values']}]"
            lines.append(f"    {_given(option):<{longest}}  {help_text}")
    return "\n".join(lines)


def _describe(name: str) -> dict[str, Any]:
    policy = POLICIES.get(name)
    summary = (inspect.getdoc(policy) or "").partition("\n\n")[0]
    return {
        "name": name,
        "summary": " ".join(summary.split()),
        "trains_weights": policy.trains_weights,
        "needs_trained_weights": policy.needs_trained_weights,
        "options": [_option(option) for option in POLICIES.options(name)],
    }


def _option(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "values": option.values,
        "required": option.required,
        "default": None if option.required else option.default,
        "help": option.help,
    }


def _of_weights(policy: dict[str, Any]) -> str:
    """What training does to the weights under the masks, unless the run says otherwise."""
    if policy["needs_trained_weights"]:
        return "Weights are trained."
    usual = "trained" if policy["trains_weights"] else "frozen"
    return f"Weights are {usual}, unless the run says otherwise."


def _given(option: dict[str, Any]) -> str:
    """An option with its default, as a command line gives it."""
    value = "..." if option["required"] else option["default"]
    return f"{option['name']}={str(value).lower() if isinstance(value, bool) else value}"
