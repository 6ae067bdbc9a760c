"""`speechprune train`: fairseq-hydra-train with checked input, processes on a CPU and a result."""

from __future__ import annotations

import click

_EPILOG = """\b
Examples:
  speechprune train --config-name base_1h task.data=DIR model.w2v_path=wav2vec_small.pt
  speechprune train --config-name base_1h ... -m optimization.lr=[1e-5],[5e-5]
  speechprune train --config-name base_1h --cfg job
"""


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OVERRIDE|OPTION]...")
def command(arguments: tuple[str, ...]) -> None:
    """Finetune a model: ARGUMENTS are fairseq-hydra-train's, overrides and options in any order.

    common.user_dir and --config-dir are filled in. On a machine without GPUs, the processes of
    distributed_training.distributed_world_size are started here.
    """
    from speechprune.training.launch import train

    train(arguments)
