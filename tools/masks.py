"""`speechprune masks`: look at the masks of finetuned checkpoints, move and compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import click

from speechprune.figures import check_figure_path
from speechprune.files import refuse_to_replace
from speechprune.masking.baselines import MAKERS
from speechprune.reports.masks import MEASURES, Comparison, describe, describe_in_words, short_names
from speechprune.tools._options import SEED, Number, whole_number

_PATH = click.Path(path_type=Path)


@click.group("masks")
def command() -> None:
    """Make, inspect, export, apply, compare and fold masks."""


@command.command()
@click.argument("checkpoint", type=_PATH)
@click.argument("out", type=_PATH)
@click.option(
    "--by",
    required=True,
    type=click.Choice(list(MAKERS)),
    help="What is kept: the largest weights of each tensor, or of all tensors together (global), "
    "of CHECKPOINT or of a randomly initialised model like it (random).",
)
@click.option(
    "--sparsity", required=True, type=Number(), help="Share of the weights to remove, in [0, 1)."
)
@click.option("--biases/--no-biases", default=True, help="Mask biases too, as PARP does.")
@click.option("--fix-attn", is_flag=True, help="Leave attention projections without masks.")
@click.option("--fix-fc", is_flag=True, help="Leave feed-forward weights without masks.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the random weights.")
def make(
    checkpoint: Path,
    out: Path,
    by: str,
    sparsity: float,
    biases: bool,
    fix_attn: bool,
    fix_fc: bool,
    seed: int,
) -> None:
    """Make a mask for CHECKPOINT, pretrained or finetuned, and write it to OUT.

    The baselines of pruning: MPI is global-magnitude of pretrained weights, OMP of finetuned ones,
    RP is global-random. Train them with model._name=wav2vec_ctc_masked model.mask_file=OUT, of text
    with model._name=roberta_masked.
    """
    from speechprune.models.mask_flags import MaskFlags, masked_roles
    from speechprune.rewriting.baseline_masks import Ranking

    refuse_to_replace(out, checkpoint)
    flags = MaskFlags(fix_attn=fix_attn, fix_fc=fix_fc, no_prune_post_extract_proj=True)
    ranking = Ranking(checkpoint, by, roles=masked_roles(flags), biases=biases, seed=seed)
    mask_set = ranking.masks(sparsity)
    mask_set.save(out)
    click.echo(f"{out}: {len(mask_set)} masks, density {mask_set.density:.4f}")


@command.command()
@click.argument("masks", metavar="MASKS", type=_PATH)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table, with every site."
)
def stats(masks: Path, as_json: bool) -> None:
    """Show densities, size and provenance of MASKS, a mask file or a checkpoint."""
    from speechprune.models.mask_reading import read_mask_set

    mask_set = read_mask_set(masks)
    click.echo(json.dumps(describe(mask_set)) if as_json else describe_in_words(mask_set))


@command.command()
@click.argument("checkpoint", type=_PATH)
@click.argument("out", type=_PATH)
def export(checkpoint: Path, out: Path) -> None:
    """Write the masks of CHECKPOINT to OUT, a safetensors file of one bit per weight."""
    from speechprune.models.mask_reading import read_checkpoint_masks

    refuse_to_replace(out, checkpoint)
    mask_set = read_checkpoint_masks(checkpoint)
    mask_set.save(out)
    click.echo(f"{out}: {len(mask_set)} masks, density {mask_set.density:.4f}")


@command.command()
@click.argument("checkpoint", type=_PATH)
@click.argument("masks", metavar="MASKS", type=_PATH)
@click.argument("out", type=_PATH)
def apply(checkpoint: Path, masks: Path, out: Path) -> None:
    """Put MASKS, a mask file or a checkpoint, on CHECKPOINT and write OUT.

    CHECKPOINT is a finetuned model, with masks or without. OUT has no scores: to finetune it
    further with these masks, set model.fix_mask=true.
    """
    from speechprune.models.mask_reading import read_mask_set
    from speechprune.rewriting.masks import apply_masks

    refuse_to_replace(out, checkpoint, masks)
    mask_set = read_mask_set(masks)
    apply_masks(checkpoint, mask_set, out)
    click.echo(f"{out}: {len(mask_set)} masks, density {mask_set.density:.4f}")


@command.command()
@click.argument("masks", metavar="MASKS MASKS...", nargs=-1, type=_PATH)
@click.option(
    "--heat-map",
    type=_PATH,
    metavar="FILE",
    help="Heat map of all pairs to draw: .png, .pdf or .svg.",
)
@click.option(
    "--measure",
    type=click.Choice(list(MEASURES)),
    default="iou",
    help="Overlap that the heat map shows.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def compare(masks: tuple[Path, ...], heat_map: Optional[Path], measure: str, as_json: bool) -> None:
    """Compare two or more MASKS, mask files or checkpoints of one model.

    IOU is kept in both / kept in either, and cosine that of the masks as vectors of 0 and 1. Beside
    each stands what random masks of the same densities would give.
    """
    from speechprune.models.mask_reading import read_mask_set

    if len(masks) < 2:
        raise click.UsageError("Give at least two mask files or checkpoints.")
    if heat_map is not None:
        refuse_to_replace(heat_map, *masks)
        check_figure_path(heat_map)
    comparison = Comparison.of(short_names(masks), [read_mask_set(path) for path in masks])
    if heat_map is not None:
        comparison.draw(heat_map, measure)
    click.echo(json.dumps(comparison.describe()) if as_json else comparison.describe_in_words())


@command.command()
@click.argument("checkpoints", metavar="CKPT CKPT...", nargs=-1, type=_PATH)
@click.option(
    "--by",
    type=click.Choice(list(MAKERS)),
    help="How masks are made, as in `make`; by default global-magnitude. With random weights, each "
    "CKPT gets other ones.",
)
@click.option(
    "--sparsity",
    "sparsities",
    multiple=True,
    type=Number(),
    help="Share of the weights to remove, in [0, 1); repeatable, by default 0.1, 0.3, ... 0.9.",
)
@click.option(
    "--biases/--no-biases", default=None, help="Mask biases too, which is the default, or not."
)
@click.option("--own", is_flag=True, help="Compare the masks that CKPTs hold, and make none.")
@click.option(
    "--figure",
    type=_PATH,
    metavar="FILE",
    help="Figure of IOU against sparsity to draw: .png, .pdf or .svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def iou(
    checkpoints: tuple[Path, ...],
    by: Optional[str],
    sparsities: tuple[float, ...],
    biases: Optional[bool],
    own: bool,
    figure: Optional[Path],
    as_json: bool,
) -> None:
    """Compare masks of several checkpoints, at one sparsity after another.

    At each sparsity a mask is made of the weights of each CKPT, two or more checkpoints of one
    architecture, and all pairs are compared. With --own, CKPTs are mask files or checkpoints with
    masks, and those of equal density (within 0.5 %) are compared.

    IOU is kept in both / kept in either. "By chance" is the IOU of random masks that keep as much
    of each tensor, and d/(2-d) that of random masks that keep the density d of all tensors alike.
    Below the sparsity that a CKPT has already, the mask made of it is arbitrary among its zeros.
    """
    from speechprune.models.mask_reading import read_mask_set
    from speechprune.reports.mask_sweep import group, sweep

    if own and (by is not None or sparsities or biases is not None):
        raise click.UsageError("--own makes no masks: leave out --by, --sparsity and --biases.")
    if figure is not None:
        refuse_to_replace(figure, *checkpoints)
        check_figure_path(figure)
    if own:
        found = group(short_names(checkpoints), [read_mask_set(path) for path in checkpoints])
    else:
        found = sweep(
            checkpoints,
            sparsities or (0.1, 0.3, 0.5, 0.7, 0.9),
            by=by or "global-magnitude",
            biases=biases is not False,
        )
    if figure is not None:
        found.draw(figure)
    click.echo(json.dumps(found.describe()) if as_json else found.describe_in_words())


@command.command()
@click.argument("masks", metavar="MASKS...", nargs=-1, type=_PATH)
@click.option(
    "--languages",
    required=True,
    metavar="CODES",
    help="The language of each of MASKS, such as es,fr,fr: the same order, separated by commas. "
    "CODE:NUMBER chooses one of several inventories of PHOIBLE.",
)
@click.option(
    "--inventories",
    type=_PATH,
    metavar="FILE",
    help="Phonemes of further languages: JSON of lists by language, a CSV or TSV with the columns "
    "language and phoneme, or PHOIBLE's phoible.csv.",
)
@click.option(
    "--figure",
    type=_PATH,
    metavar="FILE",
    help="Figure of all pairs of languages to draw: .png, .pdf or .svg.",
)
@click.option(
    "--dendrogram",
    type=_PATH,
    metavar="FILE",
    help="Tree of the masks to draw: .png, .pdf or .svg.",
)
@click.option(
    "--permutations",
    type=whole_number(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="Orders of the languages to test by: all if there are no more, else random ones.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of random orders.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def phonetics(
    masks: tuple[Path, ...],
    languages: str,
    inventories: Optional[Path],
    figure: Optional[Path],
    dendrogram: Optional[Path],
    permutations: int,
    seed: int,
    as_json: bool,
) -> None:
    """Ask whether languages with alike phonemes have alike MASKS.

    MASKS are mask files or checkpoints of one model, two or more. Several of one language, such as
    those of several seeds, are averaged over and are compared with each other apart: that is the
    most that two languages can be expected to reach.

    The cosine of masks stands beside what random masks of the same densities would have, and
    beside the cosine of the languages' phoneme inventories. Of four languages or more the two
    are correlated over all pairs, for all masks, each layer and each kind of tensor, with a p-value
    from a Mantel test, which permutes the languages.

    The phonemes of en, es, fr, it, ky, nl, ru, sv, tr, tt and zh come along, from PHOIBLE
    (phoible.org, CC BY-SA 3.0).
    """
    from speechprune.models.mask_reading import read_mask_set
    from speechprune.reports.phonemes import Inventories
    from speechprune.reports.phonetics import Phonetics, refuse_repeated

    codes = [code.strip() for code in languages.split(",")]
    if len(masks) < 2:
        raise click.UsageError("Give at least two mask files or checkpoints.")
    if len(codes) != len(masks):
        raise click.UsageError(
            f"--languages names {len(codes)} for {len(masks)} masks: give one to each."
        )
    refuse_repeated(masks)
    written: list[Path] = []
    for path in filter(None, (figure, dendrogram)):
        refuse_to_replace(path, *masks, *filter(None, [inventories]), *written)
        check_figure_path(path)
        written.append(path)
    known = Inventories.with_file(inventories) if inventories else Inventories.built_in()
    spoken = [known.find(code) for code in codes]
    mask_sets = [read_mask_set(path) for path in masks]
    found = Phonetics.of(
        short_names(masks), mask_sets, spoken, permutations=permutations, seed=seed
    )
    if figure is not None:
        found.draw(figure)
    if dendrogram is not None:
        found.draw_dendrogram(dendrogram)
    click.echo(json.dumps(found.describe()) if as_json else found.describe_in_words())


@command.command()
@click.argument("checkpoint", type=_PATH)
@click.argument("out", type=_PATH)
@click.option(
    "--layout",
    type=click.Choice(["wav2vec2", "hubert"]),
    default="wav2vec2",
    show_default=True,
    help="Layout of a HuBERT encoder: that of wav2vec 2.0, which every fairseq loads, or HuBERT's "
    "own, which fairseq 0.12.2 loads.",
)
def fold(checkpoint: Path, out: Path, layout: str) -> None:
    """Bake the masks of CHECKPOINT in: plain fairseq loads OUT, with equal logits.

    Of HuBERT in the layout of wav2vec 2.0 they are equal without padding: in a padded batch the two
    families count an utterance's frames in different ways, which may differ by one.

    The alphabet, dict.LABELS.txt, is written beside OUT: one folder is for one alphabet.
    """
    from speechprune.rewriting.folding import fold as fold_masks

    click.echo(f"{out}: a plain {fold_masks(checkpoint, out, layout=layout)} checkpoint")
