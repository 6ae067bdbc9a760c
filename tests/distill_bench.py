"""A student with its batches and criterions, as training by distillation makes them."""

from __future__ import annotations

from typing import Any

from loop import Lab, setup
from nano import write_data2vec, write_hubert, write_wav2vec2
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

#: Without what makes a training step random.
STEADY = (
    *("model.apply_mask=false", "model.layerdrop=0"),
    *(f"model.{name}dropout=0" for name in ("", "attention_", "activation_")),
)
FAMILIES = {
    "base": write_wav2vec2,
    "xlsr": lambda path: write_wav2vec2(
        path, layer_norm_first=True, extractor_mode="layer_norm", normalize=True
    ),
    "data2vec": write_data2vec,
    "hubert": write_hubert,
}


class Bench:
    """A student, batches of one to three utterances, and criterions, as training makes them."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.task = setup(cfg)
        self.task.load_dataset("train")
        dataset = self.task.dataset("train")
        self.batches = [
            dataset.collater([dataset[i] for i in some]) for some in ((0, 1), (2,), (3, 4, 5))
        ]
        self.model = self.task.build_model(self.cfg.model)
        self.model.set_num_updates(0)

    def criterion(self, name: str, **settings: Any) -> Any:
        cfg = OmegaConf.merge(self.cfg.criterion, {"_name": name, **settings})
        OmegaConf.set_struct(cfg, True)
        cfg.sentence_avg = self.cfg.optimization.sentence_avg
        return self.task.build_criterion(cfg)

    def gradients(self, criterion: nn.Module, batches: list[dict]) -> dict[str, Tensor]:
        """What the optimizer would get: summed gradients over the summed sample size."""
        both = nn.ModuleDict({"model": self.model, "criterion": criterion})
        both.zero_grad()
        total = 0
        for batch in batches:
            loss, sample_size, _ = criterion(self.model, batch)
            loss.backward()
            total += sample_size
        return {n: p.grad / total for n, p in both.named_parameters() if p.grad is not None}


def bench_of(lab: Lab, *overrides: str) -> Bench:
    steady = OmegaConf.from_dotlist([*STEADY, *overrides])
    return Bench(OmegaConf.merge(lab.compose("model._name=wav2vec_ctc"), steady))
