"""Package metadata; everything about tools (ruff, mypy, pytest) is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# tensorflow-datasets runs without TensorFlow; it needs importlib_resources and does not say so. transformers needs
# jinja2 for chat templates, and leaves it to torch, which only the tests install.
REQUIRED = [
    "absl-py>=2.3",
    "array_record>=0.8.3",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "httpx2>=2.0",
    "huggingface_hub>=1.0",
    "importlib_resources>=6.0",
    "jax>=0.10.2",
    "jinja2>=3.1",
    "json_repair>=0.50",
    "matplotlib>=3.10",
    "ml_collections>=1.1.0",
    "numpy>=2.2",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pyarrow>=20.0",
    "rouge_score>=0.1.2",
    "safetensors>=0.8",
    "scipy>=1.15",
    "sentencepiece>=0.2.1",
    "sentencex>=1.0.32",
    "tensorflow-datasets>=4.9.10",
    "tqdm>=4.66",
    "transformers>=5.17",
]
# torch is the oracle of the parity tests, nothing more; this exact spelling of it resolves to the small CPU build
# where one is offered. nbclient and ipykernel execute the notebook. playwright drives an installed Chromium,
# where there is one, through the report.
TEST = [
    "hypothesis>=6.150",
    "ipykernel>=7.0",
    "mypy>=2.0",
    "nbclient>=0.11",
    "peft>=0.19",
    "playwright>=1.60",
    "pytest>=9.0",
    "pytest-xdist>=3.8",
    "pyyaml>=6.0",
    "rank_bm25>=0.2.2",
    "ruff>=0.17",
    "tensorboardX>=2.6",
    "torch==2.13.0",
]

readme = Path(__file__).parent / "README.md"

setup(
    name="memalpha_jax",
    version="0.1.0",
    description="Reinforcement learning of what a language model writes into its memory, in JAX",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["memalpha_jax", "memalpha_jax.*"]),
    package_data={
        "memalpha_jax": ["py.typed"],
        "memalpha_jax.methods": ["prompts/*.txt"],
        "memalpha_jax.report": ["page/*"],
        "memalpha_jax.tools": ["prompts/*.txt"],
        "memalpha_jax.rewards": ["prompts/*.txt"],
    },
    install_requires=REQUIRED,
    extras_require={"test": TEST, "gpu": ["jax[cuda13]>=0.10.2"], "tpu": ["jax[tpu]>=0.10.2"]},
)
