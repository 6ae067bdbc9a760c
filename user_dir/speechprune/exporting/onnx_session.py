"""An ONNX file that speechprune exported, run by onnxruntime on the CPU; without PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speechprune.errors import UserError
from speechprune.exporting.onnx_description import KEY, Description
from speechprune.exporting.onnx_packages import onnx_package
from speechprune.files import kind_of

_FLOATS, _INTEGERS = "tensor(float)", "tensor(int64)"
#: onnxruntime tells what it thinks of a file on stderr, unless it is worse than this: "fatal".
_SILENT = 4


def is_onnx(path: str | Path) -> bool:
    """Whether a file is one of ONNX, or is called so."""
    return Path(path).suffix == ".onnx" or kind_of(Path(path)) == "ONNX"


class OnnxSession:
    """A file that is ready to run.

    Args:
        path: of the file.
        threads: that one operator may use; None for as many as there are cores.

    Attributes:
        description: what the file says of itself.

    Raises UserError if onnxruntime is missing, the file cannot be read, was not exported by
    speechprune, or has other inputs and outputs than it says.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path} is not a file" if self.path.exists() else f"{path} is missing")
        runtime = onnx_package("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads or 0
        # Threads that wait in a loop would take time from whoever works meanwhile.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Weights that are stored in 8 bits are widened once, and not for each batch.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
        # Of many classes of its own, and of C++.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is not an ONNX file that can be run: {reason}") from error
        self.description = Description.decode(metadata.get(KEY), path)
        self._check()

    def _check(self) -> None:
        names = self.description.names
        expected = {names.audio: (_FLOATS, 2), names.scores: (_FLOATS, 3)}
        for name in (names.lengths, names.frames):
            if name is not None:
                expected[name] = (_INTEGERS, 1)
        listed = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = {each.name: (each.type, len(each.shape)) for each in listed}
        if found != expected or len(listed) != len(expected):
            raise UserError(
                f"{self.path} is damaged: its inputs and outputs are not those of the layout "
                f"{names.name}"
            )

    def frame_count(self, samples: int) -> int:
        """T, the frames of a recording of so many samples; 0 if it is too short."""
        return self.description.costs.frame_counts(samples)[-1]

    def run(self, audio: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Scores of symbols.

        A file that takes no padding is given each recording by itself.

        Args:
            audio: float32 (B, samples), zero where padded; normalised if the file wants that.
            lengths: samples of each recording, int64 (B,), at least one of them of a frame.

        Returns:
            float32 (B, T, symbols); frames beyond a recording's own are of no meaning.

        Raises:
            UserError: the file cannot be run, or gives something else.
        """
        names = self.description.names
        if names.lengths is not None:
            return self._checked({names.audio: audio, names.lengths: lengths})
        frames = self.frame_count(audio.shape[1])
        scores = np.zeros((len(audio), frames, len(self.description.symbols)), np.float32)
        for index, length in enumerate(lengths.tolist()):
            if own := self.frame_count(length):
                alone = np.ascontiguousarray(audio[index : index + 1, :length])
                scores[index, :own] = self._checked({names.audio: alone})[0]
        return scores

    def _checked(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        names = self.description.names
        audio = inputs[names.audio]
        try:
            found: np.ndarray = self._session.run([names.scores], inputs)[0]
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.path} cannot be run: {reason}") from error
        frames = self.frame_count(audio.shape[1])
        shape = (len(audio), frames, len(self.description.symbols))
        if found.shape != shape:
            raise UserError(
                f"{self.path} is damaged: it gives scores of shape {found.shape}, not {shape}"
            )
        return found
