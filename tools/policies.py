"""`speechprune policies`: the mask policies and their options."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
def command(as_json: bool) -> None:
    """List the mask policies, what each keeps, and its options with their defaults.

    A policy is chosen with model._name=wav2vec_ctc_policy model.policy=NAME, and its options are
    set with 'model.policy_options={OPTION:VALUE}', in quotes.
    """
    from speechprune.reports.policies import describe, describe_in_words

    click.echo(json.dumps(describe(), indent=2) if as_json else describe_in_words())
